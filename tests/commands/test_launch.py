"""What submitit is given: a command as a child that signals are handed on to, here and on a Slurm made of shell scripts."""

import os
import signal
import subprocess
import sys
import time

import pytest

from l2lcli.commands import launch
from l2lcli.commands.launch import Cluster, Task
from l2lcli.config import ConfigError
from l2lcli.runs import sweeps
from l2lcli.runs.files import RunError

pytest.importorskip("submitit", reason="the extra `cluster` is not installed")
LOCAL = Cluster("local", {"timeout_min": 60})
# It writes that it began, and goes on where an earlier one was stopped: SIGTERM ends it with 75, the second time it ends well.
CHILD = """
import os, pathlib, signal, sys, time
log = pathlib.Path(sys.argv[1])
def stop(*_):
    log.open("a").write("stopped\\n")
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
again = log.exists()
log.open("a").write(f"began {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
time.sleep(0 if again else 60)
log.open("a").write("done\\n")
"""


def until(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def said(log):
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A sweep's folder, held by this process; a job in it whose child has begun; the child's log."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "a").mkdir()
    log = tmp_path / "log"
    with sweeps.held(tmp_path):
        job = launch.submit(LOCAL, tmp_path, "a", [sys.executable, "-c", CHILD, str(log)])
        until(lambda: said(log) == ["began"])
        yield tmp_path, job, log
        until(job.done)


def task_of(job):
    """The process that submitit's own for the job has below it, which runs the task."""
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", job.job_id], capture_output=True, text=True, check=True)
    return int(children.stdout)


def test_a_task_that_is_preempted_stops_its_child_and_is_queued_again(started):
    """SIGUSR2 is what submitit sends a task before its time is up."""
    _, job, log = started
    os.kill(task_of(job), signal.SIGUSR2)
    until(job.done)
    assert said(log) == ["began", "stopped", "began", "done"]
    assert job.result() == 0 and "Requeued job" in job.stdout()


def test_a_preemption_begins_with_sigterm(started):
    _, job, log = started
    task = task_of(job)
    os.kill(task, signal.SIGTERM)
    os.kill(task, signal.SIGUSR2)
    until(job.done)
    assert said(log) == ["began", "stopped", "began", "done"]


def test_submitits_own_interrupt(started):
    """Here it ends submitit's process, which nobody starts again: the child must stop, and not stay behind."""
    _, job, log = started
    child = int(log.read_text().split()[1])
    job._interrupt()
    until(lambda: gone(child))
    assert said(log) == ["began", "stopped"] and job.state == "INTERRUPTED"


def test_a_job_is_stopped(started):
    _, job, log = started
    launch.stop(job, LOCAL)
    until(job.done)
    assert said(log) == ["began", "stopped"] and job.result() == 75


def test_a_child_ends_with_submitits_process_however_that_ends(started):
    """SIGKILL, which no handler sees: the system itself tells the child."""
    _, job, log = started
    child, task = int(log.read_text().split()[1]), task_of(job)
    os.kill(int(job.job_id), signal.SIGKILL)
    os.kill(task, signal.SIGKILL)
    until(lambda: gone(child))
    assert said(log) == ["began", "stopped"]


def test_a_job_ends_with_its_sweep(tmp_path):
    """Another process holds the sweep now, as when the first was killed and the command given again."""
    (tmp_path / "a").mkdir()
    log = tmp_path / "log"
    with sweeps.held(tmp_path):
        job = launch.submit(LOCAL, tmp_path, "a", [sys.executable, "-c", CHILD, str(log)])
        until(lambda: said(log) == ["began"])
        (tmp_path / ".lock").write_text("1\n")
        until(job.done)
    assert said(log) == ["began", "stopped"] and job.result() == 75


def test_a_job_waits_for_who_is_at_work_in_its_folder(tmp_path, monkeypatch):
    """And sees the GPU that it is given: submitit would hide all of them."""
    (tmp_path / "a").mkdir()
    log = tmp_path / "log"
    log.write_text("")  # the child does not linger
    with sweeps.held(tmp_path):
        with sweeps.held(tmp_path / "a"):
            job = launch.submit(LOCAL, tmp_path, "a", [sys.executable, "-c", CHILD, str(log)], gpu="3")
            time.sleep(1.5)
            assert said(log) == []
        until(job.done)
    assert said(log) == ["began", "done"] and log.read_text().split()[2] == "3"


def test_what_cannot_be_run(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"^--slurm partition: the points run on this machine \(see --cluster\)$"):
        launch.cluster("local", {"partition": "x"})
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(RunError, match=r"^the points of a sweep are run by submitit, which is not installed: pip install 'l2l"):
        launch.cluster("local", {})


def test_the_gpus_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert launch.gpus() == ["2", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert launch.gpus() == ["0", "1"]
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert launch.gpus() == []


SLURM = {
    # A job is a shell in the background; its number is the next one.
    "sbatch": 'id=$(($(ls "$SLURMS" | wc -l) + 1)); sed "s/%j/$id/g; s/%t/0/g" "$1" > "$SLURMS/$id.sh"\n'
    'SLURM_JOB_ID=$id setsid sh "$SLURMS/$id.sh" > /dev/null 2>&1 & echo "Submitted batch job $id"',
    # srun's options come first.
    "srun": 'while :; do case "$1" in --output) output=$2; shift 2;; --error) error=$2; shift 2;; --*) shift;;\n'
    '*) break;; esac; done; echo $$ > "$SLURMS/$SLURM_JOB_ID.pid"; exec "$@" >> "$output" 2>> "$error"',
    "sacct": 'echo "JobID|State|NodeList"; for pid in "$SLURMS"/*.pid; do id=$(basename "$pid" .pid)\n'
    'if kill -0 $(cat "$pid") 2> /dev/null; then echo "$id|RUNNING|here"; else echo "$id|COMPLETED|here"; fi; done',
    "scancel": 'signal=TERM; case "$2" in --signal) signal=${3#SIG};; esac; kill -$signal $(cat "$SLURMS/$1.pid")',
    "scontrol": "exit 0",  # it says that it has queued the job again, and does nothing
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A Slurm whose `scontrol requeue` does nothing."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "slurms").mkdir()
    for name, text in SLURM.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("SLURMS", str(tmp_path / "slurms"))


def test_on_slurm_where_requeue_does_nothing(slurm, tmp_path):
    """A job outlives the sweep that submitted it, is found again by its number, and stops when Slurm's own signals say so."""
    chosen = launch.cluster("auto", {"timeout_min": 60, "partition": "long"})
    assert chosen == Cluster("slurm", {"timeout_min": 60, "slurm_partition": "long"})
    (tmp_path / "a").mkdir()
    log = tmp_path / "log"
    job = launch.submit(chosen, tmp_path, "a", [sys.executable, "-c", CHILD, str(log)])
    until(lambda: said(log) == ["began"])
    assert "#SBATCH --partition=long" in (tmp_path / "slurms/1.sh").read_text()
    found = launch.adopt(chosen, tmp_path, "a", job.job_id)
    assert found.job_id == job.job_id and not found.done()
    found._interrupt()
    until(lambda: gone(int((tmp_path / "slurms/1.pid").read_text())))
    assert said(log) == ["began", "stopped"]
    found.watcher.update()
    assert found.done() and launch.adopt(chosen, tmp_path, "a", job.job_id) is None
    job = launch.submit(chosen, tmp_path, "a", [sys.executable, "-c", CHILD, str(log)])
    until(lambda: said(log) == ["began", "stopped", "began", "done"])
    until(lambda: job.done(force_check=True))
    assert job.result() == 0


def test_a_job_of_slurms_is_cancelled(slurm, tmp_path):
    chosen = launch.cluster("slurm", {})
    (tmp_path / "a").mkdir()
    log = tmp_path / "log"
    job = launch.submit(chosen, tmp_path, "a", [sys.executable, "-c", CHILD, str(log)])
    until(lambda: said(log) == ["began"])
    launch.stop(job, chosen)
    until(lambda: job.done(force_check=True))
    assert said(log) == ["began", "stopped"] and job.result() == 75


def test_what_slurm_does_not_take(slurm):
    with pytest.raises(ConfigError, match=r"^--slurm: .*nonsense"):
        launch.cluster("slurm", {"nonsense": 1})
    with pytest.raises(ConfigError, match=r"^--slurm nodes: a point is one process$"):
        launch.cluster("slurm", {"nodes": 2})


def test_a_task_is_what_was_pickled():
    """What is queued again is the same task, with nothing of the process that it ran in."""
    task = Task(["true"], launch.Path("a"), None, {"X": None})
    task._stopping = True
    again = task.checkpoint().function
    assert (again.command, again.folder, again.environment, again._child, again._stopping) == (
        ["true"], launch.Path("a"), {"X": None}, None, False,
    )  # fmt: skip
