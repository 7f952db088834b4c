"""A network that learns to write down images in a few numbers, and to draw them again."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Problem, ProblemSpec
from l2lcli.problems._dataset import DatasetName
from l2lcli.problems._networks import Activation, Init, mlp


class AutoencoderSpec(ProblemSpec):
    """f(theta) = mean cross-entropy of an image's pixels with what an autoencoder makes of it, on a fresh minibatch."""

    kind: Literal["autoencoder"] = "autoencoder"
    dataset: DatasetName = "digits"
    """Images, by a name that `l2l list datasets` shows; digits needs no download."""
    pool: int = Field(default=1, ge=1, le=28)
    """Images are first averaged over squares of this many pixels a side."""
    hidden: list[Annotated[int, Field(ge=1, le=100_000)]] = Field(default=[16], min_length=1, max_length=16)
    """Units of each hidden layer, from the pixels to the pixels; the smallest is the code."""
    activation: Activation = "relu"
    """After each hidden layer."""
    init: Init = "he"
    """As of `classification`."""
    init_scale: float = Field(default=0.1, ge=0)
    """Standard deviation of theta_0 where it is normal."""
    batch_size: int = Field(default=128, ge=1, le=1_000_000)
    """Images per step, drawn with replacement."""


@registry.problem.register("autoencoder", AutoencoderSpec)
def autoencoder(spec: AutoencoderSpec, raw_dir: str | None = None) -> Problem:
    """Build the distribution: one network and data set, tasks differ in theta_0 and in the order of the minibatches.

    theta: the Flax parameters; task (); data of a split and batch: {"image": [n, ...] uint8}. f is in nats per pixel, the mean
    of the binary cross-entropy of a pixel between 0 and 1 with the network's. Metrics: loss. Raises DataError if the data set
    cannot be loaded.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from l2lcli.data import loader
    from l2lcli.problems.classification import smaller

    dataset = smaller(loader.load(spec.dataset, raw_dir), spec.pool)
    data = {split: {"image": jnp.asarray(arrays["image"])} for split, arrays in dataset.splits.items()}
    network = mlp(tuple(spec.hidden), int(data["train"]["image"][0].size), spec.activation, spec.init, spec.init_scale)

    def init(key, data):
        return network.init(key, jnp.zeros((1, *data["image"].shape[1:])))["params"], ()

    def batch(key, task, data):
        return {"image": data["image"][jax.random.randint(key, (spec.batch_size,), 0, data["image"].shape[0])]}

    def loss(theta: Any, batch: Any):
        x = batch["image"].astype(jax.tree.leaves(theta)[0].dtype) / dataset.scale
        drawn = network.apply({"params": theta}, x)
        return optax.sigmoid_binary_cross_entropy(drawn, x.reshape(x.shape[0], -1)).mean()

    metrics = lambda theta, batch: {"loss": loss(theta, batch)}
    provenance = {dataset.label: dataset.fingerprint}
    return Problem(init, batch, loss, data, minibatch=True, metrics=metrics, provenance=provenance)
