"""What meta-training makes low: the losses of a training run, weighed step by step and measured."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from l2lcli.base import Inner, Objective

SMALLEST = 1e-12  # of a loss, before its logarithm is taken


@jax.named_scope("objective")
def of_window(objective: Objective, scores: jax.Array, inner: Inner) -> jax.Array:
    """The part Σ_t w_t g(f(theta_t)), (), that a window of one optimizee contributes.

    Args:
      objective: w and g.
      scores: the outer losses f at t+1 … t+W, [W].
      inner: the optimizee where the window begins.
    """
    # A weight of zero is no factor of zero: what has no weight may be infinite.
    weights = weights_of(objective, inner, scores.shape[0], scores.dtype)
    return jnp.vdot(weights, jnp.where(weights == 0, 0, measured(objective, scores, inner.first)))


def measured(objective: Objective, scores: jax.Array, first: jax.Array) -> jax.Array:
    """g of outer losses, of any shape. first: f(theta_0), ()."""
    if objective.cut is not None:
        scores = jnp.minimum(scores, objective.cut * jax.lax.stop_gradient(first))
    if objective.measure == "relative":
        return scores / jnp.maximum(jax.lax.stop_gradient(first), SMALLEST)
    return jnp.log(jnp.maximum(scores, SMALLEST)) if objective.measure == "log" else scores


def weights_of(objective: Objective, inner: Inner, steps: int, dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
    """w_{t+1} … w_{t+W} of the optimizee's next steps, [W]."""
    if objective.last is None:
        return jax.lax.dynamic_slice(jnp.asarray(objective.weights, dtype), (inner.t,), (steps,))
    at = (inner.t + 1 + jnp.arange(steps)).astype(dtype)
    return jnp.where(at > (1 - objective.last) * inner.horizon, 1 / objective.last, 0).astype(dtype)


def slopes(objective: Objective, scores: jax.Array, inner: Inner) -> jax.Array:
    """w_t g'(f(theta_t)), [W]: what the gradient of f at each step counts for. Arguments as `of_window`."""
    return jax.grad(lambda scores: of_window(objective, scores, inner))(scores)
