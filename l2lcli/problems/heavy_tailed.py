"""Quadratics whose gradients are now and then disturbed by much more than they are: one such step undoes many."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Problem, ProblemSpec
from l2lcli.problems._draws import Range
from l2lcli.problems.quadratic import QuadraticSpec, quadratic


class HeavyTailedSpec(ProblemSpec):
    """f(theta) = ‖W theta − y‖²; the gradient at each step is disturbed by Student's t noise, one draw for all coordinates."""

    kind: Literal["heavy_tailed"] = "heavy_tailed"
    dimension: int = Field(default=20, ge=1, le=10_000)
    """Coordinates of theta."""
    spectrum: Range = Range(log_uniform=[0.3, 1.0])
    """Of the singular values of W, as of `quadratic`."""
    seen: int | None = Field(default=None, ge=1)
    """Coordinates, drawn anew at each step, whose part of the gradient a step shows, dimension / seen times as large, so that
    the mean is the gradient; null: all."""
    noise: float = Field(default=0.1, ge=0)
    """Scale of the noise on a coordinate's gradient."""
    tail: float = Field(default=1.5, ge=0.5, le=1000)
    """Degrees of freedom: up to 2 the variance is infinite; 1 is Cauchy noise, which has no mean."""
    start_scale: float = Field(default=1.0, ge=0)
    """theta_0 ~ N(0, start_scale²)."""


@registry.problem.register("heavy_tailed", HeavyTailedSpec)
def heavy_tailed(spec: HeavyTailedSpec, raw_dir: str | None = None) -> Problem:
    """Build the distribution: `quadratic` with y ~ N(0, I). theta: {"theta": [dimension]}; task: (W, y); batch: the task, and
    noise and factors of the gradient, [dimension] each.

    The noise of a step is one draw of the multivariate t distribution, noise · z / √(v / tail), z ~ N(0, I) and v ~ χ² with
    `tail` degrees of freedom. v is common to all coordinates: a coordinate's own gradient hardly tells whether it is noise, and
    the norm of all of them does. Under such noise SGD fails where clipping by that norm converges (Zhang et al. 2020, "Why are
    adaptive methods good for attention models?"). With `seen` a large gradient of a coordinate is a signal or noise, and it
    cannot know which; the norm knows, since a signal is of few coordinates and noise of all. The value of f is not disturbed,
    and neither is a meta-gradient of `autodiff`; `replay` reads it off the gradients that were fed, and is right in the mean.
    """
    import jax
    import jax.numpy as jnp

    n, seen = spec.dimension, spec.dimension if spec.seen is None else spec.seen
    if seen > n:
        raise ValueError(f"problem.seen: {seen} of {n} coordinates")
    clean = quadratic(QuadraticSpec(dimension=spec.dimension, spectrum=spec.spectrum, start_scale=spec.start_scale))

    def batch(key, task, data):
        z_key, v_key, seen_key = jax.random.split(key, 3)
        v = 2 * jax.random.gamma(v_key, spec.tail / 2)
        noise = spec.noise * jax.random.normal(z_key, (n,)) / jnp.sqrt(v / spec.tail)
        factors = n / seen * (jax.random.permutation(seen_key, n) < seen)
        return task, noise, factors.astype(noise.dtype)

    # Differentiated once it gives the disturbed gradient. What differentiates that again, a meta-gradient, goes through
    # `forward` as through any function, and finds the undisturbed derivative of the value.
    @jax.custom_vjp
    def loss(theta, batch):
        return clean.loss(theta, batch[0])

    def forward(theta, batch):
        return clean.loss(theta, batch[0]), (theta, batch)

    def backward(kept, cotangent):
        theta, (task, noise, factors) = kept
        grad = jax.grad(clean.loss)(theta, task)["theta"]
        return {"theta": cotangent * (factors * grad + noise)}, None

    loss.defvjp(forward, backward)
    return Problem(clean.init, batch, loss, clean.data, minibatch=True)
