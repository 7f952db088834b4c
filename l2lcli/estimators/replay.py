"""Replay: the paper's meta-gradient without differentiating the training run.

The paper drops the gradient along what the optimizer is fed (Andrychowicz et al. 2016, Fig. 2, the dashed edges). Then

    L = Σ_t w_t f_t(theta_t),    dL/dphi = Σ_t w_t ⟨∇f_t(theta_t), dtheta_t/dphi⟩,

and ∇f_t(theta_t) is the very gradient that the optimizer is fed at step t; of a loss on a query it is one more, where w_t is
not 0. So a window is run forward once and its W + 1 gradients are recorded; then the optimizer alone is run again over the
record, block of coordinates by block, and the surrogate Σ_t w_t ⟨∇f_t, theta_t(phi)⟩, in which everything recorded is
constant, is differentiated. That is exact. The optimizee is never differentiated twice, and a block's activations fit in the
cache: memory is W·N floats instead of the activations of W·N optimizer steps. A learned start is carried along by the update
rule's own recurrence, dtheta_t/dtheta_0.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Estimate, Estimator, EstimatorSpec, LearnedOptimizer, Objective, Problem


class ReplaySpec(EstimatorSpec):
    """Run the window once, then differentiate the optimizer alone over what it was fed, block by block."""

    kind: Literal["replay"] = "replay"
    window: int = Field(default=20, ge=1, le=100_000)
    """Steps per meta-gradient; divides the horizon."""
    block: int = Field(default=128, ge=1, le=100_000_000)
    """Coordinates replayed at a time; on a GPU at least 2 million over the window."""
    sample: int | None = Field(default=None, ge=1, le=100_000_000)
    """Coordinates of each task that are replayed (on each device), drawn anew for every meta-gradient, which then is right in
    expectation; null for all of them, which is exact."""
    batches: int = Field(default=1, ge=1, le=10_000)
    """Minibatches over which the loss that is made low is averaged at every step; more than 1 are fresh ones, besides the one
    that the optimizer is fed. The expectation is the same, the meta-gradient less noisy."""


@registry.estimator.register("replay", ReplaySpec)
def replay(
    spec: ReplaySpec, problem: Problem, optimizer: LearnedOptimizer, tasks: int, objective: Objective, devices: int = 1
) -> Estimator:
    """Build the estimator; arguments as `autodiff`, and `devices` to split the blocks over.

    Raises ValueError if the optimizer cannot be replayed, or not a sample of its coordinates, or if f has no minibatches.
    """
    import jax
    import jax.numpy as jnp

    from l2lcli.estimators._blocks import member_gradient
    from l2lcli.estimators._composed import composed_gradient
    from l2lcli.estimators._recording import Job, begin, record_window, weighed
    from l2lcli.estimators._sharding import by_coordinate, shardings_by_coordinate
    from l2lcli.inner.flat import each
    from l2lcli.inner.objective import of_window
    from l2lcli.inner.query import averaged
    from l2lcli.inner.unroll import standing

    if optimizer.replay is None:
        raise ValueError("this optimizer cannot be replayed block by block: use the estimator autodiff")
    if spec.sample is not None and (optimizer.start is not None or optimizer.replay.per_coordinate is not None):
        raise ValueError("parameters with an entry for each coordinate need all of them: no estimator.sample")
    job = Job(problem, averaged(problem, spec.batches), optimizer, tasks, objective, spec.window, devices)
    composed = optimizer.replay.composed

    def local(key, phi, data, state):
        """The part of the meta-gradient that is due to this device's coordinates."""

        def gradient(member, intervals, phi, opt, theta, grads, later):
            recorded = window._replace(opt=opt, theta=theta, grads=grads, later=later)
            return member_gradient(job, member, intervals, key, phi, recorded, w, state.theta, spec.block, spec.sample)

        if composed is not None:
            grad, after, window = composed_gradient(job, composed, key, phi, data, state, spec.block, spec.sample)
        else:
            after, window = record_window(job, phi, data, state)
            w, window = weighed(job, window, state)
            theta = jax.tree.map(lambda leaf: leaf[0], state.theta)
            grad = each(optimizer, theta, gradient, phi, window.opt, window.theta, window.grads, window.later)
        parts = jax.vmap(lambda scores, inner: of_window(objective, scores, inner), in_axes=(0, standing(state)))
        return Estimate(grad, jnp.mean(parts(window.scores, state)), window.losses.mean(0)), after

    def estimate(key, phi, data, state):
        whole = composed is not None
        return (local if devices == 1 else by_coordinate(local, devices, whole))(key, phi, data, state)

    shardings = None if devices == 1 else lambda state: shardings_by_coordinate(state, devices, composed is not None)
    return Estimator(lambda key, phi, data: begin(job, key, phi, data), estimate, shardings, family=job.together)
