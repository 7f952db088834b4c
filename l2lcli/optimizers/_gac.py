"""Global averaging cells: LSTM cells whose outgoing activations are means over coordinates (Andrychowicz et al. 2016)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from l2lcli.optimizers._lstm_cell import cell

Average = Callable[[jax.Array], jax.Array]  # [K, N] -> [K, N], each row the same over all that are averaged together


def averaging(theta: Any, over: Literal["all", "tensor"]) -> Average:
    """The mean over all coordinates of the raveled theta, or over those of each of its tensors."""
    sizes = [leaf.size for leaf in jax.tree.leaves(theta)]
    ends = [sum(sizes)] if over == "all" else list(itertools.accumulate(sizes))
    pieces = list(zip([0, *ends[:-1]], ends, strict=True))

    def average(rows: jax.Array) -> jax.Array:
        means = [jnp.broadcast_to(rows[:, a:b].mean(1, keepdims=True), (len(rows), b - a)) for a, b in pieces if b > a]
        return jnp.concatenate(means, 1)

    return average


def step(
    layers: tuple[jax.Array, ...],
    h: tuple[jax.Array, ...],
    c: tuple[jax.Array, ...],
    x: jax.Array,
    averaged: int,
    average: Average,
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...], jax.Array]:
    """One step of all layers; the first `averaged` units of each send out their mean, and keep a c of their own.

    Args:
      layers: the fused matrix of each layer, as `_lstm_cell.fuse_layer` makes it.
      h: [H, N] what each layer sent out last.
      c: [H, N] of each layer.
      x: [inputs, N].
      averaged: units of each layer.
      average: from `averaging`.

    Returns:
      The new h and c, and what the last layer sent out (x itself without layers).
    """
    new_h, new_c = [], []
    for layer, h_layer, c_layer in zip(layers, h, c, strict=True):
        sent, c_after, _ = cell(layer, x, h_layer, c_layer)
        x = jnp.concatenate([average(sent[:averaged]), sent[averaged:]]) if averaged else sent
        new_h.append(x)
        new_c.append(c_after)
    return tuple(new_h), tuple(new_c), x
