"""Learned optimizers: train them, compare them with tuned hand-made ones, use them.

    tx = l2lcli.load("runs/latest")                    a trained optimizer as an Optax transformation
    run = l2lcli.train("experiment.yaml")              meta-train one, into a run directory
    found = l2lcli.evaluate(run.path)                  compare it with tuned baselines
    @l2lcli.register.problem("mine", MineSpec)         a problem (optimizer, estimator, data set) of your own, by name

A config becomes objects (`experiment`), objects become meta-gradients (`estimators`, over `inner`), meta-gradients become phi
(`meta`), phi is compared (`evaluation`), all of it lands in a run directory (`runs`), and pictures are drawn from that
directory alone (`reports`). `Problem` and `LearnedOptimizer` are the two types that everything is made of. Importing this
package loads no JAX; the first use of a name does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from l2lcli import register
    from l2lcli.base import EstimatorSpec, KindSpec, LearnedOptimizer, Problem, ProblemSpec, Replay, Spec
    from l2lcli.commands.api import evaluate, train
    from l2lcli.experiment import load, start
    from l2lcli.inner.check import check_problem
    from l2lcli.plugins import take_file as import_file

_WHERE = {
    "EstimatorSpec": ("l2lcli.base", "EstimatorSpec"),
    "KindSpec": ("l2lcli.base", "KindSpec"),
    "LearnedOptimizer": ("l2lcli.base", "LearnedOptimizer"),
    "Problem": ("l2lcli.base", "Problem"),
    "ProblemSpec": ("l2lcli.base", "ProblemSpec"),
    "Replay": ("l2lcli.base", "Replay"),
    "Spec": ("l2lcli.base", "Spec"),
    "check_problem": ("l2lcli.inner.check", "check_problem"),
    "evaluate": ("l2lcli.commands.api", "evaluate"),
    "import_file": ("l2lcli.plugins", "take_file"),
    "load": ("l2lcli.experiment", "load"),
    "register": ("l2lcli.register", None),
    "start": ("l2lcli.experiment", "start"),
    "train": ("l2lcli.commands.api", "train"),
}
__all__ = [
    "EstimatorSpec",
    "KindSpec",
    "LearnedOptimizer",
    "Problem",
    "ProblemSpec",
    "Replay",
    "Spec",
    "check_problem",
    "evaluate",
    "import_file",
    "load",
    "register",
    "start",
    "train",
]


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
