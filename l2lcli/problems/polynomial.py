"""Least-squares fit of a random polynomial to noisy samples of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Problem, ProblemSpec


class PolynomialSpec(ProblemSpec):
    """f(theta) = mean over samples of (Σ_k theta_k x^k − y)²."""

    kind: Literal["polynomial"] = "polynomial"
    dimension: int = Field(default=7, ge=1, le=64)
    """Coefficients; the degree is one less."""
    samples: int = Field(default=50, ge=1, le=100_000)
    """Points x ~ U[-1, 1), drawn once per task."""
    noise: float = Field(default=0.1, ge=0)
    """Standard deviation of the noise on y."""
    start_scale: float = Field(default=0.1, ge=0)
    """theta_0 ~ N(0, start_scale²)."""


@registry.problem.register("polynomial", PolynomialSpec)
def polynomial(spec: PolynomialSpec, raw_dir: str | None = None) -> Problem:
    """Build the distribution; true coefficients are N(0, 1).

    theta: {"theta": [dimension]}, the coefficient of x^k at k; task and batch: (powers [samples, dimension], y [samples]);
    f is a mean squared error, so about noise² is the least that can be reached.
    """
    import jax
    import jax.numpy as jnp

    def init(key, data):
        x_key, true_key, noise_key, theta_key = jax.random.split(key, 4)
        x = jax.random.uniform(x_key, (spec.samples,), minval=-1.0)
        powers = x[:, None] ** jnp.arange(spec.dimension)[None, :]
        y = powers @ jax.random.normal(true_key, (spec.dimension,))
        y += spec.noise * jax.random.normal(noise_key, (spec.samples,))
        return {"theta": spec.start_scale * jax.random.normal(theta_key, (spec.dimension,))}, (powers, y)

    def loss(theta, batch):
        powers, y = batch
        return jnp.mean((powers @ theta["theta"] - y) ** 2)

    return Problem(init, lambda key, task, data: task, loss, {"train": ()})
