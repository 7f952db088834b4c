"""Weights & Biases. Its environment variables say where to: `WANDB_PROJECT`, `WANDB_ENTITY`, `WANDB_MODE=offline` …

A file called `wandb.py` would hide the package from type checkers.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from l2lcli.sinks._numbers import of_row, of_summary
from l2lcli.sinks.source import register

STEP = "meta-step"  # what curves are drawn over
CODES = {"done": 0, "stopped": 75}  # as the command's exit codes; any other state is a failure


@register("wandb", package="wandb", extra="wandb")
class WandB:
    """Weights & Biases: a run of the project `l2l`, or of `WANDB_PROJECT`; `WANDB_MODE=offline` keeps it on the disk."""

    def begin(self, run: Path, config: Mapping[str, Any], kept: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """A new run, or the one that was begun; offline that is another folder, with the same id."""
        import wandb  # pyright: ignore[reportMissingImports]  an extra

        identity = dict(kept or {"id": secrets.token_hex(4)})
        self._run: Any = wandb.init(
            id=identity["id"],
            resume="allow",
            project=os.environ.get("WANDB_PROJECT") or "l2l",
            group=os.environ.get("WANDB_RUN_GROUP") or config["name"],
            name=os.environ.get("WANDB_NAME") or run.name,
            dir=os.environ.get("WANDB_DIR") or str(run),
            config=dict(config),
            settings=wandb.Settings(console="off", save_code=False),  # stdout is the result's
        )
        # Over a number of its own, not over wandb's counter, which passes over rows that come to a step that it has seen.
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)
        return identity

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """An entry of the history for each row."""
        for row in rows:
            self._run.log({STEP: row["step"], **of_row(row)})

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Into the run's summary."""
        self._run.summary.update(of_summary(summary))

    def close(self, state: str) -> None:
        """Finished, or failed; waits until everything is sent."""
        self._run.finish(exit_code=CODES.get(state, 1))
