"""The points of a sweep as submitit's jobs, on this machine or on Slurm: the one file that knows submitit.

submitit's process for a job starts the command as a child and hands signals on to it; the child alone trains. On this machine
a point ends with its sweep, however that ends: submitit's own processes would outlive it. On Slurm a job goes on, and a sweep
that is started again finds it by its number.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple

from l2lcli.config import ConfigError
from l2lcli.runs import sweeps
from l2lcli.runs.files import RunError, one_line
from l2lcli.runs.status import is_locked

POLL = 0.2  # seconds between two looks at a child
GRACE = 60.0  # seconds that a child has to stop in before it is killed, which loses the work since its last checkpoint
FOREVER = 60 * 24 * 365  # minutes: submitit ends a local job after 2 by default
RETRIES = 1000  # times that a job may run out of time and be queued again: every time it is further
TERM_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)

Name = Literal["auto", "local", "slurm"]


class Cluster(NamedTuple):
    """Where jobs run.

    Attributes:
      name: "local" or "slurm".
      parameters: submitit's, such as timeout_min.
    """

    name: str
    parameters: dict[str, Any]


class Task:
    """What submitit calls, in a process of its own: a command as a child, run to its end.

    SIGTERM is handed on to the child, which then stops so that it can be gone on with. `checkpoint` is what submitit calls when
    a job is preempted or about to run out of time: the child is stopped, and the same task is what is to be run next. Where
    nobody queues it again, the run stays stopped.
    """

    def __init__(self, command: list[str], folder: Path, sweep: tuple[Path, int] | None, environment: dict[str, str | None]):
        """Takes the command; its run's folder; the sweep's folder and process that it ends with; variables to set, or not."""
        self.command, self.folder, self.sweep, self.environment = command, folder, sweep, environment
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def __call__(self) -> int:
        """Run it; the child's exit code, negative for a signal."""
        signal.signal(signal.SIGTERM, self._stop)
        parent = os.getppid()
        while is_locked(self.folder) and not self._abandoned(parent):  # by what was at work here before, and is stopping
            time.sleep(POLL)
        if self._stopping or self._abandoned(parent):
            return 75
        environment = {**os.environ, **{key: value for key, value in self.environment.items() if value is not None}}
        for key, value in self.environment.items():
            if value is None:
                environment.pop(key, None)
        own = os.getpid()
        self._child = child = subprocess.Popen(
            self.command,
            env=environment,
            start_new_session=True,  # signals to submitit's processes are not for it
            preexec_fn=lambda: _end_with(own),
        )
        if self._stopping:  # between the look above and now
            child.send_signal(signal.SIGTERM)
        while child.poll() is None:
            if self._abandoned(parent):
                self._stop()
            time.sleep(POLL)
        return child.returncode

    def checkpoint(self) -> Any:
        """Stop the child; what submitit is to run next."""
        from submitit.helpers import DelayedSubmission

        self._stop()
        late = time.monotonic() + GRACE
        while (child := self._child) is not None and not _ended(child.pid):
            if time.monotonic() > late:
                child.kill()
            time.sleep(POLL)
        return DelayedSubmission(Task(self.command, self.folder, self.sweep, self.environment))

    def _stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        if not self._stopping and self._child is not None:  # a second SIGTERM would end it at once
            self._child.send_signal(signal.SIGTERM)
        self._stopping = True

    def _abandoned(self, parent: int) -> bool:
        """Whether submitit's process above this one, or the sweep that it belongs to, is gone."""
        if os.getppid() != parent:
            return True
        return self.sweep is not None and not (is_locked(self.sweep[0]) and sweeps.holder(self.sweep[0]) == self.sweep[1])


def _end_with(parent: int) -> None:
    """Called in the child: SIGTERM when its parent ends, where the system can do that; and SIGINT, blocked so far, counts."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(TERM_WITH_PARENT, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(75)


def _ended(pid: int) -> bool:
    """Whether a child has ended. It is left for `Popen` to take note of, which this may have interrupted in doing so."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def cluster(name: Name, parameters: Mapping[str, Any]) -> Cluster:
    """Where the jobs of a sweep will run. `parameters` are Slurm's, under submitit's names.

    Raises RunError where submitit is not installed, ConfigError for parameters that it does not take.
    """
    submitit = _submitit()
    found = submitit.AutoExecutor.which() if name == "auto" else name
    if found not in ("local", "slurm"):
        raise ConfigError([f"--cluster: submitit finds {found!r} here: name local or slurm"])
    if found == "local":
        if parameters:
            raise ConfigError([f"--slurm {next(iter(parameters))}: the points run on this machine (see --cluster)"])
        return Cluster(found, {"timeout_min": FOREVER})
    if several := [key for key in ("nodes", "tasks_per_node") if parameters.get(key, 1) != 1]:
        raise ConfigError([f"--slurm {several[0]}: a point is one process"])
    general = submitit.AutoExecutor._typed_parameters()
    chosen = Cluster(found, {key if key in general else f"slurm_{key}": value for key, value in parameters.items()})
    try:
        _executor(chosen, Path(sweeps.JOBS))
    except (NameError, AssertionError, ValueError, TypeError) as error:
        raise ConfigError([f"--slurm: {one_line(error)}"]) from None
    except RuntimeError as error:
        raise RunError(one_line(error)) from None
    return chosen


def submit(cluster: Cluster, sweep: Path, name: str, command: list[str], gpu: str | None = None) -> Any:
    """Submit the command of a point; submitit's job. gpu: the one that it is to see, of those of this machine.

    Raises RunError where it cannot be submitted.
    """
    # submitit hides every GPU from a local job that does not ask for some
    environment = {"CUDA_VISIBLE_DEVICES": gpu or os.environ.get("CUDA_VISIBLE_DEVICES")} if cluster.name == "local" else {}
    task = Task(command, sweep / name, (sweep, os.getpid()) if cluster.name == "local" else None, environment)
    try:
        with _uninterrupted():
            return _executor(cluster, sweep / sweeps.JOBS / name).submit(task)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise RunError(f"{name}: cannot be submitted: {one_line(error)}") from None


def adopt(cluster: Cluster, sweep: Path, name: str, number: str) -> Any:
    """The job of that number, which an earlier process submitted to Slurm; None where it is over, or was on this machine."""
    if cluster.name != "slurm":
        return None
    job = _submitit().SlurmJob(folder=sweep / sweeps.JOBS / name, job_id=number)
    return None if job.done() else job


def stop(job: Any, cluster: Cluster) -> None:
    """Ask a job to end; its run stops so that it can be gone on with."""
    if cluster.name == "slurm":
        job.cancel(check=False)
    elif job._process.poll() is None:
        job._process.send_signal(signal.SIGTERM)  # which submitit's process hands on; cancel() would kill a second later


def said(job: Any) -> str:
    """The last line that a job wrote to stderr, submitit's own left out."""
    with suppress(OSError):
        lines = job.paths.stderr.read_text(errors="replace").splitlines()
        own = [line for line in lines if line.strip() and not line.startswith("submitit ")]
        return own[-1].removeprefix("l2l: ") if own else ""
    return ""


def gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES can name on this machine, without asking JAX, which would take their memory."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return []
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [each for each in named.split(",") if each]
    words = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        asked = subprocess.run(words, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    return asked.stdout.split() if asked.returncode == 0 else []


def _executor(cluster: Cluster, folder: Path) -> Any:
    options = {"slurm_max_num_timeout": RETRIES} if cluster.name == "slurm" else {"local_max_num_timeout": RETRIES}
    executor = _submitit().AutoExecutor(folder=folder, cluster=cluster.name, **options)
    executor.update_parameters(**cluster.parameters)
    return executor


@contextmanager
def _uninterrupted():
    """SIGINT is held back, here for a moment and in what is started for good: Ctrl-C is this process's to hand on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _submitit() -> Any:
    try:
        import submitit  # pyright: ignore[reportMissingImports]
    except ImportError:
        how = "pip install 'l2lcli[cluster]'; or print the points' commands, to run them otherwise: --emit-commands"
        raise RunError(f"the points of a sweep are run by submitit, which is not installed: {how}") from None
    return submitit
