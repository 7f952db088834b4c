"""From a config's `train` section to the estimator of its meta-gradient: of one problem or a mixture, in lock-step or not."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from l2lcli import registry
from l2lcli.base import Estimator, LearnedOptimizer, Member, Problem
from l2lcli.config.specs import TrainSpec
from l2lcli.estimators import _sharding, _stages
from l2lcli.estimators._imitation import imitating, imitation
from l2lcli.estimators._mixed import mixed, restarts
from l2lcli.estimators._staggered import Horizons, staggered


def members(problem: Problem) -> dict[str, Member]:
    """The members of a mixture; of another problem itself alone, under the name ""."""
    return dict(problem.members) or {"": Member(problem, 1.0)}


def split(problem: Problem, name: str) -> Any:
    """A problem's data of a split, "train" where it has no such; of a mixture {name: that of the member}."""
    of = lambda problem: problem.data.get(name, problem.data["train"])
    return {key: of(member.problem) for key, member in problem.members.items()} if problem.members else of(problem)


def estimator(spec: TrainSpec, problem: Problem, optimizer: LearnedOptimizer, devices: int) -> Estimator:
    """Build it.

    Raises ValueError where it is none for this problem and optimizer, or a member's numbers do not fit each other.
    """
    if not problem.members:
        return _single(spec, problem, optimizer, devices, spec.meta_steps)
    found = {}
    for name, member in problem.members.items():
        own = of_member(spec, name, member)
        made = _single(own, member.problem, optimizer, devices, spec.meta_steps)
        made = made._replace(restart=made.restart or restarts(made.init, own.windows))
        found[name] = made, member.weight
    return mixed(found)


def _single(spec: TrainSpec, problem: Problem, optimizer: LearnedOptimizer, devices: int, meta_steps: int) -> Estimator:
    """Of one problem, in a meta-training of so many steps: a member of a mixture, with another horizon, would miscount."""

    def build(tasks: int, devices: int) -> Estimator:
        return registry.estimator.build(spec.estimator, problem, optimizer, tasks, spec.objective, devices)

    made = _drawn(spec, problem, optimizer, _sharding.over_tasks(build, spec.tasks, devices), meta_steps)
    staged = lambda estimator: _stages.staged(estimator, spec.stages) if spec.curriculum else estimator
    if spec.imitation is None or spec.imitation.weight == 0:
        return staged(made)
    if optimizer.start is not None:
        raise ValueError("train.imitation: this optimizer learns where theta begins, and a teacher begins elsewhere")
    of, steps = spec.imitation, spec.estimator.window
    teacher = of.of, of.learning_rate
    watch = lambda tasks, devices: imitation(problem, optimizer, teacher, tasks, spec.horizon, steps)
    watched = _sharding.over_tasks(watch, spec.tasks, devices)
    until = of.until * meta_steps
    weight = lambda step: of.weight * jnp.maximum(0.0, 1 - step / until)
    return imitating(staged(made), staged(watched), weight, spec.windows)


def _drawn(spec: TrainSpec, problem: Problem, optimizer: LearnedOptimizer, whole: Estimator, meta_steps: int) -> Estimator:
    """The estimator with the horizons that `train.horizons` draws."""
    if spec.horizons is None:
        return whole
    growing = round(spec.horizons.curriculum * meta_steps)
    horizons = Horizons(spec.horizons.shortest or spec.estimator.window, spec.horizon, spec.estimator.window, growing)
    return staggered(whole, problem, optimizer, spec.tasks, horizons)


def of_member(spec: TrainSpec, name: str, member: Member) -> TrainSpec:
    """The `train` section as a member of a mixture has it. Raises ValueError where its numbers do not fit each other."""
    horizon, window = member.horizon or spec.horizon, member.window or spec.estimator.window
    if horizon % window:
        raise ValueError(f"problem.members.{name}: its window of {window} steps does not divide its horizon of {horizon}")
    if isinstance(spec.weights, list) and len(spec.weights) != horizon:
        raise ValueError(f"problem.members.{name}: train.weights has {len(spec.weights)} for its horizon of {horizon} steps")
    own = {"tasks": member.tasks or spec.tasks, "horizon": horizon}
    return spec.model_copy(update={**own, "estimator": spec.estimator.model_copy(update={"window": window})})
