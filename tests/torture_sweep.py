"""Kill sweeps at random: each must end bit-equal to one that nobody disturbed, with nothing run twice. Not run by pytest.

    python -m tests.torture_sweep FOLDER [--kills 1] [--rounds 1] [--seed 0]

In FOLDER a sweep of 12 points is run once from start to end, kept for later calls, and then `--rounds` sweeps are killed with
SIGKILL `--kills` times each and completed by the same command. What is killed is drawn: everything at once, the sweep's own
process, or some process below it. Minutes.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.command_line import CONFIG

LONG = CONFIG.replace("episodes: 4", "episodes: 400").replace("  tasks: 2", "  tasks: 2\n  checkpoint_seconds: 0")
LONG = LONG.replace("[sgd]", "[sgd], report: false")
OVER = ["--over", "seed=0..3", "--over", "optimizer.hidden=2,3,4"]
POINTS = 12
BITS = ("config.yaml", "optimizer.npz", "metrics.jsonl", "curves/small.csv")


def sweep(folder):
    """The command, in a process of its own."""
    words = [sys.executable, "-m", "l2lcli", "sweep", "small.yaml", *OVER]
    with open(folder / "log", "a") as log:
        return subprocess.Popen(words, cwd=folder, stdout=log, stderr=log)


def prepared(folder):
    """A folder with the experiment in it."""
    folder.mkdir(parents=True)
    (folder / "small.yaml").write_text(LONG)
    return folder


def below(pid):
    """The processes below one, by what /proc says."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
        except (OSError, ValueError):
            continue
    found, left = [], [pid]
    while left:
        left += (own := parents.get(left.pop(), []))
        found += own
    return found


def kill(pid):
    """SIGKILL, to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def points(folder):
    """The folders of the points that are runs."""
    return {status.parent.name: status.parent for status in folder.glob("runs/small/sweep-*/*/status.json")}


def state(point):
    """What a point's status says."""
    return json.loads((point / "status.json").read_text())["state"]


def bits(point):
    """What must not differ from a sweep that nobody disturbed: all but the clock's."""
    found = {name: hashlib.sha256((point / name).read_bytes()).hexdigest() for name in BITS}
    summary = json.loads((point / "summary.json").read_text())
    summary.pop("pays", None)
    for entry in summary["optimizers"].values():
        del entry["seconds_per_step"]
    return found | {"summary.json": json.dumps(summary, sort_keys=True)}


def files(point):
    """Every file of a point, and when it was written."""
    return {str(path): path.stat().st_mtime_ns for path in point.rglob("*") if path.is_file() and path.name != ".lock"}


def submitted(folder, name):
    """How many jobs a point has had."""
    return len({path.name.split("_")[0] for path in folder.glob(f"runs/small/sweep-*/jobs/{name}/*_log.out")})


def tortured(folder, draw, kills):
    """Run a sweep that is killed so many times, and complete it; how many jobs each point had."""
    finished = {}
    for number in range(kills + 1):
        process, began = sweep(folder), time.monotonic()
        enough, rest = POINTS * (number + draw.uniform(0.2, 0.8)) / kills, draw.uniform(0, 8)
        while number < kills and process.poll() is None and sum(state(p) == "done" for p in points(folder).values()) < enough:
            time.sleep(0.05)
        time.sleep(rest)
        if number < kills and process.poll() is None:
            victims = below(process.pid)
            what = draw.choice(["everything", "the sweep", "one below"]) if kills > 1 else "everything"
            for pid in {"everything": [process.pid, *victims], "the sweep": [process.pid]}.get(what, victims[-1:]):
                kill(pid)
            print(f"  after {time.monotonic() - began:.0f} s: kill -9 of {what}: ", end="")
            if what == "one below":  # the sweep goes on, and says at its end that a point was killed
                print(f"it went on, exit code {process.wait()}; ", end="")
        code = process.wait()
        now = {name: state(point) for name, point in points(folder).items()}
        done = sum(own == "done" for own in now.values())
        print(
            f"{done} of {POINTS} points done, {len(now) - done} begun" if number < kills else f"  completed: exit code {code}"
        )
        for name, before in finished.items():
            assert files(points(folder)[name]) == before, f"{name} was done and was written to again"
        finished |= {name: files(points(folder)[name]) for name, own in now.items() if own == "done" and name not in finished}
    assert code == 0, (folder / "log").read_text()
    return {name: submitted(folder, name) for name in finished}


def main():
    """See above."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]
    whole = asked.folder / "whole"
    if not (whole / "seconds").is_file():
        shutil.rmtree(whole, ignore_errors=True)
        began = time.monotonic()
        assert sweep(prepared(whole)).wait() == 0, (whole / "log").read_text()
        (whole / "seconds").write_text(str(time.monotonic() - began))
    wanted = {name: bits(point) for name, point in points(whole).items()}
    assert len(wanted) == POINTS
    print(f"undisturbed: {POINTS} points in {float((whole / 'seconds').read_text()):.0f} s")
    draw = random.Random(asked.seed)
    for number in range(asked.rounds):
        print(f"round {number}")
        folder = asked.folder / f"seed-{asked.seed}-round-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        prepared(folder)
        jobs = tortured(folder, draw, asked.kills)
        assert len([*folder.glob("runs/small/sweep-*")]) == 1
        found = {name: bits(point) for name, point in points(folder).items()}
        assert found == wanted, [name for name in wanted if found.get(name) != wanted[name]]
        print(f"  {POINTS} of {POINTS} points bit-equal; jobs that each had: {sorted(jobs.values())}")


if __name__ == "__main__":
    main()
