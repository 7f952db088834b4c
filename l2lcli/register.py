"""The decorators that add something under a name: `@l2lcli.register.problem("mine", MineSpec)`, and so on."""

from l2lcli.data.source import register as dataset
from l2lcli.registry import estimator as _estimator
from l2lcli.registry import optimizer as _optimizer
from l2lcli.registry import problem as _problem
from l2lcli.sinks.source import register as sink

problem = _problem.register
optimizer = _optimizer.register
estimator = _estimator.register

__all__ = ["dataset", "estimator", "optimizer", "problem", "sink"]
