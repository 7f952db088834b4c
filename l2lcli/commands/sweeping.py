"""`l2l sweep` at work: the points of a sweep begun, gone on with and counted, and one point in this process."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from l2lcli import config as configs
from l2lcli.commands import backend, begin, launch
from l2lcli.commands.launch import Cluster
from l2lcli.config.plan import Plan
from l2lcli.reports import sweep as reports
from l2lcli.runs import rundir, sweeps
from l2lcli.runs.files import RunError
from l2lcli.runs.status import is_locked
from l2lcli.runs.sweeps import Sweep
from l2lcli.signals import Signals, Stopped

POLL = 0.2  # seconds between two looks at what is running
States = dict[str, tuple[str, str | None]]


class Share(NamedTuple):
    """How the machine is shared out.

    Attributes:
      jobs: points at once.
      devices: of each point, by name; None: as many as the run chooses.
    """

    jobs: int
    devices: dict[str, int | None]


def share(plan: Plan, local: bool, jobs: int | None, devices: int | None) -> Share:
    """By default as many points at once as there are cores, or GPUs, each with one; cores left over go to the points."""
    most = len(plan.points)
    if not local:
        return Share(min(jobs or most, most), dict.fromkeys((point.name for point in plan.points), devices))
    cards = launch.gpus()
    jobs = min(jobs or len(cards) or max(backend.cores() // (devices or 1), 1), most)
    each = max(backend.cores() // jobs, 1)
    chosen = {
        point.name: devices or (None if cards else backend.divided(each, point.config.train.tasks)) for point in plan.points
    }
    return Share(jobs, chosen)


def at_once(sweep: Sweep, cluster: Cluster) -> int:
    """How many points of a sweep that was begun are run at once: as many as fit with the devices that they have."""
    if cluster.name != "local":
        return len(sweep.points)
    most = max((point.devices or backend.cores()) for point in sweep.points.values())
    return min(len(launch.gpus()) or max(backend.cores() // most, 1), len(sweep.points))


def drawn(sweep: Sweep) -> bool:
    """Whether figures are drawn: as the first point's config says of its own."""
    return configs.load(sweep.path / sweeps.CONFIGS / f"{next(iter(sweep.points))}.yaml").eval.report


def create(plan: Plan, devices: dict[str, int | None], root: Path, argv: list[str]) -> Sweep:
    """Write a sweep's folder; nothing in it is begun. Raises RunError."""
    files: dict[str, str | bytes] = {}
    points: dict[str, Any] = {}
    for point in plan.points:
        config, copies, about = begin.copied(point.config)
        places = {place: f"imports/{about[place]['sha256'][:8]}/{Path(place).name}" for place in copies}
        files |= {places[place]: content for place, content in copies.items()}
        config = config.model_copy(update={"imports": [places.get(name, name) for name in config.imports]})
        files[f"{point.name}.yaml"] = configs.dump(config)
        points[point.name] = {
            "experiment": point.experiment,
            "values": point.values,
            "after": list(point.after),
            "devices": devices[point.name],
            "state": "waiting",
        }
    axes = {experiment: {axis.key: axis.record() for axis in of} for experiment, of in plan.axes.items()}
    record = {"command": argv, "digest": plan.digest, "axes": axes, "sample": plan.sample, "points": points}
    return sweeps.create(root, plan.name, record, files)


def command(sweep: Sweep, name: str) -> list[str]:
    """What runs a point, whoever gives it: begins it, goes on with it, or says that it is done."""
    return [sys.executable, "-m", "l2lcli", "sweep", "--resume", str(sweep.path), "--point", name]


def run_point(sweep: Sweep, name: str, argv: list[str], signals: Signals, warn: Callable[[str], None]) -> None:
    """Run a point in this process, from the start or from its last checkpoint.

    Raises RunError where it is no point of the sweep, where what it starts from is not done, or where another process is at
    work on it; and what `train.train` raises.
    """
    if (point := sweep.points.get(name)) is None:
        raise RunError(f"{sweep.path}: no point {name!r}; they are listed in {sweeps.NAME}")
    for other in point.after:
        if (own := sweeps.state(sweep.path / other)[0]) != "done":
            raise RunError(f"{name} starts from {other}, which is not done ({own})")
    folder = sweep.path / name
    if sweeps.state(folder)[0] == "waiting":
        config = configs.load(sweep.path / sweeps.CONFIGS / f"{name}.yaml")
        if point.after:
            config = configs.override(config, {"train.init_from": str(sweep.path / point.after[0])})
        begun = begin.begin(config, folder, point.devices, argv)
    else:
        begun = begin.reopen(rundir.open_run(folder), warn)
    with begun.run as run:
        run.lock()
        if run.read_status()["state"] == "done":
            return warn(f"{folder} is done already")
        warn(f"run directory: {folder}")
        from l2lcli.commands import train as training

        training.train(run, begun.config, begun.devices or point.devices, argv, signals)


def run(sweep: Sweep, cluster: Cluster, jobs: int, signals: Signals, say: Callable[[str], None]) -> States:
    """Run what is left of a sweep that this process has locked; how its points stand at the end.

    Points that are done, or failed, are left as they are. What has failed here is not tried again, and what starts from it is
    not begun. Raises RunError, and Stopped once every point has stopped.
    """
    work = _Work(sweep, cluster, jobs, say)
    while not signals.received and work.step():
        time.sleep(POLL)
    if signals.received is None:
        return work.states
    say(f"stopping {len(work.running)} points" if len(work.running) != 1 else "stopping 1 point")
    for job in work.running.values():
        launch.stop(job, cluster)
    while work.collect():
        time.sleep(POLL)
    raise Stopped(signals.received, f"; go on with the same command, or: l2l sweep --resume {sweep.path}")


class _Work:
    """What is running, and how every point stands."""

    def __init__(self, sweep: Sweep, cluster: Cluster, jobs: int, say: Callable[[str], None]) -> None:
        self._sweep, self._cluster, self._jobs, self._say = sweep, cluster, jobs, say
        self.states: States = sweeps.states(sweep)
        self.running: dict[str, Any] = {}
        self._ended: set[str] = set()  # here, however: not begun again
        self._began: dict[str, float] = {}
        cards = launch.gpus() if cluster.name == "local" else []
        self._free: list[str | None] = [cards[i % len(cards)] if cards else None for i in range(jobs)]
        self._cards: dict[str, str | None] = {}
        for name, said in sweep.record["points"].items():
            if self.states[name][0] != "done" and (number := said.get("job")) is not None:
                job = launch.adopt(cluster, sweep.path, name, number)
                if job is not None:
                    self._enter(name, job)
        self._write()

    def step(self) -> bool:
        """Take note of what has ended, and begin what can be; whether anything is left to wait for."""
        self.collect()
        elsewhere = [name for name, (own, _) in self.states.items() if own == "running" and name not in self.running]
        for name in elsewhere:  # its process was begun by another sweep, or by hand
            self._settle(name)
        for name, point in self._sweep.points.items():
            if len(self.running) >= self._jobs:
                break
            own = self.states[name][0]
            ready = own in ("waiting", "stopped", "killed") and name not in self.running and name not in self._ended
            if ready and all(self.states[other][0] == "done" for other in point.after):
                self._begin(name)
        return bool(self.running or elsewhere)

    def collect(self) -> bool:
        """Take note of what has ended; whether anything is still running."""
        for name, job in [*self.running.items()]:
            if job.done() and not is_locked(self._sweep.path / name):
                del self.running[name]
                self._free.append(self._cards.pop(name))
                self._ended.add(name)
                self._settle(name, job)
                self._tell(name)
                self._write()
        return bool(self.running)

    def _begin(self, name: str) -> None:
        gone_on = self.states[name][0] != "waiting"
        self._say(f"{name}: {'resumed' if gone_on else 'started'}")
        card = self._free[-1] if self._free else None
        self._enter(name, launch.submit(self._cluster, self._sweep.path, name, command(self._sweep, name), card))
        self._write()

    def _enter(self, name: str, job: Any) -> None:
        self.running[name] = job
        self._cards[name] = self._free.pop() if self._free else None
        self._began[name] = time.monotonic()
        self.states[name] = "running", None

    def _settle(self, name: str, job: Any = None) -> None:
        """Read how a point stands, and what that means for those that start from it."""
        own, reason = sweeps.state(self._sweep.path / name)
        if own == "waiting" and job is not None:  # it ended before it was a run: the reason is nowhere but in its log
            own, reason = "failed", launch.said(job) or "ended without a word"
        self.states[name] = own, reason
        for other, point in self._sweep.points.items():
            if self.states[other][0] == "waiting":
                self.states[other] = sweeps.settled(point, self.states[other], self.states)

    def _tell(self, name: str) -> None:
        own, reason = self.states[name]
        count = sum(state in sweeps.FINAL for state, _ in self.states.values())
        loss = reports.validation(self._sweep.path / name)
        told = (
            f", validation loss {loss.loss:.4g}"
            if own == "done" and loss
            else f": {reason}"
            if reason and own != "stopped"
            else ""
        )
        seconds = time.monotonic() - self._began[name]
        self._say(f"{name}: {own}{told} ({seconds:.0f} s; {count} of {len(self.states)})")

    def _write(self) -> None:
        numbers = {name: str(job.job_id) for name, job in self.running.items()} if self._cluster.name == "slurm" else {}
        sweeps.write_states(self._sweep, self.states, numbers)
