"""A few coordinates in place of all: which ones, and what each then counts for.

A meta-gradient is a sum over coordinates, and in a large network most of them say nearly the same. Coordinate i's part is
Σ_t w_t ∇_i f_t · dtheta_i/dphi, so the size of its cotangents Σ_t |w_t ∇_i f_t| is known before anything is replayed, and is
what it is drawn in proportion to (importance sampling): a pixel that is always black is never drawn, a bias of the last layer
nearly always.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def draw(key: jax.Array, sizes: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Systematic sampling in proportion to size (Madow 1949): `count` places one stride apart, from a random first one.

    Args:
      key: consumed.
      sizes: how large each coordinate's part is thought to be, [N], not negative.
      count: how many are drawn, k; a coordinate larger than 1/k of all is drawn more than once.

    Returns:
      (indices [k], weights [k]): Σ_j weights_j x[indices_j] has the expectation Σ_i x_i for every x that is 0 where `sizes`
      is. All weights are 0 where all sizes are.
    """
    ends = jnp.cumsum(sizes)
    whole = ends[-1]
    places = (jnp.arange(count) + jax.random.uniform(key)) / count * whole
    # Rounding may put the last place beyond the end, or on a coordinate of no size.
    indices = jnp.clip(jnp.searchsorted(ends, places, side="right"), 0, sizes.size - 1)
    size = sizes[indices]
    return indices, jnp.where(size > 0, whole / (count * jnp.where(size > 0, size, 1)), 0)
