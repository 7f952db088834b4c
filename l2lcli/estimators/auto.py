"""The default estimator: the cheapest one that is exact for the case at hand."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Estimator, EstimatorSpec, LearnedOptimizer, Objective, Problem
from l2lcli.estimators.autodiff import AutodiffSpec
from l2lcli.estimators.replay import ReplaySpec


class AutoSpec(EstimatorSpec):
    """Truncated back-propagation through time by whichever exact way is cheapest."""

    kind: Literal["auto"] = "auto"
    window: int = Field(default=20, ge=1, le=100_000)
    """Steps per meta-gradient; divides the horizon."""
    second_order: bool = False
    """Let derivatives flow through what the optimizer is fed; the paper drops them."""
    discount: float = Field(default=1.0, gt=0, le=1)
    """What each step leaves of the derivatives by the optimizee that are passed on to the next."""


@registry.estimator.register("auto", AutoSpec)
def auto(
    spec: AutoSpec, problem: Problem, optimizer: LearnedOptimizer, tasks: int, objective: Objective, devices: int = 1
) -> Estimator:
    """Build the estimator that `spec` comes down to. Arguments as `autodiff`."""
    replays = optimizer.replay is not None and not (spec.second_order or optimizer.second_order) and spec.discount == 1
    otherwise = AutodiffSpec(window=spec.window, second_order=spec.second_order, discount=spec.discount)
    chosen = ReplaySpec(window=spec.window) if replays else otherwise
    return registry.estimator.build(chosen, problem, optimizer, tasks, objective, devices)
