"""A run's sinks: what they heard is kept in its folder, and what goes wrong with one ends that one alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple

from l2lcli import processes
from l2lcli.config import Config, ConfigError
from l2lcli.runs.files import RunError, as_json, one_line, read_json
from l2lcli.runs.rundir import Run
from l2lcli.signals import Diverged, Stopped
from l2lcli.sinks import source
from l2lcli.sinks.source import Sink

FILE = "sinks.json"  # of a run: {name: {"kept": what it wants to be given again, "told": rows that it heard of}}
ALWAYS = "tensorboard"  # heard where it is installed, named or not


def demand(config: Config) -> None:
    """Raise ConfigError unless all that the config's sinks need is installed."""
    absent = [(i, name, source.missing(name)) for i, name in enumerate(config.sinks)]
    if faults := [f"sinks.{i}: {name}: {reason}" for i, name, reason in absent if reason is not None]:
        raise ConfigError(faults)


class _Open(NamedTuple):
    sink: Sink
    kept: Mapping[str, Any] | None  # None: it begins anew with every process
    told: int  # rows of metrics.jsonl that it heard of


class Sinks:
    """The sinks of one process's work on a run. A context manager, at whose end they hear how it ended.

    What a sink raises ends it, with one warning; a run that is gone on with tries it again, and tells it what it missed.

    Args:
      run: the run; its process alone writes what was heard.
      config: its config, whose `sinks` are named.
      warn: called with a line for each sink that is ended.
    """

    def __init__(self, run: Run, config: Config, warn: Callable[[str], None]) -> None:
        """Nothing is imported, and nothing told, before `begin`."""
        self._run, self._config, self._warn = run, config, warn
        self._open: dict[str, _Open] = {}
        self._memory: dict[str, Any] = {}
        self._rows = 0  # of metrics.jsonl, so far

    def __enter__(self) -> Sinks:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes them."""
        ends = {Stopped: "stopped", Diverged: "diverged"}
        state = "done" if error is None else next((end for of, end in ends.items() if isinstance(error, of)), "failed")
        for name, each in list(self._open.items()):
            self._guarded(name, lambda each=each: each.sink.close(state))
        self._open.clear()

    def begin(self, rows: list[dict[str, Any]]) -> None:
        """Open those that the config names, in the first process; `rows` are those of metrics.jsonl so far."""
        if not processes.first():
            return
        try:
            self._memory = read_json(self._run.path / FILE) or {}
        except RunError as error:
            self._warn(f"warning: {error}: the sinks begin anew")
        always = [ALWAYS] if ALWAYS not in self._config.sinks and source.missing(ALWAYS) is None else []
        for name in [*always, *self._config.sinks]:
            self._guarded(name, lambda name=name: self._begin(name))
        self.add(rows)

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Tell them of rows that metrics.jsonl has got."""
        rows = as_json(rows)  # as they are there: null for what is not finite
        before, self._rows = self._rows, self._rows + len(rows)
        for name, each in list(self._open.items()):
            if new := rows[max(each.told - before, 0) :]:
                self._guarded(name, lambda name=name, each=each, new=new: self._tell(name, each, new))

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Tell them what the evaluation found."""
        for name, each in list(self._open.items()):
            self._guarded(name, lambda each=each: each.sink.summary(summary))

    def _begin(self, name: str) -> None:
        sink, before = source.named(name).build(), self._memory.get(name)
        kept = sink.begin(self._run.path, self._config.model_dump(mode="json"), None if before is None else before["kept"])
        self._note(name, _Open(sink, kept, before["told"] if before is not None and kept == before["kept"] else 0))

    def _tell(self, name: str, each: _Open, rows: list[dict[str, Any]]) -> None:
        each.sink.add(rows)
        self._note(name, each._replace(told=self._rows))

    def _note(self, name: str, each: _Open) -> None:
        """Remember what it heard: after it did, so that it misses nothing."""
        self._open[name] = each
        if each.kept is not None:
            self._memory[name] = {"kept": each.kept, "told": each.told}
            self._run.write_json(FILE, self._memory)

    def _guarded(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            self._open.pop(name, None)
            self._warn(f"warning: sink {name}: is told nothing from here on: {one_line(error)}")
