"""Tables that ship inside scikit-learn: regression and classification by a perceptron, or by a linear map alone."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Problem, ProblemSpec
from l2lcli.problems._networks import Activation, Init, mlp

TEST = 5  # one row of so many is for the test


class TableSpec(ProblemSpec):
    """f(theta) = mean squared error (diabetes) or softmax cross-entropy (the others) on a fresh minibatch of a table's rows."""

    kind: Literal["table"] = "table"
    table: Literal["diabetes", "breast_cancer", "wine", "iris"] = "diabetes"
    """Which one: 442 rows of 10 numbers, 569 of 30, 178 of 13, 150 of 4. Columns, and the number to be predicted, are brought
    to mean 0 and variance 1."""
    hidden: list[Annotated[int, Field(ge=1, le=100_000)]] = Field(default=[32], max_length=16)
    """Units of each hidden layer; none for linear or logistic regression."""
    activation: Activation = "relu"
    """After each hidden layer."""
    init: Init = "lecun"
    """As of `classification`."""
    init_scale: float = Field(default=0.1, ge=0)
    """Standard deviation of theta_0 where it is normal."""
    batch_size: int = Field(default=64, ge=1, le=1_000_000)
    """Rows per step, drawn with replacement."""


@registry.problem.register("table", TableSpec)
def table(spec: TableSpec, raw_dir: str | None = None) -> Problem:
    """Build the distribution: one network and table, tasks differ in theta_0 and in the order of the minibatches.

    theta: the Flax parameters; task (); data of a split and batch: {"x": [n, columns], "y": [n] float, or int32 the class}. f
    is the squared error in units of the target's variance, or in nats per row. Metrics: loss, and the accuracy of a class.
    """
    import hashlib

    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{spec.table}")(return_X_y=True)
    regression = spec.table == "diabetes"
    # RandomState, not Generator: its stream is frozen, so the split stays the same under every NumPy.
    order = np.random.RandomState(0).permutation(len(y))
    rows = {"test": order[: len(y) // TEST], "train": order[len(y) // TEST :]}
    x = (x - x[rows["train"]].mean(0)) / x[rows["train"]].std(0)
    y = (y - y[rows["train"]].mean()) / y[rows["train"]].std() if regression else y
    x, y = x.astype(np.float32), y.astype(np.float32 if regression else np.int32)
    data = {split: {"x": jnp.asarray(x[at]), "y": jnp.asarray(y[at])} for split, at in rows.items()}
    network = mlp(tuple(spec.hidden), 1 if regression else int(y.max()) + 1, spec.activation, spec.init, spec.init_scale)

    def init(key, data):
        return network.init(key, data["x"][:1])["params"], ()

    def batch(key, task, data):
        at = jax.random.randint(key, (spec.batch_size,), 0, data["y"].shape[0])
        return {"x": data["x"][at], "y": data["y"][at]}

    def said(theta: Any, batch: Any) -> Any:
        return network.apply({"params": theta}, batch["x"].astype(jax.tree.leaves(theta)[0].dtype))

    def loss(theta, batch):
        if regression:
            return jnp.mean((said(theta, batch)[:, 0] - batch["y"]) ** 2)
        return optax.softmax_cross_entropy_with_integer_labels(said(theta, batch), batch["y"]).mean()

    def metrics(theta, batch):
        found = {"loss": loss(theta, batch)}
        return found if regression else found | {"accuracy": jnp.mean(said(theta, batch).argmax(-1) == batch["y"])}

    mark = hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()[:16]
    return Problem(init, batch, loss, data, minibatch=True, metrics=metrics, provenance={spec.table: mark})
