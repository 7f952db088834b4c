"""Families that learn where the optimizee begins: theta_0 is a part of phi (Ravi and Larochelle 2017; Finn et al. 2017)."""

from __future__ import annotations

from typing import Any

from l2lcli.base import LearnedOptimizer

NAME = "start"  # of the leaf of phi


def learning_start(family: LearnedOptimizer) -> LearnedOptimizer:
    """The same family, which learns theta_0 too: its phi also has `start` [N], the raveled theta_0.

    It begins as the theta that `init` is given, which cannot be abstract. Starting a theta of another size raises ValueError.
    """
    import jax
    from jax.flatten_util import ravel_pytree

    def init(key, theta):
        # Raveled and copied: phi may be donated.
        return family.init(key, theta) | {NAME: ravel_pytree(theta)[0] + 0}

    def start(phi, theta):
        flat, unravel = ravel_pytree(theta)
        if flat.shape != phi[NAME].shape:
            raise ValueError(f"the learned start has {phi[NAME].size} parameters, and this optimizee {flat.size}")
        return unravel(phi[NAME])

    def per_coordinate(phi: Any) -> Any:
        rest = {key: part for key, part in phi.items() if key != NAME}
        indexed = family.replay and family.replay.per_coordinate
        return (indexed(rest) if indexed else jax.tree.map(lambda leaf: False, rest)) | {NAME: True}

    replay = family.replay and family.replay._replace(per_coordinate=per_coordinate)
    return family._replace(init=init, start=start, replay=replay)
