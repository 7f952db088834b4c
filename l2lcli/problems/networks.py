"""A distribution over multilayer perceptrons: activation, depth, widths, start, batch and scales are drawn anew for each task.

All tasks have the arrays of the largest network, so that they run side by side. What a task lacks is masked: a unit that it
does not have gives 0, a layer beyond its depth passes on what it gets. Neither has a gradient, ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from pydantic import Field, model_validator

from l2lcli import registry
from l2lcli.base import Problem, ProblemSpec, Spec
from l2lcli.problems._dataset import DatasetName
from l2lcli.problems._draws import Draw, Range, highest, lowest, number, whole
from l2lcli.problems._networks import Activation

if TYPE_CHECKING:
    from l2lcli.data.loader import Dataset

Fan = Literal["lecun", "he", "glorot"]


class Normal(Spec):
    """Kernels and biases alike, normally distributed."""

    normal: Draw
    """Their standard deviation."""


Start: TypeAlias = Fan | Normal


class Rescaling(Spec):
    """The network is written in other units: it computes with its parameters times numbers that are fixed for each task."""

    kind: Literal["none", "global", "tensor"] = "none"
    """One number for all of them, or one for each array."""
    log_scale: float = Field(default=1.0, gt=0, le=10)
    """Numbers are e^u, u uniform between minus this and this."""


class NetworksSpec(ProblemSpec):
    """f(theta) = mean softmax cross-entropy, on a fresh minibatch, of a perceptron that is drawn anew for every task."""

    kind: Literal["networks"] = "networks"
    dataset: DatasetName = "digits"
    """Images and labels, by a name that `l2l list datasets` shows; digits needs no download."""
    pool: int = Field(default=1, ge=1, le=28)
    """Images are first averaged over squares of this many pixels a side."""
    activation: list[Activation] = Field(
        default=["sigmoid", "tanh", "relu", "elu"], min_length=1, max_length=len(get_args(Activation))
    )
    """After each hidden layer: one of these, equally likely."""
    depth: list[int] = Field(default=[1, 3], min_length=2, max_length=2)
    """Hidden layers, at least and at most; each number equally likely."""
    width: Draw = Range(log_uniform=[8.0, 32.0])
    """Units of each hidden layer, drawn for each."""
    init: list[Start] = Field(default=["lecun"], min_length=1, max_length=20)
    """How theta_0 is drawn, one of these, equally likely: kernels as LeCun, He or Glorot have them and biases 0, or all of them
    normal: {normal: 0.1}."""
    gain: Draw = 1.0
    """Kernels that start as LeCun, He or Glorot have them are multiplied by this."""
    batch_size: Draw = 64.0
    """Images per step, drawn with replacement."""
    input_scale: Draw = 1.0
    """Multiplies the images, which lie between 0 and 1."""
    rescaling: list[Rescaling] = Field(default=[Rescaling()], min_length=1, max_length=10)
    """In which units the network is written; one of these, equally likely."""

    @model_validator(mode="after")
    def _sizes(self):
        low, high = self.depth
        if not 1 <= low <= high <= 16:
            raise ValueError(f"depth: {low} to {high} hidden layers; they must be at least 1 and at most 16, the smaller first")
        for name, value in (("width", self.width), ("batch_size", self.batch_size)):
            if lowest(value) < 1 or highest(value) > 100_000:
                raise ValueError(f"{name}: must be between 1 and 100,000")
        return self


@registry.problem.register("networks", NetworksSpec)
def networks(spec: NetworksSpec, raw_dir: str | None = None) -> Problem:
    """Build the distribution.

    theta: {"layers_<i>": {"kernel": [in, out], "bias": [out]}} of the largest network, D hidden layers and the last. task: what
    was drawn (`Drawn`). batch: {"image": [B, ...], "label": [B], "counts": [B]}, counts 1 for those of the task's own number. f
    is in nats per image. Metrics: accuracy and loss. Raises DataError if the data set cannot be loaded.
    """
    from l2lcli.data import loader

    return on(loader.load(spec.dataset, raw_dir), spec)


def on(dataset: Dataset, spec: NetworksSpec) -> Problem:
    """The same on any images and labels in memory, whatever `spec.dataset` says."""
    import jax
    import jax.numpy as jnp
    import optax

    from l2lcli.problems.classification import on_device, smaller

    dataset = smaller(dataset, spec.pool)
    data = on_device(dataset)
    deepest, widest, largest = spec.depth[1], round(highest(spec.width)), round(highest(spec.batch_size))
    pixels = int(data["train"]["image"][0].size)
    shapes = [(pixels, widest), *[(widest, widest)] * (deepest - 1), (widest, dataset.classes)]
    activations = [getattr(jax.nn, name) for name in spec.activation]

    def draw(key):
        keys = jax.random.split(key, 9)
        pick = lambda key, options: jax.random.randint(key, (), 0, len(options))
        rescaling = pick(keys[7], spec.rescaling)
        return {
            "activation": pick(keys[0], spec.activation),
            "depth": jax.random.randint(keys[1], (), spec.depth[0], deepest + 1),
            "widths": whole(spec.width, (deepest,))(keys[2]),
            "init": pick(keys[3], spec.init),
            "gain": number(spec.gain)(keys[4]),
            "batch_size": whole(spec.batch_size)(keys[5]),
            "input_scale": number(spec.input_scale)(keys[6]),
            "rescaling": rescaling,
            "scales": _scales(spec.rescaling, rescaling, keys[8], 2 * len(shapes)),
        }

    def masks(task):
        """Which units of each hidden layer there are, [D, W]: a layer beyond the depth those of the last one that counts."""
        at = jnp.minimum(jnp.arange(deepest), task["depth"] - 1)
        return jnp.arange(widest)[None] < task["widths"][at][:, None]

    def init(key, data):
        draw_key, theta_key, scale_key = jax.random.split(key, 3)
        task = draw(draw_key)
        inputs = jnp.concatenate([jnp.array([pixels]), masks(task).sum(1)])
        outputs = jnp.concatenate([masks(task).sum(1), jnp.array([dataset.classes])])
        deviations = jnp.stack([_deviations(start, inputs, outputs, task["gain"], scale_key) for start in spec.init])
        of_kernels, of_biases = deviations[task["init"]]
        theta = {}
        for i, (shape, layer_key) in enumerate(zip(shapes, jax.random.split(theta_key, len(shapes)), strict=True)):
            kernel_key, bias_key = jax.random.split(layer_key)
            theta[f"layers_{i}"] = {
                "kernel": of_kernels[i] * jax.random.normal(kernel_key, shape) / task["scales"][2 * i],
                "bias": of_biases[i] * jax.random.normal(bias_key, shape[1:]) / task["scales"][2 * i + 1],
            }
        return theta, task

    def batch(key, task, data):
        rows = jax.random.randint(key, (largest,), 0, data["label"].shape[0])
        counts = (jnp.arange(largest) < task["batch_size"]).astype(jnp.float32)
        return {"image": data["image"][rows], "label": data["label"][rows], "counts": counts, "task": task}

    def logits(theta, task, image):
        dtype = jax.tree.leaves(theta)[0].dtype
        x = task["input_scale"].astype(dtype) * image.reshape(image.shape[0], -1).astype(dtype) / dataset.scale
        of_layer = lambda i: (
            theta[f"layers_{i}"]["kernel"] * task["scales"][2 * i].astype(dtype),
            theta[f"layers_{i}"]["bias"] * task["scales"][2 * i + 1].astype(dtype),
        )
        for i, mask in enumerate(masks(task)):
            kernel, bias = of_layer(i)
            z = x @ kernel + bias[None]
            made = jnp.where(mask[None], _chosen(activations, task["activation"], z), 0)
            x = made if i == 0 else jnp.where(i < task["depth"], made, x)
        kernel, bias = of_layer(deepest)
        return x @ kernel + bias[None]

    def losses(theta, batch):
        found = logits(theta, batch["task"], batch["image"])
        return found, optax.softmax_cross_entropy_with_integer_labels(found, batch["label"])

    def loss(theta, batch):
        each = losses(theta, batch)[1]
        return jnp.sum(each * batch["counts"].astype(each.dtype)) / jnp.sum(batch["counts"]).astype(each.dtype)

    def describe(task):
        names = ("activation", "depth", "init", "gain", "batch_size", "input_scale", "rescaling")
        named = {name: task[name] for name in names}
        return named | {f"width_{i}": jnp.where(i < task["depth"], task["widths"][i], 0) for i in range(deepest)}

    provenance = {dataset.label: dataset.fingerprint}
    return Problem(init, batch, loss, data, minibatch=True, describe=describe, provenance=provenance)


def _chosen(functions: list[Any], index: Any, z: Any) -> Any:
    """The index-th function of z; all are computed, which on arrays of this size costs less than choosing would."""
    import jax.numpy as jnp

    found = functions[0](z)
    for i, function in enumerate(functions[1:], 1):
        found = jnp.where(index == i, function(z), found)
    return found


def _deviations(start: Start, inputs: Any, outputs: Any, gain: Any, key: Any) -> Any:
    """Standard deviations of the kernels and the biases at the start, [2, layers]."""
    import jax.numpy as jnp

    if isinstance(start, Normal):
        return jnp.full((2, len(inputs)), number(start.normal)(key))
    variance = {"lecun": 1 / inputs, "he": 2 / inputs, "glorot": 2 / (inputs + outputs)}[start]
    return jnp.stack([gain * jnp.sqrt(variance), jnp.zeros(len(inputs))])


def _scales(options: list[Rescaling], index: Any, key: Any, count: int) -> Any:
    """What each of so many arrays is multiplied by, [count]."""
    import jax
    import jax.numpy as jnp

    u = jax.random.uniform(key, (count,), minval=-1.0)
    found = {"none": jnp.zeros(count), "global": jnp.full(count, u[0]), "tensor": u}
    return jnp.exp(jnp.stack([option.log_scale * found[option.kind] for option in options])[index])
