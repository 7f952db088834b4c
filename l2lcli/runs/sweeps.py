"""Sweeps as they lie on disk: `runs/<name>/sweep-<time>-<hash4>/`, in it a run directory for each point, and sweep.json.

What a point's state is, its run directory says; sweep.json, rewritten whenever one changes, repeats it for other readers. The
points' configs lie in configs/, as they were when the sweep was begun, with copies of what they import: later changes of the
experiment file change nothing of a sweep.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from l2lcli.runs import rundir
from l2lcli.runs.files import RunError, faults, read_json, replacing, strict_json
from l2lcli.runs.folders import SWEEP as NAME
from l2lcli.runs.folders import new_folder
from l2lcli.runs.status import take_lock

CONFIGS = "configs"
JOBS = "jobs"  # what submitit writes: a folder for each point, with its logs
FINAL = ("done", "failed", "diverged")  # states that the same command does not change


class Point(NamedTuple):
    """One point, as sweep.json has it.

    Attributes:
      name: its folder's.
      experiment: the name of its experiment.
      values: dotted key -> value, on the axes.
      after: the points that it needs done.
      devices: how many it is run with; None: as many as it chooses.
    """

    name: str
    experiment: str
    values: dict[str, Any]
    after: tuple[str, ...]
    devices: int | None


class Sweep(NamedTuple):
    """A sweep that was begun.

    Attributes:
      path: its folder.
      record: what sweep.json says.
      points: in an order in which every one comes after those that it needs.
    """

    path: Path
    record: dict[str, Any]
    points: dict[str, Point]


def create(root: Path, name: str, record: dict[str, Any], files: Mapping[str, str | bytes]) -> Sweep:
    """Make `<root>/<name>/sweep-<time>-<hash4>/` with sweep.json and, in configs/, `files`. Raises RunError.

    record: `command`, `digest`, `axes`, `sample`, and `points`, name -> {experiment, values, after, devices, …}.
    """
    folder = new_folder(root, name, "sweep-")
    for relative, content in files.items():
        path = folder / CONFIGS / relative
        with faults(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content if isinstance(content, bytes) else content.encode())
    with replacing(folder / NAME) as file:  # last: with it the folder is a sweep
        file.write(strict_json(record))
    return read(folder)


def is_sweep(folder: Path) -> bool:
    """Whether a folder is a sweep's."""
    return (folder / NAME).is_file()


def read(folder: Path) -> Sweep:
    """A sweep. Raises RunError where there is none, or its sweep.json is damaged."""
    folder = Path(folder)
    record = read_json(folder / NAME)
    if record is None:
        raise RunError(f"{folder}: not a sweep: it has no {NAME}" if folder.is_dir() else f"{folder}: no such sweep")
    try:
        points = {
            name: Point(name, said["experiment"], said["values"], tuple(said["after"]), said["devices"])
            for name, said in record["points"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder / NAME}: damaged: {type(error).__name__}: {error}") from None
    return Sweep(folder, record, points)


def states(sweep: Sweep) -> dict[str, tuple[str, str | None]]:
    """(state, reason) of every point: those of `state`, and "blocked" where a point that it needs has failed."""
    found: dict[str, tuple[str, str | None]] = {}
    for name, point in sweep.points.items():
        found[name] = settled(point, state(sweep.path / name), found)
    return found


def told(sweep: Sweep) -> dict[str, tuple[str, str | None]]:
    """As `states`; of a point that never became a run, what sweep.json says of the last attempt."""
    said = {name: (str(point.get("state")), point.get("reason")) for name, point in sweep.record["points"].items()}
    lost = ("failed", "blocked")
    return {name: said[name] if own[0] == "waiting" and said[name][0] in lost else own for name, own in states(sweep).items()}


def settled(point: Point, own: tuple[str, str | None], others: Mapping[str, tuple[str, str | None]]) -> tuple[str, str | None]:
    """A point's state, given those of the points that it needs."""
    lost = [name for name in point.after if others[name][0] in ("failed", "diverged", "blocked")]
    return ("blocked", f"{lost[0]} is {others[lost[0]][0]}") if lost and own[0] == "waiting" else own


def state(folder: Path) -> tuple[str, str | None]:
    """(state, reason) of a point's folder: a run's, "killed" included, "running" from its start on, or "waiting"."""
    try:
        status = rundir.open_run(folder).read_status()
    except RunError:  # not begun, or killed while its folder was made
        return "waiting", None
    return ("running" if status["state"] == "starting" else str(status["state"])), status.get("reason")


def write_states(sweep: Sweep, now: Mapping[str, tuple[str, str | None]], jobs: Mapping[str, str]) -> None:
    """Rewrite sweep.json with the points' states, their reasons, and the ids of the jobs that are at work on them.

    Raises RunError.
    """
    points = sweep.record["points"]
    for name, (own, reason) in now.items():
        said = {**points[name], "state": own, "reason": reason, "job": jobs.get(name)}
        points[name] = {key: value for key, value in said.items() if value is not None or key == "devices"}
    with replacing(sweep.path / NAME) as file:
        file.write(strict_json(sweep.record))


def newest(root: Path, digest: str | None = None, name: str = "*") -> Sweep | None:
    """The sweep below `root` that was begun last, of those of that digest, or of those that are not finished; None: none.

    A sweep that cannot be read is passed over.
    """
    found: dict[str, Sweep] = {}
    for file in Path(root).glob(f"{name}/sweep-*/{NAME}"):
        with suppress(RunError):
            sweep = read(file.parent)
            wanted = sweep.record.get("digest") == digest if digest else not finished(sweep)
            found |= {file.parent.name: sweep} if wanted else {}
    return found[max(found)] if found else None


def finished(sweep: Sweep) -> bool:
    """Whether nothing is left to run."""
    return all(own in (*FINAL, "blocked") for own, _ in states(sweep).values())


def done(folder: Path) -> list[Path]:
    """The folders of a sweep's points, those first that others start from; of any other folder, itself.

    Raises RunError where a point is not done.
    """
    if not is_sweep(folder):
        return [folder]
    sweep = read(folder)
    if left := [name for name, (own, _) in states(sweep).items() if own != "done"]:
        named = ", ".join(left[:4]) + (" …" if len(left) > 4 else "")
        raise RunError(f"{folder}: {len(left)} of its {len(sweep.points)} points are not done: {named}")
    return [folder / name for name in sweep.points]


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder for this process alone. Raises RunError where another has it."""
    descriptor = take_lock(folder)
    try:
        yield
    finally:
        os.close(descriptor)


def holder(folder: Path) -> int:
    """The process that took the folder last. Raises RunError."""
    with faults(folder):
        return int((folder / ".lock").read_text() or 0)
