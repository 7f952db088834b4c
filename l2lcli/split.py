"""One optimizee on many devices: each runs the optimizer for a part of its coordinates, and all have the whole gradient.

For inside `shard_map`. A coordinatewise optimizer's work is cut by the number of devices at the price of one exchange of the
update, N floats, per step; the optimizee's own work, small beside it, is done by every device.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from l2lcli.base import LearnedOptimizer


class Split:
    """How N coordinates are cut into equal parts, the last one filled up with zeros.

    Args:
      size: N.
      devices: number of parts.
      axis: name of the mesh axis.
    """

    def __init__(self, size: int, devices: int, axis: str) -> None:
        """Nothing is computed yet."""
        self.size, self.part, self.axis = size, -(-size // devices), axis
        self.fill = self.part * devices - size

    def cut(self, tree: Any) -> Any:
        """This device's part of the leaves whose last axis is N; other leaves stay."""

        def one(leaf):
            if leaf.shape[-1:] != (self.size,):
                return leaf
            filled = jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, self.fill)])
            start = jax.lax.axis_index(self.axis) * self.part
            return jax.lax.dynamic_slice_in_dim(filled, start, self.part, -1)

        return jax.tree.map(one, tree)

    def join(self, tree: Any) -> Any:
        """Whole leaves again from every device's parts."""

        def one(leaf):
            if leaf.shape[-1:] != (self.part,):
                return leaf
            return jax.lax.all_gather(leaf, self.axis, axis=leaf.ndim - 1, tiled=True)[..., : self.size]

        return jax.tree.map(one, tree)

    def optimizer(self, optimizer: LearnedOptimizer) -> LearnedOptimizer:
        """The coordinatewise family with a part of its state on each device: `cut` of the whole state."""

        def bind(phi):
            tx = optimizer.bind(phi)

            def update(grad, state, theta=None, **extra):
                vector, unravel = ravel_pytree(grad)
                own = None if theta is None else self.cut(ravel_pytree(theta)[0])
                step, state = tx.update(self.cut(vector), state, own, **extra)
                return unravel(self.join(step)), state

            return optax.GradientTransformationExtraArgs(tx.init, update)

        return optimizer._replace(bind=bind)
