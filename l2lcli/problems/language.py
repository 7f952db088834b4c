"""The next character of a text, by a small recurrent network or a transformer with one block."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Problem, ProblemSpec

TEST = 10  # one part of so many of the text, its end, is for the test


class LanguageSpec(ProblemSpec):
    """f(theta) = mean cross-entropy of the next character of an English text, on a fresh minibatch of passages."""

    kind: Literal["language"] = "language"
    network: Literal["gru", "transformer"] = "gru"
    """Gated recurrent units (Cho et al. 2014), or one block of causal self-attention and a perceptron, normalised before."""
    width: int = Field(default=32, ge=1, le=4096)
    """Numbers that stand for a character, and units of the network."""
    heads: int = Field(default=2, ge=1, le=64)
    """Heads of the attention; they divide the width."""
    context: int = Field(default=16, ge=1, le=4096)
    """Characters that the network sees at most."""
    batch_size: int = Field(default=16, ge=1, le=10_000)
    """Passages per step."""


@registry.problem.register("language", LanguageSpec)
def language(spec: LanguageSpec, raw_dir: str | None = None) -> Problem:
    """Build the distribution: one network and text, tasks differ in theta_0 and in the passages.

    theta: the Flax parameters, started as Flax starts them; task (); data: codes of characters, "train" [n], "test" passages
    [m, context + 1]; batch [B, context + 1]. f is in nats per character. Metrics: loss and accuracy. The text, 12,000
    characters, is a file of the package, of works in the public domain. Raises ValueError where the heads do not divide the
    width.
    """
    import hashlib

    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from l2lcli import data as home

    if spec.network == "transformer" and spec.width % spec.heads:
        raise ValueError(f"problem.heads: {spec.heads} do not divide the width {spec.width}")
    content = (Path(home.__path__[0]) / "english.txt").read_bytes()
    alphabet, codes = np.unique(np.frombuffer(content, np.uint8), return_inverse=True)
    length, held_out = spec.context + 1, len(codes) // TEST
    tail = codes[-held_out:]
    data = {
        "train": jnp.asarray(codes[:-held_out], jnp.int32),
        "test": jnp.asarray(tail[: held_out // length * length].reshape(-1, length), jnp.int32),
    }
    network = _gru(spec.width, len(alphabet)) if spec.network == "gru" else _transformer(spec, len(alphabet))

    def init(key, data):
        return network.init(key, jnp.zeros((1, spec.context), jnp.int32))["params"], ()

    def batch(key, task, data):
        starts = jax.random.randint(key, (spec.batch_size,), 0, data.shape[0] - length + 1)
        return data[starts[:, None] + jnp.arange(length)[None]]

    def losses(theta: Any, passages: Any):
        found = network.apply({"params": theta}, passages[:, :-1])
        return found, optax.softmax_cross_entropy_with_integer_labels(found, passages[:, 1:])

    def loss(theta, passages):
        return losses(theta, passages)[1].mean()

    def metrics(theta, passages):
        found, each = losses(theta, passages)
        return {"accuracy": jnp.mean(found.argmax(-1) == passages[:, 1:]), "loss": each.mean()}

    provenance = {"english": hashlib.sha256(content).hexdigest()[:16]}
    return Problem(init, batch, loss, data, minibatch=True, metrics=metrics, provenance=provenance)


def _gru(width: int, letters: int) -> Any:
    """[B, L] codes -> [B, L, letters] logits."""
    from flax import linen

    # Flax's own start for the recurrent kernel, an orthogonal one, takes a QR factorisation, of which a batch can wait for
    # itself for ever on few cores: jaxlib 0.10's kernel shares its tasks among the threads that run it.
    cell = linen.RNN(linen.GRUCell(width, recurrent_kernel_init=linen.initializers.lecun_normal()))
    return linen.Sequential([linen.Embed(letters, width), cell, linen.Dense(letters)])


def _transformer(spec: LanguageSpec, letters: int) -> Any:
    """The same (Radford et al. 2019, in small)."""
    import jax
    import jax.numpy as jnp
    from flax import linen

    def attend(x: Any, heads: int) -> Any:
        query, key, value = jnp.split(x.reshape(*x.shape[:2], heads, -1), 3, -1)
        scores = jnp.einsum("bihd,bjhd->bhij", query, key) * query.shape[-1] ** -0.5
        scores = jnp.where(jnp.tri(x.shape[1], dtype=bool), scores, -1e9)
        return jnp.einsum("bhij,bjhd->bihd", jax.nn.softmax(scores), value).reshape(*x.shape[:2], -1)

    class Transformer(linen.Module):
        @linen.compact
        def __call__(self, codes):
            place = self.param("places", linen.initializers.normal(0.02), (spec.context, spec.width))
            x = linen.Embed(letters, spec.width)(codes) + place[None, : codes.shape[1]]
            x = x + linen.Dense(spec.width)(attend(linen.Dense(3 * spec.width)(linen.LayerNorm()(x)), spec.heads))
            x = x + linen.Dense(spec.width)(jax.nn.gelu(linen.Dense(4 * spec.width)(linen.LayerNorm()(x))))
            return linen.Dense(letters)(linen.LayerNorm()(x))

    return Transformer()
