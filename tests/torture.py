"""Runs that are killed again and again, checkpoints with a flipped byte, disks that are full: minutes to an hour, by hand.

    python tests/torture.py kills --train 15 --two 20
    python tests/torture.py bytes --flips 1000
    python tests/torture.py places

`kills`: kill -9 at random moments, and gone on with by the documented command, until so many kills are done; what is there in
the end has to be, to the bit, what an undisturbed run of that kind leaves. `bytes`: one flipped byte in a checkpoint each time;
what is read has to be right. `places`: a full disk, a home that cannot be written, a run directory that vanishes (needs root,
to mount). Prints a line for each; exit code 1 if anything was wrong. Sweeps have `tests/torture_sweep.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = """
name: small
problem: {kind: quadratic, dimension: 5}
optimizer: {kind: lstm, layers: 1, hidden: 4}
train:
  episodes: 400
  tasks: 4
  horizon: 20
  estimator: {kind: auto, window: 5}
  validate_every: 10
  validation_seeds: 3
  checkpoint_seconds: 0.5
eval: {steps: 20, seeds: 3, tuning_seeds: 2, baselines: [sgd], report: false}
"""
FILES = ("optimizer.npz", "metrics.jsonl", "curves/small.csv")
BOUND = 60.0  # seconds within which all of a run has to end once one of it was killed


def l2l(*words):
    return [sys.executable, "-m", "l2lcli", *map(str, words)]


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Train:
    """One process."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "small.yaml").write_text(CONFIG)

    def commands(self):
        run = self.folder / "run"
        if (run / "config.yaml").is_file():
            return [l2l("train", "--resume", "run")]
        return [l2l("train", "small.yaml", "--run-dir", "run")]

    def done(self):
        status = self.folder / "run/status.json"
        return status.is_file() and '"done"' in status.read_text()

    def content(self):
        return {name: (self.folder / "run" / name).read_bytes() for name in FILES}


class Two(Train):
    """Two processes with two devices each."""

    def commands(self):
        together = ["--coordinator", f"127.0.0.1:{port()}", "--num-processes", 2, "--peer-timeout", 10, "--devices", 4]
        [words] = super().commands()
        return [[*words, *map(str, [*together, "--process-id", i])] for i in range(2)]


def family(pid):
    """A process and all below it."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{each}/task"):
                found += map(int, Path(f"/proc/{each}/task/{task}/children").read_text().split())
    return found


def start(kind, number):
    logs = [open(kind.folder / f"log-{number}-{i}", "w") for i in range(2)]  # noqa: SIM115  they outlive this function
    return [
        subprocess.Popen(words, cwd=kind.folder, stdout=log, stderr=log, start_new_session=True)
        for words, log in zip(kind.commands(), logs, strict=False)
    ]


def kills(make, count, draw, base):
    """So many kills of one kind; what went wrong."""
    contents = []
    for _ in range(2):  # the first one compiles what the others read from the cache
        undisturbed = make(Path(tempfile.mkdtemp(dir=base)))
        began = time.monotonic()
        for process in start(undisturbed, 0):
            assert process.wait() == 0, undisturbed.folder
        whole = time.monotonic() - began
        contents.append(undisturbed.content())
    wanted = contents[0]
    faults = [] if contents[0] == contents[1] else [f"{make.__name__}: two undisturbed runs differ"]
    killed = run = 0
    while killed < count:
        run += 1
        kind = make(Path(tempfile.mkdtemp(dir=base)))
        attempts = 0
        while not kind.done():
            attempts += 1
            processes = start(kind, attempts)
            if killed < count and attempts <= 6:
                at = draw.uniform(0.2, 0.9 * whole)
                time.sleep(at)
                alive = [pid for process in processes if process.poll() is None for pid in family(process.pid)]
                if alive:
                    everything = draw.random() < 0.3
                    chosen = alive if everything else [draw.choice(alive)]
                    for pid in chosen:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    killed += 1
                    print(f"{make.__name__} run {run}: kill {killed} after {at:.1f} s, {len(chosen)} of {len(alive)} processes")
            for process in processes:
                try:
                    process.wait(10 * whole + BOUND)
                except subprocess.TimeoutExpired:
                    faults.append(f"{kind.folder}: hangs")
                    print(faults[-1])
                    for pid in family(process.pid):
                        os.kill(pid, signal.SIGKILL)
            for log in kind.folder.glob(f"log-{attempts}-*"):
                text = log.read_text()
                errors = [line for line in text.splitlines() if line.startswith("l2l: ")]
                if "Traceback" in text or len(errors) > 1 or any("process" not in line for line in errors):
                    faults.append(f"{log}: {text[-300:]}")
                    print(faults[-1])
            if attempts > 20:
                faults.append(f"{kind.folder}: does not come to an end")
                break
        same = kind.done() and kind.content() == wanted
        print(f"{make.__name__} run {run}: {'bit-equal' if same else 'DIFFERENT'} after {attempts - 1} kills", flush=True)
        if not same:
            faults.append(f"{kind.folder}: another end")
    return faults


def flipped(flips, draw, base):
    """Single flipped bytes in checkpoints: each is found, or makes no difference."""
    from l2lcli.runs import checkpoint
    from l2lcli.runs.files import RunError

    kind = Train(base)
    [process] = start(kind, 0)
    assert process.wait() == 0
    folder = base / "run/checkpoints"
    intact = {step: checkpoint.restore(_alone(folder, step, base), print, set_aside=False) for step in _steps(folder)}
    counts = {"found": 0, "no difference": 0, "SILENT": 0}
    for _ in range(flips):
        step = draw.choice(sorted(intact))
        copy = _alone(folder, step, base)
        file = draw.choice(sorted(path for path in copy.rglob("*") if path.is_file() and path.stat().st_size))
        data = bytearray(file.read_bytes())
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        file.write_bytes(data)
        try:
            found = checkpoint.restore(copy, lambda line: None, set_aside=False)
        except RunError:
            counts["found"] += 1
            continue
        want = intact[step]
        same = found.step == want.step and found.meta == want.meta and found.arrays.keys() == want.arrays.keys()
        same = same and all(found.arrays[key].tobytes() == leaf.tobytes() for key, leaf in want.arrays.items())
        counts["no difference" if same else "SILENT"] += 1
    print(f"{flips} flipped bytes in {len(intact)} checkpoints: {counts}")
    return [f"{counts['SILENT']} read silently"] if counts["SILENT"] else []


def _steps(folder):
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())


def _alone(folder, step, base):
    copy = base / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder / str(step), copy / str(step))
    return copy


@contextlib.contextmanager
def mounted(place, *options):
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def places(base):
    """Where nothing more can be written: one line, and gone on with once there is room."""
    faults = []

    def run(words, folder, code, said, **environment):
        ended = subprocess.run(words, cwd=folder, capture_output=True, text=True, env={**os.environ, **environment})
        lines = [line for line in ended.stderr.splitlines() if line.startswith("l2l: ")]
        fine = (
            ended.returncode == code and "Traceback" not in ended.stderr and len(lines) == bool(code) and said in ended.stderr
        )
        print(f"  exit code {ended.returncode}: {lines or 'no error'}{'' if fine else '   WRONG'}")
        if not fine:
            faults.append(f"{words}: {ended.returncode} {ended.stderr[-400:]}")

    print("a disk that fills up in training, and is given room again:")
    small = Train(base)
    [process] = start(small, 0)
    assert process.wait() == 0
    pages = sum(-(-path.stat().st_size // 4096) for path in (base / "run").rglob("*") if path.is_file())
    with mounted(base / "disk", f"size={2 * pages}k") as disk:  # half of what it needs
        kind = Train(disk)
        run(kind.commands()[0], disk, 1, "No space left on device")
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        run(kind.commands()[0], disk, 0, "")
        if kind.content() != small.content():
            faults.append("after a full disk: another end")
    print("a disk without any room:")
    with mounted(base / "disk", "size=8k") as disk:
        run(l2l("train", base / "small.yaml", "--run-dir", "run"), disk, 1, "No space left on device")
    print("a home that cannot be written:")
    with mounted(base / "home", "size=1m") as home:
        subprocess.run(["mount", "-o", "remount,ro", str(home)], check=True)
        away = {"HOME": str(home), "L2L_CACHE": "", "XDG_CACHE_HOME": ""}
        run(l2l("train", "small.yaml", "--run-dir", "homeless"), base, 0, "", **away)
    print("a run directory that vanishes in training:")
    process = subprocess.Popen(
        l2l("train", "small.yaml", "--run-dir", "vanishing", "--set", "train.episodes=100000"),
        cwd=base, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (base / "vanishing/metrics.jsonl").is_file() or not (base / "vanishing/metrics.jsonl").stat().st_size:
        time.sleep(0.05)
    shutil.rmtree(base / "vanishing")
    _, err = process.communicate(timeout=60)
    lines = [line for line in err.splitlines() if line.startswith("l2l: ")]
    print(f"  exit code {process.returncode}: {lines}")
    if process.returncode != 1 or len(lines) != 1 or (base / "vanishing").exists():
        faults.append(f"vanished: {process.returncode} {err[-400:]}")
    return faults


def main():
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("what", choices=["kills", "bytes", "places"])
    for kind in ("train", "two"):
        asked.add_argument(f"--{kind}", type=int, default=0, help="so many kills of that kind")
    asked.add_argument("--flips", type=int, default=1000)
    asked.add_argument("--seed", type=int, default=0)
    given = asked.parse_args()
    draw, base = random.Random(given.seed), Path(tempfile.mkdtemp(prefix="l2l-torture-"))
    os.environ.setdefault("L2L_CACHE", str(base / "cache"))
    if given.what == "bytes":
        faults = flipped(given.flips, draw, base)
    elif given.what == "places":
        faults = places(base)
    else:
        wanted = {Train: given.train, Two: given.two}
        faults = [fault for kind, count in wanted.items() if count for fault in kills(kind, count, draw, base)]
    print("\n".join(["WRONG:", *faults]) if faults else "all as it should be")
    if not faults:
        shutil.rmtree(base)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
