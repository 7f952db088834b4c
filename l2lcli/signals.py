"""How a command ends before it is done: by a signal, which is a flag looked at where stopping is safe, or by divergence.

And whom long work tells what it is doing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

EXIT = {signal.SIGTERM: 75, signal.SIGINT: 130}


class Progress(Protocol):
    """What work that takes long is given: somebody to tell, and to ask whether to go on."""

    def say(self, line: str) -> None:
        """Hear what is being done."""

    def check(self) -> None:
        """Called every few seconds, where stopping is safe; raises to stop."""


class Unwatched:
    """Nobody is told, and nothing stops it."""

    def say(self, line: str) -> None:
        """Pass it over."""

    def check(self) -> None:
        """Go on."""


UNWATCHED = Unwatched()


class Ending(Exception):  # noqa: N818  (no error of anybody's)
    """Base of both. `exit_code` is the process's."""

    exit_code: int
    together = False  # every process of the run ends so, at the same place


class Stopped(Ending):
    """Somebody asked the process to stop: exit code 75 after SIGTERM, 130 after SIGINT."""

    def __init__(self, number: signal.Signals, hint: str = "", together: bool = False) -> None:
        """Takes the signal that came, and what to tell the user about going on."""
        super().__init__(f"stopped by {number.name}{hint}")
        self.number, self.exit_code, self.together = number, EXIT[number], together

    def saying(self, hint: str) -> Stopped:
        """The same, with a hint."""
        return Stopped(self.number, hint, self.together)


class Diverged(Ending):
    """Meta-training came to a run of meta-gradients that were not finite; the last good phi is saved."""

    exit_code = 4
    together = True


class Signals:
    """The flag."""

    def __init__(self) -> None:
        """No signal yet."""
        self.received: signal.Signals | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The handler. A second signal of the same kind ends the process at once."""
        self.received = signal.Signals(number)
        signal.signal(number, signal.SIG_DFL)

    def receive(self, number: int) -> None:
        """A signal that came to another process; it may come to this one, too."""
        if self.received is None:
            self.received = signal.Signals(number)

    def check(self) -> None:
        """Raise Stopped if a signal came."""
        if self.received is not None:
            raise Stopped(self.received)


@contextmanager
def listening() -> Iterator[Signals]:
    """SIGINT and SIGTERM set a flag for the duration; outside of the main thread, which alone may say so, they do not."""
    flag = Signals()
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, flag) for number in EXIT} if main else {}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
