"""Learned optimizers: train them, compare them with tuned hand-made ones, use them.

    tx = l2lcli.load("runs/latest")                    a trained optimizer as an Optax transformation
    found = l2lcli.evaluation.compare.compare(problem, …)        any family against tuned baselines, on any problem
    @l2lcli.register.problem("mine", MineSpec)         a problem (optimizer, estimator) of your own, by name

`Problem` and `LearnedOptimizer` are the two types that everything is made of. Importing this package loads no JAX; the
first use of a name does.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "load": ("l2lcli.experiment", "load"),
    "evaluate": ("l2lcli.evaluation.compare", None),
    "register": ("l2lcli.registry", "register"),
    "Problem": ("l2lcli.base", "Problem"),
    "LearnedOptimizer": ("l2lcli.base", "LearnedOptimizer"),
}
__all__ = ["LearnedOptimizer", "Problem", "evaluate", "load", "register"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _WHERE[name]
    found = importlib.import_module(module)
    return found if attribute is None else getattr(found, attribute)


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__]
