"""Random quadratics, a fresh one for every task (Andrychowicz et al. 2016, Section 3.1)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Problem, ProblemSpec
from l2lcli.problems._draws import Range, number


class QuadraticSpec(ProblemSpec):
    """f(theta) = ‖W theta − y‖², or the mean of several such."""

    kind: Literal["quadratic"] = "quadratic"
    dimension: int = Field(default=10, ge=1, le=10_000)
    """Coordinates of theta; W is square."""
    distribution: Literal["gaussian", "uniform"] = "gaussian"
    """Of the entries of W and y: N(0, 1), or U[0, 1)."""
    spectrum: Range | None = None
    """Of the singular values of W, which then has singular vectors in all directions alike; null: as its entries give them."""
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

    if spec.spectrum is not None and spec.spectrum.ends[0] < 0:
        raise ValueError("problem.spectrum: a singular value is not negative")
    n, several = spec.dimension, () if spec.instances == 1 else (spec.instances,)
    draw = {
        "gaussian": jax.random.normal,
        "uniform": jax.random.uniform,
        "zeros": lambda key, shape: jnp.zeros(shape),
    }

    def rotation(key):
        """[n, n], evenly over all that are orthogonal: a reflection of each axis onto a random direction (Stewart 1980)."""
        ahead = jnp.arange(n)[None] >= jnp.arange(n)[:, None]
        towards = jnp.where(ahead, jax.random.normal(key, (n, n)), 0)
        across = towards - jnp.diag(jnp.linalg.norm(towards, axis=1))
        reflect = lambda q, v: (q - 2 * jnp.outer(q @ v, v) / jnp.maximum(v @ v, 1e-12), None)
        return jax.lax.scan(reflect, jnp.eye(n), across)[0]

    def matrices(key):
        """W, [*several, n, n]. The key is consumed."""
        if spec.spectrum is None:
            return draw[spec.distribution](key, (*several, n, n))
        singular = number(spec.spectrum)

        def one(key):
            left, right, values = jax.random.split(key, 3)
            return rotation(left) * jax.vmap(singular)(jax.random.split(values, n))[None] @ rotation(right)

        return jax.vmap(one)(jax.random.split(key, several[0])) if several else one(key)

    def init(key, data):
        w_key, y_key, theta_key = jax.random.split(key, 3)
        task = matrices(w_key), draw[spec.distribution](y_key, (*several, n))
        return {"theta": spec.start_scale * draw[spec.start](theta_key, (*several, n))}, task

    def loss(theta, batch):
        w, y = batch
        return jnp.sum((jnp.matvec(w, theta["theta"]) - y) ** 2) / spec.instances

    return Problem(init, lambda key, task, data: task, loss, {"train": ()})
