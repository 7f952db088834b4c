"""A character transformer with one block, in plain JAX, on a text that lies beside this file: optimization.txt.

What it shows:
- a problem may read files. The spec names the text, relative to where the command is typed (here, in this folder): a run that
  is gone on with uses its own copy of the code, beside which no text lies;
- theta is any nesting of dictionaries, lists and arrays;
- `provenance` says what was read, by a fingerprint that goes into env.json; learning rates that were tuned on it are kept;
- the split "test" is the end of the text, from which no minibatch of the training comes.

The network: characters and positions are embedded; causal self-attention with several heads, then a perceptron, each added to
what it reads, which is normalised before; then the logits of the next character (Radford et al. 2019, in small).
"""

import hashlib
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field

import l2lcli


class TransformerSpec(l2lcli.ProblemSpec):
    """f(theta) = mean cross-entropy of the next character, of a transformer with one block, on a minibatch of a text."""

    kind: Literal["transformer"] = "transformer"
    text: str = "optimization.txt"
    """A text file, UTF-8, relative to the working directory."""
    context: int = Field(default=16, ge=1, le=4096)
    """Characters that the network sees at most."""
    width: int = Field(default=16, ge=1, le=4096)
    """Numbers that stand for a character; divided evenly among the heads."""
    heads: int = Field(default=2, ge=1, le=64)
    """Heads of the attention."""
    batch_size: int = Field(default=8, ge=1, le=10_000)
    """Passages per step."""


def normalise(x):
    """Mean 0 and variance 1 of the last axis (Ba, Kiros and Hinton 2016), without parameters."""
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)


def attend(weights, x, heads):
    """Causal self-attention: x [B, L, D] -> [B, L, D], each place looking at itself and at those before it."""
    length, width = x.shape[1:]
    query, key, value = jnp.split((x @ weights["in"]).reshape(*x.shape[:2], heads, 3 * width // heads), 3, -1)
    scores = jnp.einsum("bihd,bjhd->bhij", query, key) * (width // heads) ** -0.5
    scores = jnp.where(jnp.tri(length, dtype=bool), scores, -1e9)
    seen = jnp.einsum("bhij,bjhd->bihd", jax.nn.softmax(scores), value)
    return seen.reshape(x.shape) @ weights["out"]


def logits(theta, characters, heads):
    """characters [B, L] -> [B, L, V], at each place the logits of the next one."""
    x = theta["characters"][characters] + theta["places"][None, : characters.shape[1]]
    x = x + attend(theta["attention"], normalise(x), heads)
    first, second = theta["perceptron"]
    x = x + jax.nn.gelu(normalise(x) @ first["kernel"] + first["bias"][None, None]) @ second["kernel"]
    return normalise(x) @ theta["logits"]


@l2lcli.register.problem("transformer", TransformerSpec)
def transformer(spec: TransformerSpec, raw_dir: str | None = None) -> l2lcli.Problem:
    """Build the problem: tasks differ in where the network starts and in the passages. f is in nats per character."""
    if spec.width % spec.heads:
        raise ValueError(f"{spec.heads} heads do not divide the width {spec.width}")
    content = Path(spec.text).read_bytes()
    text = content.decode()
    alphabet = sorted(set(text))
    number = {character: i for i, character in enumerate(alphabet)}
    codes = np.array([number[character] for character in text], np.int32)
    length, held_out = spec.context + 1, len(codes) // 10
    tail = codes[-held_out:]
    data = {  # passages for the test lie one after the other
        "train": jnp.asarray(codes[:-held_out]),
        "test": jnp.asarray(tail[: len(tail) // length * length].reshape(-1, length)),
    }

    def init(key, data):
        width, letters = spec.width, len(alphabet)
        keys = iter(jax.random.split(key, 7))
        draw = lambda *shape, scale: scale * jax.random.normal(next(keys), shape)
        theta = {
            "characters": draw(letters, width, scale=0.1),
            "places": draw(spec.context, width, scale=0.1),
            "attention": {"in": draw(width, 3 * width, scale=width**-0.5), "out": draw(width, width, scale=width**-0.5)},
            "perceptron": [
                {"kernel": draw(width, 4 * width, scale=width**-0.5), "bias": jnp.zeros(4 * width)},
                {"kernel": draw(4 * width, width, scale=(4 * width) ** -0.5)},
            ],
            "logits": draw(width, letters, scale=0.1 * width**-0.5),
        }
        return theta, ()

    def batch(key, task, data):
        starts = jax.random.randint(key, (spec.batch_size,), 0, data.shape[0] - length + 1)
        return data[starts[:, None] + jnp.arange(length)[None]]

    def losses(theta, passages):
        found = logits(theta, passages[:, :-1], spec.heads)
        return found, optax.softmax_cross_entropy_with_integer_labels(found, passages[:, 1:])

    def loss(theta, passages):
        return losses(theta, passages)[1].mean()

    def metrics(theta, passages):
        found, each = losses(theta, passages)
        return {"accuracy": jnp.mean(found.argmax(-1) == passages[:, 1:]), "loss": each.mean()}

    provenance = {spec.text: hashlib.sha256(content).hexdigest()[:16]}
    return l2lcli.Problem(init, batch, loss, data, minibatch=True, metrics=metrics, provenance=provenance)
