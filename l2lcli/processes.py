"""The processes of a run on several machines: how many there are, and what they tell each other.

All of them run the same program. What hangs on a clock, a disk or a signal is therefore decided in one place, the first
process's or all of them together, and told to the others: else they would soon wait for each other for ever. Without
`jax.distributed` there is one process, and nothing here does anything. Loads no JAX before there is a second process.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")
_alone = False  # see `alone`
_noted: Callable[[], None] = lambda: None  # see `note_by`


def count() -> int:
    """How many processes there are."""
    return sys.modules["jax"].process_count() if _joined() else 1


def index() -> int:
    """Which one this is, from 0."""
    return sys.modules["jax"].process_index() if _joined() else 0


def first() -> bool:
    """Whether this is the one that writes and prints."""
    return index() == 0


def _joined() -> bool:
    return "jax" in sys.modules and not _alone and sys.modules["jax"].distributed.is_initialized()


@contextmanager
def alone() -> Iterator[None]:
    """Each process works by itself for the duration, as if there were no other."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def note_by(note: Callable[[], None]) -> None:
    """`note` is called whenever this process has come to where all soon have to come: who stays away can be told from it."""
    global _noted
    _noted = note


def agreed(*numbers: int) -> list[list[int]]:
    """What each process says, in their order: a list for each. All have to call it, with as many numbers."""
    if count() == 1:
        return [list(numbers)]
    from jax.experimental import multihost_utils

    _noted()
    return np.asarray(multihost_utils.process_allgather(np.array(numbers, np.int32))).tolist()


def shared(find: Callable[[], T], slow: bool = False) -> T:
    """What `find` returns in the first process, which alone calls it. All have to call this.

    slow: it may take minutes, while the others wait.
    """
    if count() == 1:
        return find()
    from jax.experimental import multihost_utils

    if not (slow or first()):
        _noted()
    # Pickle is bad for files of nobody knows where; this comes from a process of the same run, started by the same user.
    data = np.frombuffer(pickle.dumps(find()), np.uint8) if first() else np.zeros(0, np.uint8)
    if not slow and first():
        _noted()
    size = int(multihost_utils.broadcast_one_to_all(np.int64(data.size) if first() else np.int64(0)))
    sent = multihost_utils.broadcast_one_to_all(data if first() else np.zeros(size, np.uint8))
    return pickle.loads(np.asarray(sent, np.uint8).tobytes())


def gathered(value: T) -> list[T]:
    """What each process has, in their order. All have to call it."""
    if count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    data = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int64(data.size)))
    filled = np.zeros(int(sizes.max()), np.uint8)
    filled[: data.size] = data
    rows = np.asarray(multihost_utils.process_allgather(filled))
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes.tolist(), strict=True)]


class Rows(NamedTuple):
    """Which of n independent rows, such as evaluation seeds, are this process's.

    Attributes:
      total: n.
      mine: their numbers, as many for every process: the last row stands in for what is missing.
    """

    total: int
    mine: np.ndarray

    def whole(self, parts: Any) -> Any:
        """A tree of arrays [n, ...], from each process's of its own rows. All have to call it."""
        if count() == 1:
            return parts
        import jax

        every = gathered(jax.tree.map(np.asarray, parts))
        return jax.tree.map(lambda *arrays: np.concatenate(arrays)[: self.total], *every)


def rows(total: int) -> Rows:
    """Split so many rows over the processes; with one process they are all its own."""
    share = -(-total // count())
    return Rows(total, np.minimum(np.arange(share) + index() * share, total - 1))
