"""Coordinatewise optimizers on one flat vector of coordinates, however theta is nested."""

from __future__ import annotations

from typing import Any

import jax
import optax
from jax.flatten_util import ravel_pytree

from l2lcli.base import LearnedOptimizer


def ravel(theta: Any) -> jax.Array:
    """The coordinates of theta as one vector [N], leaf after leaf."""
    return ravel_pytree(theta)[0]


def flat(optimizer: LearnedOptimizer) -> LearnedOptimizer:
    """The same family for any theta, its state that of the raveled theta: every leaf has N as its last axis, or is a scalar."""

    def bind(phi):
        tx = optimizer.bind(phi)

        def init(theta):
            return tx.init(ravel(theta))

        def update(grad, state, theta=None, **extra):
            vector, unravel = ravel_pytree(grad)
            step, state = tx.update(vector, state, None if theta is None else ravel(theta), **extra)
            return unravel(step), state

        return optax.GradientTransformationExtraArgs(init, update)

    return optimizer._replace(bind=bind)
