"""One optimizee on many devices: each runs the optimizer for a part of its coordinates, and all have the whole gradient.

For inside `shard_map`. A coordinatewise optimizer's work and memory are cut by the number of devices at the price of one
exchange of the update, N floats, per step; the optimizee's own work, small beside it, is done by every device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from l2lcli.base import LearnedOptimizer, Phi
from l2lcli.inner.transformation import transformation

Vectors: TypeAlias = Callable[[jax.Array], jax.Array]


class Split(NamedTuple):
    """How N coordinates are cut into equal parts, the last one filled up with zeros."""

    size: int  # N
    devices: int  # number of parts
    axis: str  # name of the mesh axis

    @property
    def part(self) -> int:
        """Coordinates of one device."""
        return -(-self.size // self.devices)

    def fill(self, vector: jax.Array) -> jax.Array:
        """[N] and as many zeros as make it divisible."""
        return jnp.pad(vector, (0, self.part * self.devices - self.size))

    def cut(self, vector: jax.Array) -> jax.Array:
        """This device's part of [N]."""
        if self.devices == 1:
            return vector
        return jax.lax.dynamic_slice_in_dim(self.fill(vector), jax.lax.axis_index(self.axis) * self.part, self.part)

    def join(self, part: jax.Array) -> jax.Array:
        """[N] again, on every device, from the parts of all."""
        if self.devices == 1:
            return part
        return jax.lax.all_gather(part, self.axis, tiled=True)[: self.size]

    def phi_part(self, optimizer: LearnedOptimizer, phi: Phi) -> Phi:
        """phi with this device's part of those leaves that are indexed by coordinate."""
        return self._by_coordinate(self.cut, optimizer, phi)

    def optimizer(self, optimizer: LearnedOptimizer) -> LearnedOptimizer:
        """The coordinatewise family for gradients of all coordinates, its state a device's own part of them.

        Outside of `shard_map`, init gives the state of all parts together.
        """
        return self._adapted(optimizer, self.cut, self.join)

    def together(self, optimizer: LearnedOptimizer) -> LearnedOptimizer:
        """The same outside of `shard_map`: its state is that of all parts together."""
        return self._adapted(optimizer, self.fill, lambda vector: vector[: self.size])

    def _adapted(self, optimizer: LearnedOptimizer, enter: Vectors, leave: Vectors) -> LearnedOptimizer:
        """The family on what `enter` makes of vectors of all coordinates; `leave` makes an update of them again."""

        def bind(phi):
            def init(theta):
                return optimizer.bind(phi).init(self.fill(theta))

            def update(grad, state, theta=None, **extra):
                tx = optimizer.bind(self._by_coordinate(enter, optimizer, phi))
                step: Any
                step, state = tx.update(enter(grad), state, None if theta is None else enter(theta), **extra)
                return leave(step), state

            return transformation(init, update)

        return optimizer._replace(bind=bind)

    def _by_coordinate(self, change: Vectors, optimizer: LearnedOptimizer, phi: Phi) -> Phi:
        """phi with those leaves changed that are indexed by coordinate."""
        indexed = optimizer.replay and optimizer.replay.per_coordinate
        if self.devices == 1 or indexed is None:
            return phi
        return jax.tree.map(lambda leaf, mine: change(leaf) if mine else leaf, phi, indexed(phi))
