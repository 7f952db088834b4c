"""A run that was killed, and gone on with, ends bit-equal to one that was left alone."""

import json
import shutil
import signal
import subprocess
import time

import pytest

from tests.command_line import CONFIG, command, l2l

LONG = CONFIG.replace("episodes: 4", "episodes: 1500").replace("validate_every: 2", "validate_every: 40")
LONG = LONG.replace("baselines: [sgd]", "baselines: [sgd], report: false")
LONG = LONG.replace("  tasks: 2", "  tasks: 2\n  checkpoint_seconds: 0")
BITS = ("optimizer.npz", "metrics.jsonl", "curves/small.csv", "config.yaml")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with the config, and in `whole` the run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("resume")
    (folder / "small.yaml").write_text(LONG)
    l2l(folder, "train", "small.yaml", "--run-dir", "whole")
    return folder


def checkpoints(run):
    return sorted(int(path.name) for path in run.glob("checkpoints/*") if path.name.isdigit())


def kill(folder, enough, *arguments):
    """Start a training and kill it with SIGKILL as soon as `enough()`."""
    process = subprocess.Popen(command("train", *arguments), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not enough():
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.communicate()


def assert_equal(folder, run):
    for name in BITS:
        assert (folder / run / name).read_bytes() == (folder / "whole" / name).read_bytes(), name
    ours, theirs = (json.loads((folder / name / "summary.json").read_text()) for name in (run, "whole"))
    for summary in (ours, theirs):
        summary.pop("pays", None)
        for entry in summary["optimizers"].values():
            del entry["seconds_per_step"]  # the clock's
    assert ours == theirs


def test_killed_twice_and_gone_on_with(whole):
    run = whole / "killed"
    kill(whole, lambda: len(checkpoints(run)) >= 2, "small.yaml", "--run-dir", "killed")
    first = checkpoints(run)[-1]
    assert first < 3000
    l2l(whole, "report", "killed")  # what a killed process leaves can be read
    kill(whole, lambda: checkpoints(run)[-1] > first, "--resume", "killed")
    out, err = l2l(whole, "train", "--resume", "killed")
    assert "> lstm" in out
    assert_equal(whole, "killed")
    out, err = l2l(whole, "train", "--resume", "killed")  # nothing left to do
    assert "> lstm" in out and "done already" in err


def test_killed_before_the_first_checkpoint(whole):
    run = whole / "early"
    kill(whole, lambda: (run / "config.yaml").exists(), "small.yaml", "--run-dir", "early")
    assert not checkpoints(run)
    l2l(whole, "train", "--resume", "early")
    assert_equal(whole, "early")


def test_killed_in_the_evaluation(whole):
    """Meta-training is done and not done again; the evaluation is."""
    run = whole / "evaluated"
    shutil.copytree(whole / "whole", run)
    for name in ("summary.json", "curves"):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    status = json.loads((run / "status.json").read_text()) | {"state": "running"}
    (run / "status.json").write_text(json.dumps(status))
    before = checkpoints(run)
    l2l(whole, "train", "--resume", "evaluated")
    assert checkpoints(run) == before
    assert_equal(whole, "evaluated")


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(whole):
    run = whole / "damaged"
    shutil.copytree(whole / "whole", run)
    (run / "status.json").write_text(json.dumps({"state": "running", "started": "2026"}))
    newest = run / "checkpoints" / str(checkpoints(run)[-1])
    largest = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(bytes(data))
    _, err = l2l(whole, "train", "--resume", "damaged")
    assert f"warning: damaged/checkpoints/{newest.name}: damaged checkpoint ignored" in err
    assert_equal(whole, "damaged")


def test_a_second_process_is_refused(whole):
    process = subprocess.Popen(
        command("train", "small.yaml", "--set", "train.episodes=100000", "--run-dir", "busy"),
        cwd=whole, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not (whole / "busy/metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.05)
    _, err = l2l(whole, "train", "--resume", "busy", code=1)
    assert f"in use by process {process.pid}" in err
    process.kill()
    process.wait()
