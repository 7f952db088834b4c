"""Random quadratics, a fresh one for every task (Andrychowicz et al. 2016, Section 3.1)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Problem, ProblemSpec


class QuadraticSpec(ProblemSpec):
    """f(theta) = ‖W theta − y‖², or the mean of several such."""

    kind: Literal["quadratic"] = "quadratic"
    dimension: int = Field(default=10, ge=1, le=10_000)
    """Coordinates of theta; W is square."""
    distribution: Literal["gaussian", "uniform"] = "gaussian"
    """Of the entries of W and y: N(0, 1), or U[0, 1)."""
    start: Literal["gaussian", "uniform", "zeros"] = "gaussian"
    """Of theta_0: N(0, 1) or U[0, 1), times start_scale; or all zeros."""
    start_scale: float = Field(default=1.0, ge=0)
    """Multiplies theta_0."""
    instances: int = Field(default=1, ge=1, le=10_000)
    """Quadratics whose mean f is, each with a theta of its own; theta has so many rows where they are more than 1."""


@registry.problem.register("quadratic", QuadraticSpec)
def quadratic(spec: QuadraticSpec, raw_dir: str | None = None) -> Problem:
    """Build the distribution. theta: {"theta": [dimension]}; task and batch: (W, y); f is the squared norm, unitless.

    With K > 1 instances each of these arrays has K rows: {"theta": [K, dimension]}. A gradient is then K times smaller than
    that of a quadratic alone.
    """
    import jax
    import jax.numpy as jnp

    n, several = spec.dimension, () if spec.instances == 1 else (spec.instances,)
    draw = {
        "gaussian": jax.random.normal,
        "uniform": jax.random.uniform,
        "zeros": lambda key, shape: jnp.zeros(shape),
    }

    def init(key, data):
        w_key, y_key, theta_key = jax.random.split(key, 3)
        task = draw[spec.distribution](w_key, (*several, n, n)), draw[spec.distribution](y_key, (*several, n))
        return {"theta": spec.start_scale * draw[spec.start](theta_key, (*several, n))}, task

    def loss(theta, batch):
        w, y = batch
        return jnp.sum((jnp.matvec(w, theta["theta"]) - y) ** 2) / spec.instances

    return Problem(init, lambda key, task, data: task, loss, {"train": ()})
