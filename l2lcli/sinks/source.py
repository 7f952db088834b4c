"""What a sink is, and the decorator that adds one. Importing it loads none of the packages that sinks are made with.

A new sink is one new file with one decorator, in this package or outside of it:

    @register("mine", package="tracker")
    class Mine: ...
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from l2lcli import plugins
from l2lcli.registry import NAME, import_entries


class Sink(Protocol):
    """What hears of a run besides its files. Whatever it raises ends it with a warning, and not the run."""

    def begin(self, run: Path, config: Mapping[str, Any], kept: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """The run is begun, or gone on with; what `metrics.jsonl` holds already is added next.

        Args:
          run: its folder.
          config: the whole config, as JSON holds it.
          kept: what this method returned when the run was begun, if it is gone on with.

        Returns:
          What it wants to be given then, as JSON holds it, such as the name of the other side's run: it then hears only of
          rows that it did not hear of before. None, or something other than `kept`: it begins anew, and hears of all.
        """
        ...

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows that `metrics.jsonl` has got, in their order; what is not finite is None in them."""
        ...

    def summary(self, summary: Mapping[str, Any]) -> None:
        """What the evaluation found, as in `summary.json`."""
        ...

    def close(self, state: str) -> None:
        """The process is done with the run: "done", or "stopped", "diverged" or "failed" and it may be gone on with."""
        ...


class Registered(NamedTuple):
    """A sink by its name.

    Attributes:
      build: makes one; its docstring's first line says what it is.
      package: what has to be installed for it, if anything.
      extra: of l2lcli, with which it is.
    """

    build: Callable[[], Sink]
    package: str | None
    extra: str | None


_registered: dict[str, Registered] = {}  # filled by `register` as modules are imported


def register(
    name: str, *, package: str | None = None, extra: str | None = None
) -> Callable[[Callable[[], Sink]], Callable[[], Sink]]:
    """Decorate what makes the sink `name`, a class or a function without arguments; the others are as in `Registered`.

    Raises RegistrationError if the name is taken, or none.
    """
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise plugins.RegistrationError(f"{name!r} is no name of a sink: it must be small letters, digits and underscores")

    def decorate(build: Callable[[], Sink]) -> Callable[[], Sink]:
        if not build.__module__.startswith("l2lcli.sinks."):
            import_entries("l2lcli.sinks")  # before anybody else's name: one of ours stays ours
        if name in _registered and (other := _registered[name].build).__module__ != build.__module__:
            raise plugins.RegistrationError(f"sink {name!r} is registered already, by {other.__module__}")
        _registered[name] = Registered(build, package, extra)
        plugins.registered.append(f"sink {name!r}")
        return build

    return decorate


def known() -> dict[str, Registered]:
    """Every sink that a config can name, sorted. Raises PluginError at a broken entry point."""
    import_entries("l2lcli.sinks")
    plugins.take_entry_points("l2l.sinks")
    return dict(sorted(_registered.items()))


def named(name: str) -> Registered:
    """A sink that a config names. Other packages' are imported for a name alone that is not one of ours or of an import."""
    import_entries("l2lcli.sinks")
    return _registered[name] if name in _registered else known()[name]


def describe() -> list[tuple[str, str]]:
    """Name and one line for every sink, sorted by name."""
    return [(name, ((sink.build.__doc__ or "").strip().splitlines() or [""])[0]) for name, sink in known().items()]


def missing(name: str) -> str | None:
    """What has to be installed before a known sink can be used, as the end of a sentence; None if nothing has."""
    sink = named(name)
    if sink.package is None or _installed(sink.package):
        return None
    how = f": pip install 'l2lcli[{sink.extra}]'" if sink.extra else ""
    return f"{sink.package} is not installed{how}"


def _installed(package: str) -> bool:
    """Whether a package could be imported; it is not."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # it is imported already, and does not say from where
        return True
