"""A convolutional network written with Flax NNX, on the digits of scikit-learn: 8 x 8 pixels, ten classes.

What it shows: a network that is an object becomes the pure functions that a `Problem` is made of. `nnx.split` takes it apart
into its structure, which is the same for every task, and its parameters, which are theta; `nnx.merge` puts it together again
inside the loss. `nnx.to_pure_dict` leaves of the parameters nested dictionaries of plain arrays, such as
{"conv_in": {"kernel": [3, 3, 1, 8], "bias": [8]}, ...}, so that a config can name them (`optimizer: {kind: groups}`).
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from pydantic import Field

import l2lcli


class NnxCnnSpec(l2lcli.ProblemSpec):
    """f(theta) = mean softmax cross-entropy of a small convolutional network on a minibatch of digits."""

    kind: Literal["nnx_cnn"] = "nnx_cnn"
    channels: int = Field(default=8, ge=1, le=256)
    """Channels of both convolutions."""
    batch_size: int = Field(default=64, ge=1, le=10_000)
    """Images per step, drawn with replacement."""


class Cnn(nnx.Module):
    """[B, 8, 8, 1] -> [B, 10]: two convolutions of stride 2, which leave 2 x 2 pixels, and a linear layer."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        """Parameters as NNX starts them."""
        self.conv_in = nnx.Conv(1, channels, (3, 3), strides=2, rngs=rngs)
        self.conv_out = nnx.Conv(channels, channels, (3, 3), strides=2, rngs=rngs)
        self.linear = nnx.Linear(4 * channels, 10, rngs=rngs)

    def __call__(self, images):
        """Logits."""
        x = nnx.relu(self.conv_in(images))
        x = nnx.relu(self.conv_out(x))
        return self.linear(x.reshape(x.shape[0], -1))


def digits():
    """Split -> {"image": [n, 8, 8, 1] in 0 … 1, "label": [n]}; the last sixth is for testing."""
    from sklearn.datasets import load_digits

    found = load_digits()
    image = jnp.asarray(found.images[..., None] / 16, jnp.float32)
    label = jnp.asarray(found.target, jnp.int32)
    parts = {"train": slice(1500), "test": slice(1500, None)}
    return {name: {"image": image[rows], "label": label[rows]} for name, rows in parts.items()}


@l2lcli.register.problem("nnx_cnn", NnxCnnSpec)
def nnx_cnn(spec: NnxCnnSpec, raw_dir: str | None = None) -> l2lcli.Problem:
    """Build the problem: tasks differ in where the network starts and in the order of the minibatches. f is in nats."""
    structure, shapes = nnx.split(nnx.eval_shape(lambda: Cnn(spec.channels, nnx.Rngs(0))))

    def init(key, data):
        parameters = nnx.state(Cnn(spec.channels, nnx.Rngs(key)))
        return nnx.to_pure_dict(parameters), ()

    def logits(theta, batch):
        parameters = jax.tree.map(lambda leaf: leaf, shapes)  # a copy, whose arrays are replaced by theta's
        nnx.replace_by_pure_dict(parameters, theta)
        return nnx.merge(structure, parameters)(batch["image"])

    def batch(key, task, data):
        rows = jax.random.randint(key, (spec.batch_size,), 0, data["label"].shape[0])
        return {"image": data["image"][rows], "label": data["label"][rows]}

    def loss(theta, batch):
        return optax.softmax_cross_entropy_with_integer_labels(logits(theta, batch), batch["label"]).mean()

    def metrics(theta, batch):
        return {"accuracy": jnp.mean(logits(theta, batch).argmax(-1) == batch["label"])}

    return l2lcli.Problem(init, batch, loss, digits(), minibatch=True, metrics=metrics)
