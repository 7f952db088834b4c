"""A network that learns to classify images, on minibatches (Andrychowicz et al. 2016, Section 3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Batch, Problem, ProblemSpec, Theta
from l2lcli.problems._dataset import DatasetName
from l2lcli.problems._networks import Activation, Init, mlp
from l2lcli.problems._rescaled import rescaled

if TYPE_CHECKING:
    import numpy as np
    from flax import linen

    from l2lcli.data.loader import Dataset


class ClassificationSpec(ProblemSpec):
    """f(theta) = mean softmax cross-entropy of a multilayer perceptron on a fresh minibatch."""

    kind: Literal["classification"] = "classification"
    dataset: DatasetName = "digits"
    """Images and labels, by a name that `l2l list datasets` shows; digits needs no download."""
    pool: int = Field(default=1, ge=1, le=28)
    """Images are first averaged over squares of this many pixels a side: a smaller theta, for a cheaper meta-training."""
    grey: bool = False
    """Colours are first averaged."""
    hidden: list[Annotated[int, Field(ge=1, le=100_000)]] = Field(default=[20], max_length=16)
    """Units of each hidden layer."""
    activation: Activation = "sigmoid"
    """After each hidden layer."""
    init: Init = "normal"
    """How theta_0 is drawn: normal, kernels and biases alike, at init_scale, as published; or kernels as LeCun, He or Glorot
    have them, and biases 0, as networks are usually started."""
    init_scale: float = Field(default=0.1, ge=0)
    """Standard deviation of theta_0 where it is normal."""
    layer_norm: bool = False
    """Normalise each hidden layer before its activation (Ba, Kiros and Hinton 2016)."""
    batch_size: int = Field(default=128, ge=1, le=1_000_000)
    """Images per step, drawn with replacement."""
    rescale: float = Field(default=0.0, ge=0, le=10)
    """The network computes with every array of theta times e^N(0, rescale²), drawn for each task: the same network in other
    units."""


@registry.problem.register("classification", ClassificationSpec)
def classification(spec: ClassificationSpec, raw_dir: str | None = None) -> Problem:
    """Build the distribution: one network and data set, tasks differ in theta_0 and in the order of the minibatches.

    theta: the Flax parameters; task (); data of a split: {"image": [n, ...] uint8, "label": [n]}; batch: the same, with B
    rows. f is in nats per image. Metrics: accuracy, a fraction, and loss. Raises DataError if the data set cannot be loaded.
    """
    from l2lcli.data import loader

    return on(loader.load(spec.dataset, raw_dir), spec)


def on(dataset: Dataset, spec: ClassificationSpec) -> Problem:
    """The same on any images and labels in memory, whatever `spec.dataset` says."""
    network = mlp(tuple(spec.hidden), dataset.classes, spec.activation, spec.init, spec.init_scale, spec.layer_norm)
    return rescaled(of_network(smaller(dataset, spec.pool, spec.grey), network, spec.batch_size), spec.rescale)


def smaller(dataset: Dataset, pool: int = 1, grey: bool = False) -> Dataset:
    """The data set with images that are averaged over colours, over squares. Raises DataError as `pooled`."""
    if pool == 1 and not grey:
        return dataset

    def made(images: np.ndarray) -> np.ndarray:
        return pooled(greyed(images) if grey else images, pool)

    splits = {split: {**arrays, "image": made(arrays["image"])} for split, arrays in dataset.splits.items()}
    return dataset._replace(splits=splits)


def greyed(images: np.ndarray) -> np.ndarray:
    """Images [n, H, W, C] uint8 -> [n, H, W] uint8, the colours averaged (rounded); others stay."""
    import numpy as np

    return images if images.ndim == 3 else np.rint(images.mean(-1)).astype(np.uint8)


def pooled(images: np.ndarray, size: int) -> np.ndarray:
    """Images [n, H, W] or [n, H, W, C] uint8, each square of `size` pixels a side averaged (rounded, halves up).

    Raises DataError where squares do not fill the images.
    """
    import numpy as np

    from l2lcli.data.source import DataError

    count, height, width, *colours = images.shape
    if height % size or width % size:
        raise DataError(f"problem.pool: squares of {size} pixels do not fill images of {height}x{width}")
    squares = images.reshape(count, height // size, size, width // size, size, *colours)
    return ((2 * squares.sum((2, 4), dtype=np.uint32) + size**2) // (2 * size**2)).astype(np.uint8)


def on_device(dataset: Dataset) -> dict[str, Any]:
    """{split: {"image": [n, ...] uint8, "label": [n] int32}}."""
    import jax.numpy as jnp

    return {
        split: {"image": jnp.asarray(arrays["image"]), "label": jnp.asarray(arrays["label"], jnp.int32)}
        for split, arrays in dataset.splits.items()
    }


def of_network(dataset: Dataset, network: linen.Module, batch_size: int, block: int | None = None) -> Problem:
    """Classification of a data set by any network.

    Args:
      dataset: images and labels.
      network: images / scale, [B, ...] -> [B, classes] logits.
      batch_size: images per step.
      block: images that are measured together for the metrics, where the network's answer depends on that; all by default.
    """
    import jax
    import jax.numpy as jnp
    import optax

    data = on_device(dataset)

    def init(key, data):
        return network.init(key, jnp.zeros((1, *data["image"].shape[1:])))["params"], ()

    def batch(key, task, data):
        rows = jax.random.randint(key, (batch_size,), 0, data["label"].shape[0])
        return {"image": data["image"][rows], "label": data["label"][rows]}

    def logits(theta: Theta, batch: Batch) -> Any:
        # Pixels stay uint8 until here: the whole data set in memory is a quarter of what floats would take.
        dtype = jax.tree.leaves(theta)[0].dtype
        return network.apply({"params": theta}, batch["image"].astype(dtype) / dataset.scale)

    def losses(logits, batch):
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])

    def loss(theta, batch):
        return losses(logits(theta, batch), batch).mean()

    def metrics(theta, batch):
        size = batch["label"].shape[0]
        together = min(block or size, size)

        def one(first):
            # The last block is as large as the others, and so begins inside the one before: what is there twice counts once.
            start = jnp.minimum(first, size - together)
            part = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, together), batch)
            found = logits(theta, part)
            scores = {"accuracy": jnp.argmax(found, -1) == part["label"], "loss": losses(found, part)}
            counted = start + jnp.arange(together) >= first
            return jax.tree.map(lambda score: jnp.where(counted, score, 0).sum() / size, scores)

        return jax.tree.map(jnp.sum, jax.lax.map(one, jnp.arange(0, size, together)))

    provenance = {dataset.label: dataset.fingerprint}
    return Problem(init, batch, loss, data, minibatch=True, metrics=metrics, provenance=provenance)
