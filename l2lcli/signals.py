"""SIGINT and SIGTERM as a flag that is looked at where stopping is safe."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT = {signal.SIGTERM: 75, signal.SIGINT: 130}


class Stopped(Exception):  # noqa: N818  (no error: somebody asked for it)
    """The process was asked to stop.

    Attributes:
      exit_code: 75 after SIGTERM, 130 after SIGINT.
    """

    def __init__(self, number: signal.Signals) -> None:
        """Takes the signal that came."""
        super().__init__(f"stopped by {number.name}")
        self.exit_code = EXIT[number]


class Signals:
    """The flag. `check` raises Stopped once a signal came; a second signal of that kind ends the process at once."""

    def __init__(self) -> None:
        """No signal yet."""
        self.received: signal.Signals | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        self.received = signal.Signals(number)
        signal.signal(number, signal.SIG_DFL)

    def check(self) -> None:
        """Raise Stopped if a signal came."""
        if self.received is not None:
            raise Stopped(self.received)


@contextmanager
def listening() -> Iterator[Signals]:
    """SIGINT and SIGTERM set a flag for the duration. Main thread only."""
    flag = Signals()
    before = {number: signal.signal(number, flag) for number in EXIT}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
