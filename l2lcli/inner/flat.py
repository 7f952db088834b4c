"""Coordinatewise optimizers on one flat vector of coordinates, however theta is nested."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from l2lcli.base import Intervals, LearnedOptimizer, Theta
from l2lcli.inner.transformation import transformation


def ravel(theta: Any) -> jax.Array:
    """The coordinates of theta as one vector [N], leaf after leaf."""
    return ravel_pytree(theta)[0]


def each(optimizer: LearnedOptimizer, theta: Theta, function: Callable[..., Any], *trees: Any) -> Any:
    """`function(member, intervals, *its parts of the trees)` for each member, as {name: result}.

    A family without members is its own only one: then the trees are whole, and so is the result.
    """
    if optimizer.replay is None or optimizer.replay.members is None:
        return function(optimizer, ((0, sum(leaf.size for leaf in jax.tree.leaves(theta))),), *trees)
    members = optimizer.replay.members(theta).items()
    return {name: function(member, intervals, *(tree[name] for tree in trees)) for name, (member, intervals) in members}


def length(intervals: Intervals) -> int:
    """How many coordinates a member has."""
    return sum(stop - start for start, stop in intervals)


def take(coordinates: jax.Array, intervals: Intervals) -> jax.Array:
    """A member's coordinates [..., length] out of all [..., N]."""
    return jnp.concatenate([coordinates[..., start:stop] for start, stop in intervals], -1)


def flat(
    optimizer: LearnedOptimizer, adapted: Callable[[LearnedOptimizer, int], LearnedOptimizer] = lambda member, size: member
) -> LearnedOptimizer:
    """The same family for any theta, its state that of the raveled theta: every leaf has N as its last axis, or is a scalar.

    With members the state is {name: state of the member's own coordinates}, as phi is.

    Args:
      optimizer: the family, coordinatewise, as are its members.
      adapted: (family or member, number of its coordinates) -> what is to stand in its place.
    """

    def bind(phi):
        def init(theta):
            vector = ravel(theta)
            start = lambda member, at, phi: adapted(member, length(at)).bind(phi).init(take(vector, at))
            return each(optimizer, theta, start, phi)

        def update(grad, state, theta=None, **extra):
            vector, unravel = ravel_pytree(grad)
            pieces = {}

            def one(member, at, phi, state):
                tx = adapted(member, length(at)).bind(phi)
                own = None if theta is None else take(ravel(theta), at)
                step: Any
                step, state = tx.update(take(vector, at), state, own, **extra)
                ends = np.cumsum([stop - start for start, stop in at])
                pieces.update(zip(at, jnp.split(step, ends[:-1]), strict=True))
                return state

            state = each(optimizer, grad, one, phi, state)
            return unravel(jnp.concatenate([pieces[at] for at in sorted(pieces)])), state

        return transformation(init, update)

    return optimizer._replace(bind=bind)
