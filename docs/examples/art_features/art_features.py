"""Trains the small network that measures neural art: CIFAR-10, a plain Flax and Optax loop, its kernels as .safetensors.

    python art_features.py art_features.yaml features.safetensors
    python art_features.py art_features.yaml features.safetensors --optimizer general

The second line trains it by a learned optimizer in place of Adam. `problem: {kind: neural_art, features: …}` takes the file.
Data: L2L_RAW_DIR, or a download.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import yaml
from flax import linen
from safetensors.numpy import save_file

import l2lcli
from l2lcli.data import loader


class Network(linen.Module):
    """[B, 32, 32, 3] -> [B, 10]: the convolutions that are kept, the average over places, and a linear layer that is not."""

    channels: list[int]

    @linen.compact
    def __call__(self, x):
        """Logits."""
        for i, width in enumerate(self.channels):
            x = linen.avg_pool(x, (2, 2), (2, 2)) if i else x
            x = linen.relu(linen.Conv(width, (3, 3), kernel_init=linen.initializers.he_normal(), name=f"conv{i}")(x))
        return linen.Dense(10)(x.mean((1, 2)))


def pixels(images):
    """uint8 to the units of `neural_art`."""
    return (images.astype(jnp.float32) / 255 - 0.5) / 0.25


def altered(images, draw, shift):
    """Each mirrored or not, all moved by the same few pixels; NumPy, uint8."""
    mirrored = np.where(draw.random(len(images))[:, None, None, None] < 0.5, images[:, :, ::-1], images)
    padded = np.pad(mirrored, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="reflect")
    top, left = draw.integers(0, 2 * shift + 1, 2)
    return padded[:, top : top + images.shape[1], left : left + images.shape[2]]


def main():
    """Train, say the accuracy on the test images after each epoch, write the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("out")
    parser.add_argument("--optimizer", default="adam", help="adam, or what l2lcli.load knows: general, a run directory")
    given = parser.parse_args()
    with open(given.config) as file:
        config = yaml.safe_load(file)
    data = loader.load("cifar10")
    train, test = data.splits["train"], data.splits["test"]
    batch_size, draw = config["batch_size"], np.random.default_rng(config["seed"])
    per_epoch = len(train["label"]) // batch_size
    steps = config["epochs"] * per_epoch
    if given.optimizer == "adam":
        tx = optax.adam(optax.cosine_decay_schedule(config["learning_rate"], steps))
    else:
        tx = l2lcli.load(given.optimizer, horizon=steps)
    network = Network(config["channels"])
    theta = network.init(jax.random.key(config["seed"]), jnp.zeros((1, 32, 32, 3)))["params"]
    state = tx.init(theta)

    def loss(theta, images, labels):
        logits = network.apply({"params": theta}, pixels(images))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(theta, state, images, labels):
        value, grad = jax.value_and_grad(loss)(theta, images, labels)
        updates, state = tx.update(grad, state, theta, value=value) if given.optimizer != "adam" else tx.update(grad, state)
        return optax.apply_updates(theta, updates), state, value

    @jax.jit
    def right(theta, images, labels):
        return (network.apply({"params": theta}, pixels(images)).argmax(-1) == labels).sum()

    began = time.monotonic()
    for epoch in range(config["epochs"]):
        order, losses = draw.permutation(len(train["label"])), []
        for rows in order[: per_epoch * batch_size].reshape(per_epoch, batch_size):
            images = altered(train["image"][rows], draw, config["shift"])
            theta, state, value = step(theta, state, images, train["label"][rows])
            losses.append(value)
        found = sum(
            right(theta, test["image"][i : i + 500], test["label"][i : i + 500]) for i in range(0, len(test["label"]), 500)
        )
        accuracy, mean = int(found) / len(test["label"]), float(np.mean(jax.device_get(losses)))
        print(f"epoch {epoch + 1}: loss {mean:.3f}, test accuracy {accuracy:.3f}, {time.monotonic() - began:.0f} s", flush=True)
    kept = {
        f"{name}/{leaf}": np.asarray(array)
        for name, of in theta.items()
        if name.startswith("conv")
        for leaf, array in of.items()
    }
    save_file({name: array.astype(np.float16) for name, array in sorted(kept.items())}, given.out)
    print(f"{given.out}: {sum(array.size for array in kept.values()):,} parameters, in half precision")


if __name__ == "__main__":
    main()
