"""Random quadratics, a fresh one for every task (Andrychowicz et al. 2016, Section 3.1)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Problem, Spec


class QuadraticSpec(Spec):
    """f(theta) = ‖W theta − y‖²."""

    kind: Literal["quadratic"] = "quadratic"
    dimension: int = Field(10, ge=1, le=10_000)
    """Coordinates of theta; W is square."""
    distribution: Literal["gaussian", "uniform"] = "gaussian"
    """Of the entries of W and y: N(0, 1), or U[0, 1)."""
    start: Literal["gaussian", "uniform", "zeros"] = "gaussian"
    """Of theta_0: N(0, 1) or U[0, 1), times start_scale; or all zeros."""
    start_scale: float = Field(1.0, ge=0)
    """Multiplies theta_0."""


@registry.problem.register("quadratic", QuadraticSpec)
def quadratic(spec: QuadraticSpec, raw_dir: str | None = None) -> Problem:
    """Build the distribution. theta: {"theta": [dimension]}; task and batch: (W, y); f is the squared norm, unitless."""
    import jax
    import jax.numpy as jnp

    n = spec.dimension
    draw = {
        "gaussian": jax.random.normal,
        "uniform": jax.random.uniform,
        "zeros": lambda key, shape: jnp.zeros(shape),
    }

    def init(key, data):
        w_key, y_key, theta_key = jax.random.split(key, 3)
        task = draw[spec.distribution](w_key, (n, n)), draw[spec.distribution](y_key, (n,))
        return {"theta": spec.start_scale * draw[spec.start](theta_key, (n,))}, task

    def loss(theta, batch):
        w, y = batch
        return jnp.sum((w @ theta["theta"] - y) ** 2)

    return Problem(init, lambda key, task, data: task, loss, {"train": ()})
