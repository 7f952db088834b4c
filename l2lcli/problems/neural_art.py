"""Neural art: the pixels of an image that is to have the content of one picture and the style of another."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from l2lcli import registry
from l2lcli.base import Pictures, Problem, ProblemSpec

if TYPE_CHECKING:
    import jax
    import numpy as np

    from l2lcli.data._kernels import Kernels

COUNTS = {"train": 240, "validation": 60, "test": 60}  # contents of each kind
MEASURED = 60  # training contents by which activations are scaled
UNIT = 1024  # pixels that f is of
MIDDLE, SPREAD = 0.5, 0.25  # a pixel, 0 … 1, is MIDDLE + SPREAD theta
Weight = Annotated[float, Field(ge=0, le=1e6)]
Layer = Annotated[int, Field(ge=0, le=15)]


class NeuralArtSpec(ProblemSpec):
    """f(theta) = alpha content + beta style + gamma roughness of an image (Andrychowicz et al. 2016, Section 3.4)."""

    kind: Literal["neural_art"] = "neural_art"
    size: int = Field(default=64, ge=8, le=512)
    """Height and width of the images; a multiple of 2 for each pooling of the features, 8 for four layers."""
    style: str = Field(default="waves", min_length=1, max_length=4096)
    """waves, cells or marble, which are computed; china, flower or hopper, photographs of scikit-learn and matplotlib; or an
    image file, absolute or below data.raw_dir."""
    contents: list[Literal["cifar10", "photographs"]] = Field(default=["photographs"], min_length=1, max_length=2)
    """What is to be shown: images of CIFAR-10, enlarged, or random parts of these three photographs. 240 of each kind for
    training, 60 others for validation and 60 for the test."""
    features: str = Field(default="cifar10", min_length=1, max_length=4096)
    """What measures content and style: the shipped network, trained on CIFAR-10; random, one with random kernels; or a
    .safetensors file, absolute or below data.raw_dir."""
    content_layer: Layer = 2
    """The layer, counted from 0, whose activations are the content."""
    style_layers: list[Layer] = Field(default=[0, 1, 2, 3], min_length=1, max_length=16)
    """The layers whose Gram matrices are the style."""
    alpha: Weight = 0.02
    """Weight of the content."""
    beta: Weight = 2.0
    """Weight of the style."""
    gamma: Weight = 0.002
    """Weight of the total variation."""
    init_scale: float = Field(default=0.5, ge=0, le=10)
    """Standard deviation of theta_0, noise around grey."""

    @field_validator("contents", "style_layers")
    @classmethod
    def _distinct(cls, names: list[Any]) -> list[Any]:
        if len(set(names)) < len(names):
            raise ValueError(f"{names} has one twice")
        return names


@registry.problem.register("neural_art", NeuralArtSpec)
def neural_art(spec: NeuralArtSpec, raw_dir: str | None = None) -> Problem:
    """Build the distribution: one style and size, tasks differ in their content and in the noise that they begin as.

    With F the activations of a layer, [C, places], divided by their root mean square over 60 training contents (Gatys, Ecker
    and Bethge 2016 rescale theirs, too), P those of the content, G = F Fᵀ / places, and A that of the style:

        content = mean (F - P)²     style = mean over layers of mean (G - A)²     variation = mean (theta - its neighbour)²

    over channels and places, over pairs of channels, over colours and neighbours to the right and below. f is their weighted
    sum times the number of pixels over 1,024, so that a pixel's gradient hardly hangs on the size of the image.

    theta: {"image": [size, size, 3]}, a pixel being .5 + .25 theta; task: "content" and "style", uint8 images, "target" P and
    "grams" A; batch: "target" and "grams", and "features", the network. The splits "train", "validation" and "test" have
    contents of their own: other images of CIFAR-10 (the test's from its test set), and other bands of each photograph, the left
    half, the next quarter and the right one. Raises DataError for what cannot be read, ValueError for numbers that do not fit
    the features.
    """
    import jax
    import jax.numpy as jnp

    from l2lcli.problems._features import activations, gram

    kernels = _kernels(spec.features, raw_dir)
    count = len(kernels.layers)
    if (deepest := max(spec.content_layer, *spec.style_layers)) >= count:
        raise ValueError(f"problem: no layer {deepest}: features {spec.features!r} have {count}, counted from 0")
    if spec.size % 2 ** (count - 1):
        raise ValueError(f"problem.size: {spec.size} is not a multiple of {2 ** (count - 1)}, which {count} layers need")
    contents, provenance = _contents(spec, raw_dir)
    style = _style(spec.style, spec.size, raw_dir)

    def seen(network: Any, theta: jax.Array) -> list[jax.Array]:
        """[H, W, 3] -> the scaled activations of each layer, [C, h, w, 1]."""
        layers = jax.tree.map(lambda leaf: leaf.astype(theta.dtype), network["layers"])
        found = activations(layers, theta.transpose(2, 0, 1)[..., None])
        return [x / scale.astype(theta.dtype) for x, scale in zip(found, network["scales"], strict=True)]

    def theta_of(image: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
        return (image.astype(dtype) / 255 - MIDDLE) / SPREAD

    layers = [(jnp.asarray(kernel), jnp.asarray(bias)) for kernel, bias in kernels.layers]
    every = len(contents["train"]) // MEASURED
    scales = _scales(layers, theta_of(jnp.asarray(contents["train"][::every])))
    if dead := [i for i, scale in enumerate(scales) if not float(scale) > 0]:
        raise ValueError(f"problem.features: layer {dead[0]} of {spec.features!r} answers to no image")
    network = {"layers": layers, "scales": scales}

    def init(key, data):
        content_key, noise_key = jax.random.split(key)
        row = jax.random.randint(content_key, (), 0, data["content"].shape[0])
        content = data["content"][row]
        target = seen(data["features"], theta_of(content))[spec.content_layer]
        of_style = seen(data["features"], theta_of(data["style"]))
        noise = spec.init_scale * jax.random.normal(noise_key, (spec.size, spec.size, 3))
        task = {"content": content, "style": data["style"], "target": target}
        return {"image": noise}, task | {"grams": [gram(of_style[i]) for i in spec.style_layers]}

    def batch(key, task, data):
        return {"target": task["target"], "grams": task["grams"], "features": data["features"]}

    def loss(theta, batch):
        image = theta["image"]
        found = seen(batch["features"], image)
        content = jnp.mean(jnp.square(found[spec.content_layer] - batch["target"]))
        apart = [jnp.mean(jnp.square(gram(found[i]) - a)) for i, a in zip(spec.style_layers, batch["grams"], strict=True)]
        right, below = image[:, 1:] - image[:, :-1], image[1:] - image[:-1]
        variation = jnp.mean(jnp.square(right)) + jnp.mean(jnp.square(below))
        mean = spec.alpha * content + spec.beta * sum(apart) / len(apart) + spec.gamma * variation
        return mean * (spec.size**2 / UNIT)

    shared = {"style": jnp.asarray(style), "features": network}
    data = {split: {"content": jnp.asarray(images), **shared} for split, images in contents.items()}
    pictures = Pictures(
        given=lambda task: {name: task[name].astype(jnp.float32) / 255 for name in ("content", "style")},
        made=lambda theta: MIDDLE + SPREAD * theta["image"],
    )
    digest = hashlib.sha256(style.tobytes() + b"".join(images.tobytes() for images in contents.values()))
    provenance = {**provenance, "pictures": digest.hexdigest()[:16], "features": kernels.fingerprint}
    return Problem(init, batch, loss, data, held_out=True, pictures=pictures, provenance=provenance)


def _scales(layers: Any, images: jax.Array) -> list[jax.Array]:
    """Root mean square of each layer's activations over images [n, H, W, 3]."""
    import jax
    import jax.numpy as jnp

    from l2lcli.problems._features import activations

    squares = jax.jit(lambda image: [jnp.square(x).mean() for x in activations(layers, image.transpose(2, 0, 1)[..., None])])
    means = jax.tree.map(lambda *each: jnp.stack(each).mean(), *map(squares, images))
    return [jnp.sqrt(mean) for mean in means]


def _kernels(name: str, raw_dir: str | None) -> Kernels:
    from l2lcli.data import _kernels, raw
    from l2lcli.problems._features import random_layers

    if name == "random":
        return _kernels.Kernels(random_layers(), "random")
    if name == "cifar10":
        return _kernels.load(_kernels.SHIPPED / "art-features.safetensors")
    return _kernels.load(raw.home(raw_dir) / os.path.expanduser(name))


def _style(name: str, size: int, raw_dir: str | None) -> np.ndarray:
    """[size, size, 3] uint8."""
    from l2lcli.data import _photographs, raw
    from l2lcli.data.source import DataError
    from l2lcli.problems._textures import TEXTURES, texture

    if name in TEXTURES:
        return texture(name, size)
    if name in _photographs.PHOTOGRAPHS:
        return _photographs.square(_photographs.photograph(name), size)
    path = raw.home(raw_dir) / os.path.expanduser(name)
    if not path.is_file():
        known = ", ".join([*TEXTURES, *_photographs.PHOTOGRAPHS])
        raise DataError(f"problem.style: {name!r} is neither one of {known} nor an image file ({path})")
    return _photographs.square(path, size)


def _contents(spec: NeuralArtSpec, raw_dir: str | None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Split -> images [n, size, size, 3] uint8; what was read."""
    import numpy as np

    from l2lcli.data import _photographs, loader

    found: dict[str, list[np.ndarray]] = {split: [] for split in COUNTS}
    provenance = {}
    if "cifar10" in spec.contents:
        cifar10 = loader.load("cifar10", raw_dir)
        provenance[cifar10.label] = cifar10.fingerprint
        train, test = (cifar10.splits[split]["image"] for split in ("train", "test"))
        own = {"train": train, "validation": train[COUNTS["train"] :], "test": test}
        for split, images in own.items():
            found[split].append(_photographs.resized(images[: COUNTS[split]], spec.size))
    if "photographs" in spec.contents:
        for split, count in COUNTS.items():
            found[split].append(_photographs.parts(split, count, spec.size))
    return {split: np.concatenate(images) for split, images in found.items()}, provenance
