"""A convolutional network that learns to classify images, on minibatches (Andrychowicz et al. 2016, Section 3.3)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from l2lcli import registry
from l2lcli.base import Problem, ProblemSpec
from l2lcli.problems._dataset import DatasetName
from l2lcli.problems._networks import Activation, Init, convnet
from l2lcli.problems.classification import of_network, smaller

if TYPE_CHECKING:
    from l2lcli.data.loader import Dataset

TRUNCATED = 0.87962566103423978  # standard deviation of a standard normal variable that is cut at ±2
Width = Annotated[int, Field(ge=1, le=10_000)]


class ConvClassificationSpec(ProblemSpec):
    """f(theta) = mean softmax cross-entropy of a convolutional network on a fresh minibatch."""

    kind: Literal["conv_classification"] = "conv_classification"
    dataset: DatasetName = "cifar10"
    """Images and labels, by a name that `l2l list datasets` shows; digits needs no download."""
    pool: int = Field(default=1, ge=1, le=28)
    """Images are first averaged over squares of this many pixels a side."""
    labels: list[Annotated[int, Field(ge=0, le=9)]] | None = Field(default=None, min_length=2, max_length=10)
    """The classes that are kept, renumbered 0, 1 … in this order; null for all."""
    channels: list[Width] = Field(default=[16, 16, 16], min_length=1, max_length=8)
    """Output channels of each convolution; each is followed by the activation and 2 x 2 max-pooling."""
    kernel: int = Field(default=5, ge=1, le=31)
    """Height and width of the convolutions' kernels, odd."""
    hidden: list[Width] = Field(default=[32], max_length=8)
    """Units of each fully connected hidden layer."""
    activation: Activation = "relu"
    """After each layer but the last."""
    batch_norm: bool = True
    """Normalise every layer but the last by the minibatch's own statistics."""
    layer_norm: bool = False
    """Normalise every layer but the last by each image's own statistics; needs batch_norm: false."""
    init: Init = "normal"
    """How theta_0 is drawn: normal, kernels and biases alike, at init_scale, as published; or kernels as LeCun, He or Glorot
    have them, and biases 0, as networks are usually started."""
    init_scale: float = Field(default=0.01, ge=0)
    """Standard deviation of theta_0 where it is normal."""
    batch_size: int = Field(default=128, ge=1, le=100_000)
    """Images per step, drawn with replacement."""

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: list[int] | None) -> list[int] | None:
        if labels is not None and len(set(labels)) < len(labels):
            raise ValueError(f"{labels} has a label twice")
        return labels

    @model_validator(mode="after")
    def _one_norm(self):
        if self.batch_norm and self.layer_norm:
            raise ValueError("batch_norm and layer_norm are both true: a layer is normalised in one way")
        return self

    @field_validator("kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(f"{kernel} is not odd")
        return kernel


@registry.problem.register("conv_classification", ConvClassificationSpec)
def conv_classification(spec: ConvClassificationSpec, raw_dir: str | None = None) -> Problem:
    """Build the distribution: one network and data set, tasks differ in theta_0 and in the order of the minibatches.

    theta: "conv_<i>" and "fc_<i>" -> {"kernel", "bias"}, as `_networks.convnet`; task (); data of a split: {"image": [n, ...]
    uint8, "label": [n]}; batch: the same, with B rows. f is in nats per image. Metrics: accuracy, a fraction, and loss, in
    nats per image, over the test split in minibatches of B. Raises DataError if the data set cannot be loaded.
    """
    from l2lcli.data import loader

    return on(loader.load(spec.dataset, raw_dir), spec)


def on(dataset: Dataset, spec: ConvClassificationSpec) -> Problem:
    """The same on any images and labels in memory, whatever `spec.dataset` says."""
    import jax
    from jax.flatten_util import ravel_pytree

    dataset = smaller(dataset if spec.labels is None else chosen(dataset, spec.labels), spec.pool)
    norm = "batch" if spec.batch_norm else "layer" if spec.layer_norm else None
    network = convnet(tuple(spec.channels), spec.kernel, tuple(spec.hidden), dataset.classes, norm, spec.activation)
    # Measured in minibatches of the size trained with: batch norm's statistics are those of one.
    problem = of_network(dataset, network, spec.batch_size, block=spec.batch_size)

    def init(key, data):
        theta, task = problem.init(key, data)
        flat, unravel = ravel_pytree(theta)
        # One draw for all of theta: one for each array would take seconds to compile, in every program of a run.
        if spec.init == "normal":
            return unravel(spec.init_scale * jax.random.normal(key, flat.shape, flat.dtype)), task
        drawn = unravel(jax.random.truncated_normal(key, -2, 2, flat.shape, flat.dtype) / TRUNCATED)
        return jax.tree.map(lambda leaf: leaf * deviation(spec.init, leaf.shape), drawn), task

    return problem._replace(init=init)


def deviation(init: Init, shape: tuple[int, ...]) -> float:
    """Standard deviation of a kernel [..., inputs, outputs] at the start; 0 for a bias."""
    if len(shape) < 2:
        return 0.0
    inputs, outputs = math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]
    return {"lecun": 1 / inputs, "he": 2 / inputs, "glorot": 2 / (inputs + outputs)}[init] ** 0.5


def chosen(dataset: Dataset, labels: list[int]) -> Dataset:
    """The images with these labels, which are renumbered 0, 1 … in the order given."""
    import numpy as np

    number = np.full(dataset.classes, -1)
    number[labels] = np.arange(len(labels))
    splits = {}
    for split, arrays in dataset.splits.items():
        label = number[arrays["label"]]
        splits[split] = {"image": arrays["image"][label >= 0], "label": label[label >= 0].astype(np.uint8)}
    return dataset._replace(splits=splits, classes=len(labels))
