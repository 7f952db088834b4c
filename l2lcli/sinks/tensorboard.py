"""TensorBoard event files, a second copy of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from l2lcli.sinks._numbers import of_row
from l2lcli.sinks.source import register

FOLDER = "tensorboard"


@register("tensorboard", package="tensorboardX", extra="tensorboard")
class TensorBoard:
    """TensorBoard: an event file in the run's folder; it is written wherever tensorboardX is installed, named or not."""

    def begin(self, run: Path, config: Mapping[str, Any], kept: Mapping[str, Any] | None) -> None:
        """The file is begun anew whenever the run is, so that one that is gone on with says no step twice."""
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]  an extra

        for old in (run / FOLDER).glob("events.out.tfevents.*"):
            old.unlink()
        self._writer: Any = SummaryWriter(str(run / FOLDER))

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """A scalar for each number."""
        for row in rows:
            for tag, number in of_row(row).items():
                self._writer.add_scalar(tag, number, row["step"])
        self._writer.flush()

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Nothing: it has no steps to be drawn over."""

    def close(self, state: str) -> None:
        """Closes the file."""
        self._writer.close()
