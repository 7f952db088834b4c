"""One run = one folder: create it, log rows, checkpoint, keep the artefact and the status. Nothing of the science is computed.

Every file but metrics.jsonl is replaced whole (temporary file beside it, fsync, rename), and metrics.jsonl grows by whole
lines, so that a process killed at any moment leaves a folder that can be read and gone on with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from l2lcli.runs import checkpoint
from l2lcli.runs.artefact import write_artefact
from l2lcli.runs.checkpoint import Checkpoint
from l2lcli.runs.files import RunError, faults, one_line, replace_csv, replacing, strict_json
from l2lcli.runs.folders import SWEEP, demand_new, new_folder, point_latest
from l2lcli.runs.metrics import append_rows, flush_rows, keep_rows, read_rows
from l2lcli.runs.status import State, is_locked, read_status, take_lock, write_status


class Run:
    """One run directory. Made by `create` and `open_run`; every method raises RunError where the disk refuses.

    Attributes:
      path: the folder.
    """

    def __init__(self, path: Path) -> None:
        """A view of `path`, which is not looked at."""
        self.path = path
        self._lock: int | None = None  # descriptor that holds the flock
        self._manager: Any = None  # Orbax's, opened at the first save

    def __enter__(self) -> Run:
        """The run itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the run."""
        self.close()

    def close(self) -> None:
        """Lets go of the lock and of Orbax. The end of the process does the same, however it ends."""
        manager, self._manager = self._manager, None
        descriptor, self._lock = self._lock, None
        try:
            if manager is not None:
                manager.close()
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def lock(self) -> None:
        """Takes the run for this process alone.

        Raises:
          RunError: another process has it.
        """
        if self._lock is None:
            self._lock = take_lock(self.path)

    def status(self, state: State, step: int | None = None, reason: str | None = None, **more: Any) -> None:
        """Rewrites status.json. A step of None keeps the one written before; `started` is the run's first start.

        Raises:
          ValueError: no such state.
        """
        write_status(self.path, state, step, reason, **more)

    def read_status(self) -> dict[str, Any]:
        """What status.json says; state "killed" where it says that a process is at work and none holds the lock."""
        status = read_status(self.path)
        if status["state"] in ("starting", "running") and self._lock is None and not is_locked(self.path):
            status = read_status(self.path)  # it may have ended properly between the two looks
            if status["state"] in ("starting", "running"):
                status["state"] = "killed"
        return status

    def write_bytes(self, relative: str, data: bytes) -> None:
        """Replaces a file of the run, making the folders it needs."""
        with replacing(self._place(relative)) as file:
            file.write(data)

    def write_text(self, relative: str, text: str) -> None:
        """Replaces a text file of the run, UTF-8."""
        self.write_bytes(relative, text.encode())

    def write_json(self, relative: str, value: Any) -> None:
        """Replaces a JSON file of the run; NaN and infinities become null, NumPy scalars and arrays numbers and lists."""
        self.write_bytes(relative, strict_json(value))

    def write_curves(self, relative: str, columns: list[str], rows: Iterable[tuple[Any, ...]]) -> None:
        """Replaces a CSV file of the run; floats are written in the shortest form that reads back to the same bits."""
        replace_csv(self._place(relative), columns, rows)

    def write_optimizer(self, name: str, phi: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
        """Replaces an artefact of the run, `artefact.write_artefact`."""
        write_artefact(self.path / name, phi, about)

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Adds rows to metrics.jsonl, whole lines, handed to the system when it returns. NaN and infinities become null."""
        append_rows(self.path / "metrics.jsonl", rows)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl. A last line without its end, which a killed process leaves, is not counted.

        Raises:
          RunError: any other line that is not a JSON object.
        """
        return read_rows(self.path / "metrics.jsonl")

    def truncate(self, count: int) -> None:
        """Keeps the first `count` rows, byte for byte, so that a resumed run writes the following ones again.

        Raises:
          RunError: there are fewer.
        """
        keep_rows(self.path / "metrics.jsonl", count)

    def save(self, step: int, arrays: Mapping[str, np.ndarray], meta: Any, best: float | None = None) -> None:
        """Writes a checkpoint, complete on disk when it returns. The latest 2 are kept, and the best 1.

        Args:
          step: the newest step's number or a greater one; saving the newest step once more does nothing.
          arrays: '/'-joined keys to arrays of any numeric dtype or bool; the exact bits come back.
          meta: whatever JSON can hold.
          best: what this checkpoint is judged by, lower is better; None or NaN ranks last.

        Raises:
          ValueError: no bytes at all, or another dtype.
          TypeError: meta is not JSON.
          RunError: a step before the newest, or it could not be written.
        """
        header, data = checkpoint.pack(step, arrays, meta, best)
        folder = self.path / "checkpoints"
        try:
            self.path.stat()  # Orbax would make a deleted run's folder again
            flush_rows(self.path / "metrics.jsonl")  # a checkpoint must not outlive the rows it counts, not even a power cut
            if self._manager is None:
                self._manager = checkpoint.open_manager(folder)
            checkpoint.save(self._manager, header, data)
        except Exception as error:  # a full disk comes out of TensorStore as ValueError, RuntimeError or OSError
            self._manager = None  # the next one clears what this one left
            raise RunError(f"{folder}: cannot save checkpoint {step}: {one_line(error)}") from error

    def restore(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The newest intact checkpoint, or None if none was ever made. `warn` gets one line for each damaged one.

        Where this process holds the lock, damaged checkpoints are set aside as `checkpoints/damaged-<step>`.

        Raises:
          RunError: there are checkpoints and all are damaged.
        """
        folder = self.path / "checkpoints"
        with faults(folder):
            return checkpoint.restore(folder, warn, set_aside=self._lock is not None)

    def _place(self, relative: str) -> Path:
        """Where a file of the run goes; the folders on the way are made, but never the run's own once it was deleted."""
        path = self.path / relative
        with faults(path):
            for folder in [*reversed(Path(relative).parents)][1:]:
                (self.path / folder).mkdir(exist_ok=True)
        return path


def create(
    root: Path, name: str, config_text: str, *, path: Path | None = None, beside: Mapping[str, bytes] | None = None
) -> Run:
    """Makes a run directory, locked, with config.yaml and status.json (state "starting") in it, and points `latest` at it.

    Args:
      root: the folder of all runs, `runs`.
      name: the experiment's name, one folder below root.
      config_text: the resolved configuration, written as it is.
      path: the very folder to use instead of `<root>/<name>/<UTC yyyymmdd-hhmmss>-<hash4>`; it must be new or empty.
        `<root>/latest` moves only for a folder below root.
      beside: more files that are there from the start, of the names in `folders.FIRST`.

    Raises:
      RunError: the folder is not empty, or cannot be made.
    """
    if path is None:
        path = new_folder(Path(root), name)
    run = Run(Path(path))
    with faults(run.path):
        run.path.mkdir(parents=True, exist_ok=True)
        demand_new(run.path)  # before the lock, which is a file
        run.lock()
        try:
            demand_new(run.path)  # two processes may both have found it new
            run.status("starting")
            for relative, data in (beside or {}).items():
                run.write_bytes(relative, data)
            run.write_text("config.yaml", config_text)  # last: with it the folder is a run
            point_latest(Path(root), run.path)
        except BaseException:
            run.close()
            raise
    return run


def open_run(path: Path) -> Run:
    """A run directory to read, or to `lock` and go on with.

    Raises:
      RunError: it is not there, or is no run directory.
    """
    path = Path(path)
    with faults(path):
        if not path.is_dir():
            raise RunError(f"{path}: not a run directory" if path.exists() else f"{path}: no such run directory")
        missing = [name for name in ("config.yaml", "status.json") if not (path / name).is_file()]
    if missing:
        raise RunError(f"{path}: not a run directory: it has no {' and no '.join(missing)}")
    while path.is_symlink():  # `latest` will point elsewhere as soon as another run starts
        path = path.parent / path.readlink()
    return Run(path)


def newest(root: Path, finished: bool | None = None) -> Path:
    """The run below `root` that started last; the points of sweeps do not count.

    Args:
      root: the folder of all runs, or of one experiment's.
      finished: True: of those that are done and have their optimizer.npz; False: of those that are not done, and rather those
        that have begun than those that failed before, by a mistake in their config.

    Raises:
      RunError: there is none; the text says what to type.
    """
    found = []
    with faults(root):
        files = [file for depth in ("*", "*/*") for file in Path(root).glob(f"{depth}/status.json")]
        for file in files:
            folder = file.parent
            if (folder.parent / SWEEP).is_file():
                continue
            with suppress(RunError):  # a folder that is no run is no candidate
                status = read_status(open_run(folder).path)
                done = status["state"] == "done" and (folder / "optimizer.npz").is_file()
                if finished in (None, done) and not folder.is_symlink():  # `latest` would be its run a second time
                    begun = finished is None or status["state"] != "failed" or status.get("step") is not None
                    found.append((begun, str(status.get("started", "")), folder))
    if not found:
        kind = {None: "", True: "finished ", False: "unfinished "}[finished]
        raise RunError(f"no {kind}run in {root}; make one with: l2l train configs/digits.yaml")
    return max(found)[-1]
