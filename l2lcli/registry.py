"""Names -> builders. A new problem, optimizer or estimator is one new file with one decorator; nothing else is edited.

    @problem.register("quadratic", QuadraticSpec)
    def quadratic(spec, raw_dir): ...

The modules of each family's package are found by listing the package, but for those whose names begin with `_`, which are
helpers. They must be cheap to import: they import JAX inside their builders, never at the top. That is what lets a config be
validated, and its run directory written, before JAX is loaded.
"""

from __future__ import annotations

import functools
import importlib
import operator
import pkgutil
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

from pydantic import Discriminator

from l2lcli import plugins
from l2lcli.base import EstimatorSpec, KindSpec, ProblemSpec, Spec
from l2lcli.plugins import RegistrationError

NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")


def where(builder: Callable[..., Any]) -> str:
    """The module, file and line of a builder."""
    code = getattr(builder, "__code__", None)
    return f"{builder.__module__} ({code.co_filename}:{code.co_firstlineno})" if code else builder.__module__


def union(specs: Iterable[type[Spec]]) -> Any:
    """The type of a field that takes any of these specs, told apart by `kind`."""
    first, *rest = specs
    return Annotated[functools.reduce(operator.or_, rest, first), Discriminator("kind")] if rest else first


def _generic(spec: type[Spec]) -> bool:
    return bool(spec.__pydantic_generic_metadata__["parameters"])


def import_entries(package: str) -> None:
    """Import the modules of a package that register something: all but those whose names begin with `_`."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package}.{module.name}")


class Registry:
    """One family of builders.

    Args:
      noun: what is registered, for messages ("problem").
      package: dotted name of the package whose modules register themselves.
      base: what their specs are derived from.
    """

    def __init__(self, noun: str, package: str, base: type[KindSpec] = KindSpec) -> None:
        """Nothing is imported before the first name is asked for."""
        self.noun = noun
        self._package = package
        self._base = base
        self._entries: dict[str, tuple[type[Spec], Callable[..., Any]]] = {}
        self._listed = False

    def register(self, name: str, spec: type[Spec]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorate the builder of `name`; `spec` is its config, whose field `kind` has that literal as type and default.

        Raises RegistrationError if the name is taken, or if the spec is none, or is of another kind or family.
        """
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            raise RegistrationError(f"{name!r} is no name of a {self.noun}: it must be small letters, digits and underscores")
        if not (isinstance(spec, type) and issubclass(spec, self._base)):
            raise RegistrationError(f"{self.noun} {name!r}: its spec must be a class derived from l2lcli.{self._base.__name__}")
        kind = spec.model_fields["kind"]
        if kind.default != name or kind.annotation != Literal[name]:  # pyright: ignore[reportInvalidTypeForm]
            raise RegistrationError(f'{spec.__name__} needs the field `kind: Literal["{name}"] = "{name}"`')

        def decorate(builder: Callable[..., Any]) -> Callable[..., Any]:
            if not callable(builder):
                raise RegistrationError(f"{self.noun} {name!r}: what is decorated must be a function that builds it")
            if not builder.__module__.startswith(f"{self._package}."):
                self._list_package()  # before anybody else's name: one of ours stays ours
            if name in self._entries and (other := self._entries[name][1]).__module__ != builder.__module__:
                raise RegistrationError(f"{self.noun} {name!r} is registered already, by {where(other)}")
            self._entries[name] = (spec, builder)
            plugins.registered.append(f"{self.noun} {name!r}")
            return builder

        return decorate

    def _list_package(self) -> None:
        if not self._listed:
            self._listed = True  # first: the package's own modules come through here
            import_entries(self._package)

    def _list(self) -> dict[str, tuple[type[Spec], Callable[..., Any]]]:
        self._list_package()
        plugins.take_entry_points(f"l2l.{self.noun}s")
        return self._entries

    def specs(self) -> dict[str, type[Spec]]:
        """Name -> spec class, sorted by name. A generic one is one over members: those of the family that are not generic."""
        entries = {name: spec for name, (spec, _) in sorted(self._list().items())}
        plain = [spec for spec in entries.values() if not _generic(spec)]
        return {name: spec[union(plain)] if _generic(spec) else spec for name, spec in entries.items()}

    def builder(self, name: str) -> Callable[..., Any]:
        """The builder of a name. Raises ValueError for an unknown one."""
        if name not in self._list():
            raise ValueError(f"unknown {self.noun} {name!r}; known: {', '.join(sorted(self._entries))}")
        return self._entries[name][1]

    def build(self, spec: KindSpec, *arguments: Any) -> Any:
        """Call the builder that belongs to `spec.kind`."""
        return self.builder(spec.kind)(spec, *arguments)


problem = Registry("problem", "l2lcli.problems", ProblemSpec)
optimizer = Registry("optimizer", "l2lcli.optimizers")
estimator = Registry("estimator", "l2lcli.estimators", EstimatorSpec)
