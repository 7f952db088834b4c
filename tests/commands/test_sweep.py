"""`l2l sweep`: every point is the run that `l2l train` makes, and a sweep that is killed is completed by the same command.

A killing of twelve points, and random ones, are in tests/torture_sweep.py.
"""

import json
import os
import shlex
import signal
import subprocess
import time

import pytest

from l2lcli import config as configs
from l2lcli.commands import launch, sweeping
from l2lcli.commands.launch import Cluster
from l2lcli.runs import sweeps
from tests.command_line import CONFIG, command, l2l

SMALL = CONFIG.replace("[sgd]", "[sgd], report: false")
LONG = SMALL.replace("episodes: 4", "episodes: 1000").replace("  tasks: 2", "  tasks: 2\n  checkpoint_seconds: 0")
LONG = LONG.replace("validate_every: 2", "validate_every: 40").replace("name: small", "name: long")
OVER = ["--over", "seed=0..1"]
BITS = ("optimizer.npz", "metrics.jsonl", "config.yaml")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "long.yaml").write_text(LONG)
    return tmp_path


def emitted(folder, *arguments):
    """The sweep's folder, and the words of each point's command."""
    out, _ = l2l(folder, "sweep", *arguments, "--emit-commands")
    lines = [shlex.split(line, comments=True) for line in out.splitlines()]
    assert all(words[:2] == ["cd", str(folder)] and words[2] == "&&" for words in lines)
    words = [words[words.index("l2lcli") + 1 :] for words in lines]
    return folder / words[0][2], words, out


def begun(folder):
    """The points' folders of the newest sweep, those that are runs."""
    newest = max(folder.glob("runs/*/sweep-*"), key=lambda path: path.name)
    return newest, {path.parent.name: path.parent for path in newest.glob("*/config.yaml") if path.parent.name != "configs"}


def states(sweep):
    return {name: point.get("state") for name, point in json.loads((sweep / "sweep.json").read_text())["points"].items()}


def written(run):
    """When each file of a run was written, but for the lock's."""
    return {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != ".lock"}


def at_work(runs):
    """The processes that work on runs, or did so last."""
    return {json.loads((run / "status.json").read_text())["pid"] for run in runs.values()}


def until(true, process, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        assert process.poll() is None and time.monotonic() < end, process.stderr and process.stderr.read()
        time.sleep(0.05)


def test_a_point_is_the_run_that_train_makes(folder):
    sweep, words, _ = emitted(folder, "small.yaml", *OVER)
    assert emitted(folder, "small.yaml", *OVER)[0] == sweep  # the same command, the same sweep
    record = json.loads((sweep / "sweep.json").read_text())
    assert [point["devices"] for point in record["points"].values()] == [1, 1] and len(words) == 2
    (folder / "small.yaml").write_text("name: small\n")  # a sweep keeps to what it began with
    l2l(folder, *words[1])
    (folder / "small.yaml").write_text(SMALL)
    l2l(folder, "train", "small.yaml", "--set", "seed=1", "--devices", "1", "--run-dir", "alone")
    for name in BITS:
        assert (sweep / "seed=1" / name).read_bytes() == (folder / "alone" / name).read_bytes(), name
    before = written(sweep / "seed=1")
    assert "is done already" in l2l(folder, *words[1])[1] and written(sweep / "seed=1") == before
    _, err = l2l(folder, *words[1][:-1], "seed=9", code=1)
    assert "no point 'seed=9'" in err
    _, err = l2l(folder, "train", "small.yaml", "--resume", code=1)  # a sweep's points are not for `train` to find
    assert "no unfinished run" in err
    out, _ = l2l(folder, "report", sweep)
    assert "1 of 2 points are done, 1 waiting." in out and "> all" not in out


def test_a_point_that_starts_from_another(folder):
    (folder / "next.yaml").write_text(
        SMALL.replace("episodes: 4", "episodes: 4\n  init_from: small").replace("small\np", "next\np")
    )
    (folder / "all.yaml").write_text("name: all\nsweep: [{configs: [next.yaml, small.yaml], over: {seed: [1]}}]\n")
    sweep, words, out = emitted(folder, "all.yaml", "--set", "train.episodes=2")
    assert sweep.parent == folder / "runs/all" and "--point next,seed=1  # after small,seed=1" in out
    assert [each[-1] for each in words] == ["small,seed=1", "next,seed=1"]
    _, err = l2l(folder, *words[1], code=1)
    assert "next,seed=1 starts from small,seed=1, which is not done (waiting)" in err
    l2l(folder, *words[0])
    _, err = l2l(folder, "report", sweep, "--save-reference", code=1)
    assert "1 of its 2 points are not done: next,seed=1" in err
    l2l(folder, *words[1])
    started, source = (sweep / path for path in ("next,seed=1/start.npz", "small,seed=1/optimizer.npz"))
    assert started.read_bytes() == source.read_bytes()
    out, _ = l2l(folder, "report", sweep, "--save-reference")
    assert out.split() == ["runs/reference/small", "runs/reference/next"]
    assert "init_from: small\n" in (folder / "runs/reference/next/config.yaml").read_text()


def test_failures_are_named_and_what_starts_from_them_is_not_run(folder):
    for name, start in (("bad", "nowhere"), ("next", "bad")):
        text = SMALL.replace("episodes: 4", f"episodes: 4\n  init_from: {start}").replace("name: small", f"name: {name}")
        (folder / f"{name}.yaml").write_text(text)
    (folder / "all.yaml").write_text("name: all\nsweep: [{configs: [small.yaml, bad.yaml, next.yaml]}]\n")
    out, err = l2l(folder, "sweep", "all.yaml", "--set", "train.episodes=2", "--cluster", "local", code=1)
    sweep, runs = begun(folder)
    assert [*runs] == ["small"] and states(sweep) == {"small": "done", "bad": "failed", "next": "blocked"}
    assert "bad: failed: nowhere: no run directory, no optimizer file, and none of that name is shipped" in err
    assert "l2l: 2 of 3 points failed: bad, next" in err and "small: done, validation loss " in err
    assert "blocked: bad is failed" in out and "1 of 3 points are done" in out
    status = runs["small"] / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"state": "failed", "reason": "why"}))
    jobs = [*sweep.glob("jobs/small/*")]
    _, err = l2l(folder, "sweep", "--resume", sweep, "--cluster", "local", code=1)
    assert "small: failed before: why; try it again with: l2l train --resume " in err
    assert [*sweep.glob("jobs/small/*")] == jobs  # not tried again


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of the long experiment that nobody disturbed."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "long.yaml").write_text(LONG)
    l2l(folder, "train", "long.yaml", "--devices", "1", "--run-dir", "alone")
    return folder / "alone"


def test_killed_stopped_and_gone_on_with(folder, alone):
    """Its process alone is killed, and the same command given again; then it is told to stop; at last every point is whole."""
    words = command("sweep", "long.yaml", "--over", "seed=0", "--devices", "1", "--cluster", "local")
    options = {"cwd": folder, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen(words, **options)
    until(lambda: any(folder.glob("runs/long/sweep-*/*/metrics.jsonl")), first)
    sweep, runs = begun(folder)
    refused = subprocess.run(words, check=False, **options)
    assert refused.returncode == 1 and f"{sweep.relative_to(folder)} is in use by process {first.pid}" in refused.stderr
    orphans = at_work(runs)
    first.kill()
    first.communicate()
    second = subprocess.Popen(words, **options)
    until(lambda: at_work(runs).isdisjoint(orphans), second)  # which have stopped, and others gone on
    assert states(sweep) == {"seed=0": "running"}
    second.send_signal(signal.SIGTERM)
    out, err = second.communicate(timeout=120)
    assert second.returncode == 75, err
    assert f"stopped by SIGTERM; go on with the same command, or: l2l sweep --resume {sweep.relative_to(folder)}" in err
    assert "seed=0: resumed" in err and states(sweep) == {"seed=0": "stopped"}
    assert len([*folder.glob("runs/long/sweep-*")]) == 1
    l2l(folder, "sweep", "--resume", sweep, "--point", "seed=0")
    for part in BITS:
        assert (sweep / "seed=0" / part).read_bytes() == (alone / part).read_bytes(), part
    out, err = l2l(folder, *words[words.index("sweep") :])
    assert "is done already (--new begins another)" in err and "1 of 1 points are done" in out
    assert f"Use it: l2l eval {sweep.relative_to(folder)}/seed=0" in out


def test_submitits_interrupt_of_a_run(folder, alone, monkeypatch):
    """Told that its time is up, a job stops the run, is queued again, and ends with the bits of a run that nobody disturbed."""
    monkeypatch.chdir(folder)
    sweep, words, _ = emitted(folder, "long.yaml", "--over", "seed=0", "--devices", "1")
    point = sweep / "seed=0"
    with sweeps.held(sweep):
        job = launch.submit(Cluster("local", {"timeout_min": 60}), sweep, "seed=0", command(*words[0]))
        until(lambda: any(point.glob("checkpoints/[0-9]*")), job._process)
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", job.job_id], capture_output=True, text=True, check=True)
        os.kill(int(children.stdout), signal.SIGUSR2)
        job.wait()
    assert "Requeued job" in job.stdout() and job.result() == 0
    for part in BITS:
        assert (point / part).read_bytes() == (alone / part).read_bytes(), part


def test_the_plan_is_told_and_nothing_written(folder):
    out, _ = l2l(folder, "sweep", "small.yaml", *OVER, "--over", "optimizer.hidden=2,3", "--jobs", "1", "--dry-run")
    assert out.splitlines()[:2] == ["seed=0,hidden=2", "seed=0,hidden=3"] and "# 4 points, 1 at once, devices of each: " in out
    assert "32 meta-steps in all" in out and not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give an experiment file"),
        (["small.yaml"], "small.yaml: nothing varies: give --over KEY=VALUES"),
        (["small.yaml", *OVER, "--cluster", "pbs"], "--cluster: 'pbs' is none of auto, local, slurm"),
        (
            ["small.yaml", *OVER, "--slurm", "partition=x", "--cluster", "local"],
            "--slurm partition: the points run on this machine",
        ),
        (["small.yaml", *OVER, "--slurm", "x"], "--slurm x: expected KEY=VALUE"),
        (["small.yaml", *OVER, "--point", "seed=0"], "--point runs a point of the sweep that --resume names"),
        (["small.yaml", "--over", "optimizer.hiden=2"], "--over optimizer.hiden: unknown key; did you mean 'hidden'?"),
        (["--resume", "runs/x", *OVER], "--resume goes on with a sweep as it was begun"),
    ],
)
def test_what_is_no_sweep(folder, arguments, message):
    _, err = l2l(folder, "sweep", *arguments, code=2)
    assert message in " ".join(err.replace("│", " ").split())
    assert not (folder / "runs").exists()


def test_a_sweep_keeps_what_it_began_with(folder):
    """A copy of an imported file, and the devices."""
    l2l(folder, "new", "problem", "ridge", "--dir", "mine")
    arguments = ("mine/ridge.yaml", *OVER, "--devices", "1")
    sweep, _, _ = emitted(folder, *arguments)
    wanted = configs.load(folder / "mine/ridge.yaml", ["seed=1"])
    (copy,) = sweep.glob("configs/imports/*/ridge.py")
    assert copy.read_bytes() == (folder / "mine/ridge.py").read_bytes()
    found = configs.load(sweep / "configs/seed=1.yaml")
    assert found.imports == [str(copy)] and found.model_copy(update={"imports": wanted.imports}) == wanted
    assert emitted(folder, *arguments, "--new")[0] != sweep
    _, err = l2l(folder, "sweep", *arguments[:-1], "2", "--emit-commands", code=2)
    assert "--devices 2: runs/ridge/sweep-" in err and "began with another number (--new begins another sweep)" in err
    with (folder / "mine/ridge.py").open("a") as file:
        file.write("# changed\n")
    assert emitted(folder, *arguments)[0] != sweep


def test_no_sweep_to_go_on_with(folder):
    assert "no unfinished sweep in runs" in l2l(folder, "sweep", "--resume", code=1)[1]
    assert "runs/x: no such sweep" in l2l(folder, "sweep", "--resume", "runs/x", code=1)[1]


def test_cores_are_shared_out(monkeypatch, folder):
    from l2lcli.config.plan import plan

    found = plan(folder / "small.yaml", ["seed=0..4", "train.tasks=2,3,1"], None, [])
    monkeypatch.setattr(sweeping.backend, "cores", lambda: 8)
    monkeypatch.setattr(launch, "gpus", lambda: [])
    tasks = {point.name: point.config.train.tasks for point in found.points}
    for jobs, devices, wanted in ((None, None, (8, {2: 1, 3: 1, 1: 1})), (2, None, (2, {2: 2, 3: 3, 1: 4})),
                                  (None, 4, (2, {2: 4, 3: 4, 1: 4})), (1, None, (1, {2: 2, 3: 3, 1: 8}))):  # fmt: skip
        share = sweeping.share(found, True, jobs, devices)
        assert (share.jobs, {tasks[name]: count for name, count in share.devices.items()}) == wanted
    monkeypatch.setattr(launch, "gpus", lambda: ["0", "1", "2"])
    assert sweeping.share(found, True, None, None) == sweeping.Share(3, dict.fromkeys(tasks))
    assert sweeping.share(found, False, None, None) == sweeping.Share(15, dict.fromkeys(tasks))
