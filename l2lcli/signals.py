"""How a command ends before it is done: by a signal, which is a flag looked at where stopping is safe, or by divergence."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT = {signal.SIGTERM: 75, signal.SIGINT: 130}


class Ending(Exception):  # noqa: N818  (no error of anybody's)
    """Base of both. `exit_code` is the process's."""

    exit_code: int


class Stopped(Ending):
    """Somebody asked the process to stop: exit code 75 after SIGTERM, 130 after SIGINT."""

    def __init__(self, number: signal.Signals, hint: str = "") -> None:
        """Takes the signal that came, and what to tell the user about going on."""
        super().__init__(f"stopped by {number.name}{hint}")
        self.number, self.exit_code = number, EXIT[number]


class Diverged(Ending):
    """Meta-training came to a run of meta-gradients that were not finite; the last good phi is saved."""

    exit_code = 4


class Signals:
    """The flag."""

    def __init__(self) -> None:
        """No signal yet."""
        self.received: signal.Signals | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler. A second signal of the same kind ends the process at once."""
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
