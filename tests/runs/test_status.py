"""status.json and the lock: who is at work in a run directory, and what is seen once the process is gone."""

import math
import os

import pytest

from l2lcli.runs import rundir
from l2lcli.runs.files import RunError
from tests.support import python


@pytest.fixture
def run(tmp_path):
    with rundir.create(tmp_path / "runs", "digits", "name: digits\n") as run:
        yield run


def test_status_keeps_start_and_step(run):
    run.status("running", step=7)
    first = run.read_status()
    run.status("failed", reason="loss is NaN", exit_code=1, value=math.nan)
    last = run.read_status()
    assert (last["state"], last["step"], last["reason"], last["exit_code"], last["value"]) == (
        "failed",
        7,
        "loss is NaN",
        1,
        None,
    )
    assert last["started"] == first["started"] < last["updated"]
    with pytest.raises(ValueError, match="state 'flying'"):
        run.status("flying")
    assert run.read_status() == last


def test_second_process_is_refused_and_a_killed_one_is_seen(tmp_path):
    code = """
import sys, time
from pathlib import Path
from l2lcli.runs import rundir
run = rundir.create(Path(sys.argv[1]), "digits", "")
run.status("running", step=3)
print(run.path, flush=True)
time.sleep(60)
"""
    holder = python(code, tmp_path)
    try:
        path = holder.stdout.readline().strip()
        other = rundir.open_run(path)
        for _ in range(2):
            with pytest.raises(RunError, match=f"^{path} is in use by process {holder.pid}$"):
                other.lock()
        assert other.read_status()["state"] == "running"
    finally:
        holder.kill()
        holder.communicate()
    assert other.read_status()["state"] == "killed"
    other.lock()
    other.lock()  # a second call by the holder is nothing new
    with pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
        rundir.open_run(path).lock()
    other.close()
    rundir.open_run(path).lock()
