"""A coordinatewise optimizer whose steps are recomputed when they are differentiated, tile by tile.

What a step of all coordinates computes on its way goes through memory, and so does what is kept of it for the way back. A
tile of them stays in a core's cache. Between steps, the state of N coordinates is kept in tiles, [N / TILE, ..., TILE]: to
cut it at each step would be to transpose it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from l2lcli.base import LearnedOptimizer
from l2lcli.inner.transformation import transformation

TILE = 128  # coordinates


def tiles(size: int) -> int:
    """How many; one, of all coordinates, where they are few, and on anything but a CPU."""
    return -(-size // TILE) if size > TILE and jax.default_backend() == "cpu" else 1


def enter(size: int, leaf: jax.Array) -> jax.Array:
    """A leaf of a state, [..., N] or a scalar, as `tiled` has it: [tiles, ..., TILE] or [tiles]."""
    count = tiles(size)
    if count == 1 or leaf.ndim == 0:
        return jnp.broadcast_to(leaf[None], (count, *leaf.shape))
    filled = jnp.pad(leaf, [*[(0, 0)] * (leaf.ndim - 1), (0, count * TILE - size)])
    return jnp.moveaxis(filled.reshape(*leaf.shape[:-1], count, TILE), -2, 0)


def leave(size: int, leaf: jax.Array) -> jax.Array:
    """What `enter` was given."""
    if len(leaf) == 1 or leaf.ndim == 1:
        return leaf[0]
    together = jnp.moveaxis(leaf, 0, -2)
    return together.reshape(*together.shape[:-2], -1)[..., :size]


def tiled(optimizer: LearnedOptimizer) -> LearnedOptimizer:
    """The family, with a state as `enter` makes it; for gradients [N]. Its phi must not be indexed by coordinate."""

    def bind(phi):
        def update(grad, state, theta=None, **extra):
            @jax.checkpoint
            def one(of_tile: Any) -> Any:
                grad, state, theta = of_tile
                return optimizer.bind(phi).update(grad, state, theta, **extra)

            vectors = enter(grad.size, grad), state, None if theta is None else enter(grad.size, theta)
            step, state = jax.lax.map(one, vectors)
            return leave(grad.size, step), state

        return transformation(optimizer.bind(phi).init, update)

    return optimizer._replace(bind=bind)


def recomputed(optimizer: LearnedOptimizer) -> LearnedOptimizer:
    """A family that is not coordinatewise: its step is recomputed as a whole."""

    def bind(phi):
        def update(grad, state, theta=None, **extra):
            step = lambda grad, state, theta: optimizer.bind(phi).update(grad, state, theta, **extra)
            return jax.checkpoint(step, prevent_cse=False)(grad, state, theta)

        return transformation(optimizer.bind(phi).init, update)

    return optimizer._replace(bind=bind)
