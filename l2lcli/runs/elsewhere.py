"""A run as the other processes of it see it: the first one alone reads and writes its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from l2lcli.runs.checkpoint import Checkpoint
from l2lcli.runs.rundir import Run
from l2lcli.runs.status import State


class Elsewhere(Run):
    """A `Run` that writes nothing, and finds nothing: what there is to read, the first process says."""

    def lock(self) -> None:
        """The first process has it."""

    def status(self, state: State, step: int | None = None, reason: str | None = None, **more: Any) -> None:
        """Not written."""

    def read_status(self) -> dict[str, Any]:
        """Nothing is known."""
        return {"state": "running"}

    def write_bytes(self, relative: str, data: bytes) -> None:
        """Not written."""

    def write_curves(self, relative: str, columns: list[str], rows: Iterable[tuple[Any, ...]]) -> None:
        """Not written."""

    def write_optimizer(self, name: str, phi: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
        """Not written."""

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Not written."""

    def rows(self) -> list[dict[str, Any]]:
        """None."""
        return []

    def truncate(self, count: int) -> None:
        """Not done."""

    def save(self, step: int, arrays: Mapping[str, np.ndarray], meta: Any, best: float | None = None) -> None:
        """Not written."""

    def restore(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """None."""
        return None
