"""Logistic regression on all rows of a data set at every step. The set is synthetic, its features are correlated."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Problem, ProblemSpec

NEWTON = 20  # iterations to the minimum


class LogisticSpec(ProblemSpec):
    """f(theta) = mean over rows of log(1 + exp(−y x·theta)) + weight_decay / 2 ‖theta‖², above its minimum."""

    kind: Literal["logistic"] = "logistic"
    dimension: int = Field(default=20, ge=1, le=1_000)
    """Features, and coordinates of theta."""
    samples: int = Field(default=200, ge=1, le=100_000)
    """Rows of a data set, all of which are seen at every step."""
    correlation: float = Field(default=0.9, ge=0, lt=1)
    """Of features that stand side by side; those k apart have its k-th power. The covariance's condition number, 212 at .9 and
    20 features, nears ((1 + correlation) / (1 − correlation))² with more of them."""
    weight_decay: float = Field(default=1e-3, gt=0)
    """Of the squared norm; it keeps the minimum finite where a hyperplane parts the classes."""
    floor: float = Field(default=1e-6, ge=0)
    """Added to f, so that its logarithm says nothing of differences that are rounding errors in float32."""
    start_scale: float = Field(default=1.0, ge=0)
    """theta_0 ~ N(0, start_scale²)."""


@registry.problem.register("logistic", LogisticSpec)
def logistic(spec: LogisticSpec, raw_dir: str | None = None) -> Problem:
    """Build the distribution. theta: {"theta": [dimension]}; task and batch: (rows y x [samples, dimension], the minimum ()).

    x is normal; y is 1 with probability 1 / (1 + exp(−x·w)), else −1, w ~ N(0, I). f is in nats per row. The minimum, found by
    Newton's method when the task is drawn, is taken away, so that a ratio of losses says how much nearer one of them came; the
    least f is `floor`.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    n = spec.dimension
    mix = np.linalg.cholesky(spec.correlation ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))).astype(np.float32)

    def whole(theta, rows):
        return jnp.mean(jax.nn.softplus(-(rows @ theta))) + spec.weight_decay / 2 * jnp.vdot(theta, theta)

    def solved(matrix, right):
        """matrix⁻¹ right, of a positive definite one, by elimination. LAPACK's, in a program with many at once, waited for ever
        (two cores, jaxlib's threads all asleep)."""

        def eliminate(both, i):
            row = both[i] / both[i, i]
            return (both - jnp.outer(both[:, i], row)).at[i].set(row), None

        return jax.lax.scan(eliminate, jnp.concatenate([matrix, right[:, None]], 1), jnp.arange(n))[0][:, -1]

    def minimum(rows):
        """Newton's method from 0, each step of the best of eight lengths, or none where all ascend: f is convex."""
        slope, curvature = jax.grad(whole), jax.hessian(whole)
        shares = jnp.append(0.5 ** jnp.arange(8), 0)

        def step(theta, _):
            towards = solved(curvature(theta, rows), slope(theta, rows))
            tried = theta[None] - shares[:, None] * towards[None]
            return tried[jnp.argmin(jax.vmap(whole, (0, None))(tried, rows))], None

        return whole(jax.lax.scan(step, jnp.zeros(n), length=NEWTON)[0], rows)

    def init(key, data):
        x_key, w_key, y_key, theta_key = jax.random.split(key, 4)
        x = jax.random.normal(x_key, (spec.samples, n)) @ mix.T
        likely = jax.nn.sigmoid(x @ jax.random.normal(w_key, (n,)))
        rows = jnp.where(jax.random.bernoulli(y_key, likely)[:, None], x, -x)
        return {"theta": spec.start_scale * jax.random.normal(theta_key, (n,))}, (rows, minimum(rows))

    def loss(theta, batch):
        rows, least = batch
        return whole(theta["theta"], rows) - least + spec.floor

    return Problem(init, lambda key, task, data: task, loss, {"train": ()})
