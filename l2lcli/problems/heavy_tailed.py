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
    noise: float = Field(default=0.1, ge=0)
    """Scale of the noise on a coordinate's gradient."""
    tail: float = Field(default=1.5, gt=0, le=1000)
    """Degrees of freedom: up to 2 the variance is infinite; 1 is Cauchy noise, which has no mean."""
    start_scale: float = Field(default=1.0, ge=0)
    """theta_0 ~ N(0, start_scale²)."""


@registry.problem.register("heavy_tailed", HeavyTailedSpec)
def heavy_tailed(spec: HeavyTailedSpec, raw_dir: str | None = None) -> Problem:
    """Build the distribution: `quadratic` with y ~ N(0, I). theta: {"theta": [dimension]}; task: (W, y); batch: (task, [dimension]).

    The noise of a step is one draw of the multivariate t distribution, noise · z / √(v / tail), z ~ N(0, I) and v ~ χ² with
    `tail` degrees of freedom. v is common to all coordinates: a coordinate's own gradient does not tell whether it is noise, but
    the norm of all of them does. Under such noise SGD fails where clipping by that norm converges (Zhang et al. 2020, "Why are
    adaptive methods good for attention models?"). f itself is not disturbed: the loss has a term ⟨noise, theta⟩ whose value is 0.
    """
    import jax
    import jax.numpy as jnp

    clean = quadratic(QuadraticSpec(dimension=spec.dimension, spectrum=spec.spectrum, start_scale=spec.start_scale))

    def batch(key, task, data):
        z_key, v_key = jax.random.split(key)
        v = 2 * jax.random.gamma(v_key, spec.tail / 2)
        return task, spec.noise * jax.random.normal(z_key, (spec.dimension,)) / jnp.sqrt(v / spec.tail)

    def loss(theta, batch):
        task, noise = batch
        nothing = theta["theta"] - jax.lax.stop_gradient(theta["theta"])
        return clean.loss(theta, task) + jnp.vdot(noise, nothing)

    return Problem(clean.init, batch, loss, clean.data, minibatch=True)
