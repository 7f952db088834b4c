"""Meta-training as TensorBoard event files, a second copy of metrics.jsonl, where tensorboardX is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from l2lcli.runs.files import one_line

FOLDER = "tensorboard"
TAGS = {
    "loss": "meta-training/loss",
    "grad_norm": "meta-training/gradient_norm",
    "learning_rate": "meta-training/learning_rate",
    "skipped": "meta-training/skipped_updates",
    "validation_loss": "validation/loss",
}


class Events:
    """The event file of a run's meta-training, in `<run>/tensorboard/`. A context manager.

    It is begun anew from the rows whenever the run is, so that a run that is gone on with says no step twice. Whatever goes
    wrong with it ends the event file, never the run.

    Args:
      run: the run directory.
      rows: those of metrics.jsonl so far.
      warn: called with a line if it cannot be written.
    """

    def __init__(self, run: Path, rows: list[dict[str, Any]], warn: Callable[[str], None]) -> None:
        """Nothing is written where tensorboardX is not installed."""
        self._folder, self._warn = run / FOLDER, warn
        self._writer: Any = None
        try:
            from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]  an extra
        except ImportError:
            return
        self._guarded(lambda: self._begin(SummaryWriter))
        self.add(rows)

    def __enter__(self) -> Events:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            self._guarded(writer.close)

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Write rows of metrics.jsonl; what is null in them is left out."""
        if self._writer is not None and rows:
            self._guarded(lambda: self._write(rows))

    def _begin(self, writer: Callable[..., Any]) -> None:
        for old in self._folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = writer(str(self._folder))

    def _write(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            for key, tag in TAGS.items():
                if row.get(key) is not None:
                    self._writer.add_scalar(tag, row[key], row["step"])
        self._writer.flush()

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            self._writer = None
            self._warn(f"warning: {self._folder}: no TensorBoard events from here on: {one_line(error)}")
