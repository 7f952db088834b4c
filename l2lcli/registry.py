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
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from pydantic import Discriminator

from l2lcli.base import Spec


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
    """

    def __init__(self, noun: str, package: str) -> None:
        """Nothing is imported before the first name is asked for."""
        self.noun = noun
        self._package = package
        self._entries: dict[str, tuple[type[Spec], Callable[..., Any]]] = {}
        self._listed = False

    def register(self, name: str, spec: type[Spec]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorate the builder of `name`; `spec` is its config, whose field `kind` has that literal as type and default.

        Raises ValueError if the name is taken, or if the spec's kind is not the name.
        """
        if "kind" not in spec.model_fields or spec.model_fields["kind"].default != name:
            raise ValueError(f'{spec.__name__} needs the field `kind: Literal["{name}"] = "{name}"`')

        def decorate(builder: Callable[..., Any]) -> Callable[..., Any]:
            if name in self._entries and self._entries[name][1].__module__ != builder.__module__:
                raise ValueError(f"{self.noun} {name!r} is registered already, by {self._entries[name][1].__module__}")
            self._entries[name] = (spec, builder)
            return builder

        return decorate

    def _list(self) -> dict[str, tuple[type[Spec], Callable[..., Any]]]:
        if not self._listed:
            import_entries(self._package)
            self._listed = True
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

    def build(self, spec: Spec, *arguments: Any) -> Any:
        """Call the builder that belongs to `spec.kind`."""
        return self.builder(spec.kind)(spec, *arguments)


problem = Registry("problem", "l2lcli.problems")
optimizer = Registry("optimizer", "l2lcli.optimizers")
estimator = Registry("estimator", "l2lcli.estimators")


class register:  # noqa: N801  (three decorators under one public name)
    """`@register.problem(name, spec)`, `@register.optimizer(name, spec)`, `@register.estimator(name, spec)`."""

    problem = problem.register
    optimizer = optimizer.register
    estimator = estimator.register
