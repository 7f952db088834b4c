"""How a run shows its progress: a bar on a terminal or in a notebook, plain lines elsewhere; stdout is the result's."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any

from l2lcli import processes
from l2lcli.signals import Signals

PLAIN_SECONDS = 10.0  # between plain lines
WIDTH = 30  # of the bar in a notebook, in characters
RATE_SECONDS = 60.0  # that the rate is of: the first meta-steps wait for compilation, and are not what the others will take


class Display:
    """Shows one meta-training and its evaluation: the `Progress` of both. A context manager.

    Args:
      total: meta-steps in all.
      signals: what stops the work, if anything.
    """

    def __init__(self, total: int, signals: Signals | None = None) -> None:
        """Nothing is shown before the first `update` or `say`."""
        self._total = total
        self._silent = not processes.first()  # one of them shows it
        self._signals = signals
        self._notebook: Any = None  # IPython's handle on the one line that is shown
        self._done: deque[tuple[float, int]] = deque()
        self._shown = -PLAIN_SECONDS
        self._seen: dict[str, Any] = {}
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Display:
        """Opens the bar, on a terminal or in a notebook."""
        if self._silent:
            return self
        if in_notebook():
            from IPython.display import display  # pyright: ignore[reportMissingImports]  it is there where a notebook is

            self._notebook = display({"text/plain": "preparing"}, raw=True, display_id=True)
        elif sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:3.0f} %"),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task("preparing", total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the bar; in a notebook the line goes."""
        if self._notebook is not None:
            self._show("")
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def begin(self, step: int) -> None:
        """Meta-training begins now; `step` meta-steps were done before, by the run that is resumed."""
        self._done.clear()
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description="compiling")

    def update(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Meta-training has done `step` meta-steps and these new rows."""
        for row in rows:
            self._seen |= {key: row[key] for key in ("episode", "loss", "validation_loss") if key in row}
        rate = self._rate(step)
        line = f"episode {self._seen.get('episode', 0)}"
        line += "".join(f"  {name} {_number(self._seen[key])}" for key, name in NAMES.items() if key in self._seen)
        line += f"  {rate:.{1 if rate >= 1 else 3}f} meta-steps/s" if rate else ""
        if self._notebook is not None:
            share = step / max(self._total, 1)
            filled = round(WIDTH * share)
            self._show(f"{line}  [{'#' * filled}{'.' * (WIDTH - filled)}] {share:.0%}")
        elif self._bar is not None:
            self._bar.update(self._task, completed=step, description=line)
        elif time.monotonic() - self._shown >= PLAIN_SECONDS or step == self._total:
            self._shown = time.monotonic()
            left = f"  {_clock((self._total - step) / rate)} left" if rate else ""
            self._print(f"{line}  {100 * step // self._total} %{left}")

    def _rate(self, step: int) -> float | None:
        """Meta-steps per second of late, or None before there are two times to tell it from."""
        now = time.monotonic()
        self._done.append((now, step))
        while len(self._done) > 2 and now - self._done[1][0] > RATE_SECONDS:
            self._done.popleft()
        since, before = self._done[0]
        return (step - before) / (now - since) if step > before and now > since else None

    def check(self) -> None:
        """Raise Stopped if a signal came."""
        if self._signals is not None:
            self._signals.check()

    def say(self, line: str) -> None:
        """Show a line about what is being done."""
        if self._notebook is not None:
            self._show(line)
        elif self._bar is not None:
            self._bar.update(self._task, description=line)
        else:
            self._print(line)

    def warn(self, line: str) -> None:
        """Show a line that stays."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            self._print(line)

    def _show(self, line: str) -> None:
        self._notebook.update({"text/plain": line}, raw=True)

    def _print(self, line: str) -> None:
        if not self._silent:
            print(line, file=sys.stderr, flush=True)


def in_notebook() -> bool:
    """Whether this process runs the cells of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ == "ZMQInteractiveShell"


NAMES = {"loss": "loss", "validation_loss": "validation"}


def _number(x: float | None) -> str:
    return "not finite" if x is None else f"{x:.4g}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
