"""Truncated back-propagation through time by differentiating the unroll itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Estimate, Estimator, EstimatorSpec, LearnedOptimizer, Problem


class AutodiffSpec(EstimatorSpec):
    """Differentiate the unrolled window; each step is recomputed on the way back (`jax.checkpoint`)."""

    kind: Literal["autodiff"] = "autodiff"
    window: int = Field(default=20, ge=1, le=100_000)
    """Steps per meta-gradient; divides the horizon."""
    second_order: bool = False
    """Let derivatives flow through what the optimizer is fed; the paper drops them."""
    discount: float = Field(default=1.0, gt=0, le=1)
    """What each step leaves of the derivatives by the optimizee that are passed on to the next. Over many steps those of the
    second order explode; a discount below 1 makes them smaller, and bounds them where a step multiplies them by less than its
    inverse, at the price of late losses that count less for early updates."""
    checkpoint: bool = True
    """Recompute each step when differentiating, instead of keeping its activations."""


@registry.estimator.register("autodiff", AutodiffSpec)
def autodiff(
    spec: AutodiffSpec, problem: Problem, optimizer: LearnedOptimizer, tasks: int, weights: tuple[float, ...], devices: int = 1
) -> Estimator:
    """Build the estimator of d/dphi mean_m Σ_t w_t f_m(theta_t), t over one window (Andrychowicz et al. 2016, Section 2).

    With `Problem.query`, f_m(theta_t) in that sum is the loss on the query. A learned start is part of what is
    differentiated; its window is the whole episode.

    Args:
      spec: its config.
      problem: f.
      optimizer: the family.
      tasks: M.
      weights: w_1 … w_T; a window takes its own part.
      devices: that the estimator may use by itself; this one has no use for more than 1.
    """
    import jax
    import jax.numpy as jnp

    from l2lcli.inner.query import score_on_query
    from l2lcli.inner.unroll import axes, begun, drawn, fresh, trajectory_axes, unroll

    begin = fresh if optimizer.start is None else drawn  # a learned start is applied where it is differentiated
    second_order = spec.second_order or optimizer.second_order

    def init(key, phi, data):
        one = lambda key: begin(problem, optimizer, phi, key, data)
        return jax.vmap(one, out_axes=axes())(jax.random.split(key, tasks))

    def estimate(key, phi, data, state):
        del key  # nothing here is random beyond what the optimizees carry

        score = score_on_query(problem, weights, data, problem.loss)

        def objective(phi):
            def one(inner):
                if optimizer.start is not None:
                    inner = begun(problem, optimizer, phi, inner, data)
                return unroll(
                    problem, optimizer, phi, inner, data, spec.window, second_order=second_order, discount=spec.discount,
                    checkpoint=spec.checkpoint, score=score,
                )  # fmt: skip

            found = jax.vmap(one, in_axes=(axes(),), out_axes=trajectory_axes())(state)
            w = jax.lax.dynamic_slice(jnp.asarray(weights, found.losses.dtype), (state.t,), (spec.window,))
            return jnp.mean(found.scores @ w), (found.end, found.losses)

        (loss, (after, losses)), grad = jax.value_and_grad(objective, has_aux=True)(phi)
        return Estimate(grad, loss, losses.mean(0)), after

    return Estimator(init, estimate)
