"""Logistic regression on arrays of one's own, here scikit-learn's breast cancer data: 30 measurements, two classes.

What it shows:
- data that all tasks share are loaded in the builder and go into `data` as arrays, one entry a split;
- `batch` draws rows of the split that it is handed, so that nothing is closed over and nothing is copied;
- `metrics` are measured on the split "test", and are rows of the report and of metrics/<name>.csv.

Arrays from anywhere else will do: replace `measurements`.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

import l2lcli


class LogisticRegressionSpec(l2lcli.ProblemSpec):
    """f(theta) = cross-entropy of a logistic regression on a minibatch of the breast cancer data, plus weight decay."""

    kind: Literal["logistic_regression"] = "logistic_regression"
    batch_size: int = Field(default=32, ge=1, le=10_000)
    """Rows per step, drawn with replacement."""
    decay: float = Field(default=1e-3, ge=0)
    """The squared norm of the weights is added, times half of this."""
    start_scale: float = Field(default=1.0, ge=0)
    """Standard deviation of the weights at the start."""


def measurements() -> dict[str, dict[str, np.ndarray]]:
    """Split -> {"x": [n, 30] with mean 0 and variance 1 over the training rows, "y": [n] 0 or 1}; a quarter is for testing."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = x[order], y[order]
    train = slice(len(y) // 4, None)
    x = (x - x[train].mean(0)) / x[train].std(0)
    splits = {"train": train, "test": slice(len(y) // 4)}
    return {name: {"x": x[rows].astype(np.float32), "y": y[rows].astype(np.float32)} for name, rows in splits.items()}


@l2lcli.register.problem("logistic_regression", LogisticRegressionSpec)
def logistic_regression(spec: LogisticRegressionSpec, raw_dir: str | None = None) -> l2lcli.Problem:
    """Build the problem: tasks differ in where they start and in the order of the minibatches. f is in nats per row."""

    def init(key, data):
        inputs = data["x"].shape[1]
        return {"weights": spec.start_scale * jax.random.normal(key, (inputs,)), "bias": jnp.zeros(())}, ()

    def batch(key, task, data):
        rows = jax.random.randint(key, (spec.batch_size,), 0, data["y"].shape[0])
        return {"x": data["x"][rows], "y": data["y"][rows]}

    def logits(theta, batch):
        return batch["x"] @ theta["weights"] + theta["bias"]

    def loss(theta, batch):
        fit = optax.sigmoid_binary_cross_entropy(logits(theta, batch), batch["y"]).mean()
        return fit + 0.5 * spec.decay * jnp.sum(theta["weights"] ** 2)

    def metrics(theta, batch):
        return {"accuracy": jnp.mean((logits(theta, batch) > 0) == (batch["y"] > 0.5))}

    data = jax.tree.map(jnp.asarray, measurements())
    return l2lcli.Problem(init, batch, loss, data, minibatch=True, metrics=metrics)
