"""What estimators by finite perturbations share: pairs of optimizees that differ in the sign of what is added to phi."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from l2lcli.base import Data, Inner, Key, LearnedOptimizer, Objective, Phi, Problem
from l2lcli.inner.objective import of_window
from l2lcli.inner.query import score_on_query
from l2lcli.inner.unroll import axes, fresh, unroll


class Work(NamedTuple):
    """What an estimator works on, fixed for a whole meta-training."""

    problem: Problem
    optimizer: LearnedOptimizer
    tasks: int  # M
    objective: Objective
    steps: int  # W
    sigma: float  # standard deviation of what is added to each parameter
    clip: float | None  # of L_+ − L_−, either way


class Pairs(NamedTuple):
    """State: M pairs of optimizees."""

    inner: Inner  # leaves [M, 2, ...]: with what is added, and with it taken away; keys alike. t, horizon (), or [M]
    noise: Phi  # like phi, [M, ...]: what is added to phi (NRES), or the sum of what was in this episode (PES)


def work(
    problem: Problem,
    optimizer: LearnedOptimizer,
    tasks: int,
    objective: Objective,
    steps: int,
    sigma: float,
    clip: float | None,
) -> Work:
    """Raises ValueError for an optimizer that learns where theta begins: its start would be perturbed in init alone."""
    if optimizer.start is not None:
        raise ValueError(
            "this optimizer learns where theta begins, which estimators by perturbation do not serve: use autodiff"
        )
    return Work(problem, optimizer, tasks, objective, steps, sigma, clip)


def singles(work: Work, key: Key, phi: Phi, data: Data) -> Inner:
    """M fresh optimizees, leaves [M, ...]. The key is consumed."""
    horizon = len(work.objective.weights)
    one = lambda key: fresh(work.problem, work.optimizer, phi, key, data, horizon)
    return jax.vmap(one, out_axes=axes())(jax.random.split(key, work.tasks))


def pairs(inner: Inner) -> Inner:
    """Two of each optimizee, [M, ...] -> [M, 2, ...]: they meet the same start and the same batches."""
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf], 1), inner._replace(t=None, horizon=None))
    return twice._replace(t=inner.t, horizon=inner.horizon)


def noise(work: Work, key: Key, phi: Phi) -> Phi:
    """N(0, sigma²) for each of M tasks, like phi, [M, ...]. The key is consumed."""
    leaves, structure = jax.tree.flatten(phi)
    keys = jax.random.split(key, len(leaves))
    draw = lambda key, leaf: work.sigma * jax.random.normal(key, (work.tasks, *leaf.shape), leaf.dtype)
    return structure.unflatten([draw(*pair) for pair in zip(keys, leaves, strict=True)])


def run(work: Work, phis: Phi, inner: Inner, data: Data, paired: bool = True) -> tuple[Inner, jax.Array, jax.Array]:
    """A window of every optimizee, each with the phi of its own.

    Args:
      work: what is worked on.
      phis: like phi, [M, 2, ...], or without `paired` [M, ...].
      inner: so many optimizees.
      data: one split.
      paired: whether they are pairs.

    Returns:
      (the optimizees W steps further, their parts of the objective [M, 2] or [M], their losses [M, 2, W] or [M, W]).
    """
    score = score_on_query(work.problem, work.objective.weights, data, work.problem.loss)

    def one(phi, inner):
        found = unroll(work.problem, work.optimizer, phi, inner, data, work.steps, score=score)
        return found.end, of_window(work.objective, found.scores, inner), found.losses

    each = jax.vmap(one, in_axes=(0, axes()), out_axes=(axes(), 0, 0)) if paired else one
    at = axes(0, None if inner.t.ndim == 0 else 0)
    return jax.vmap(each, in_axes=(0, at), out_axes=(at, 0, 0))(phis, inner)


def signed(phi: Phi, noise: Phi) -> Phi:
    """phi with noise [M, ...] added and taken away, [M, 2, ...]."""
    return jax.tree.map(lambda p, e: jnp.stack([p[None] + e, p[None] - e], 1), phi, noise)


def slope(work: Work, parts: jax.Array, noise: Phi) -> Any:
    """mean_m noise (L_+ − L_−) / 2 sigma², like phi: by antithetic pairs, what both losses share cancels. parts: [M, 2]."""
    difference = parts[:, 0] - parts[:, 1]
    if work.clip is not None:  # a run that is not finite counts as the worst
        difference = jnp.clip(jnp.where(jnp.isnan(difference), 0, difference), -work.clip, work.clip)
    return jax.tree.map(lambda e: jnp.tensordot(difference / (2 * work.sigma**2 * work.tasks), e, 1), noise)
