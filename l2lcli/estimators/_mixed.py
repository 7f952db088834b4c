"""A meta-gradient over several problems: each member's own estimator, and the weighted mean of what they say."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from l2lcli.base import Estimate, Estimator, Key


def restarts(init: Callable[..., Any], windows: int) -> Callable[..., Any]:
    """`Estimator.restart` of tasks that begin together, every so many meta-steps, by `init`."""

    def restart(key: Key, step: Any, phi: Any, data: Any, state: Any) -> Any:
        episode = lambda: init(jax.random.fold_in(key, step // windows), phi, data)
        return jax.lax.cond(step % windows == 0, episode, lambda: state)

    return restart


def mixed(members: Mapping[str, tuple[Estimator, float]]) -> Estimator:
    """The estimator of a mixture. State and data: {name: that of the member}.

    Args:
      members: name -> its estimator, which has a `restart`, and its weight.
    """
    whole = sum(weight for _, weight in members.values())
    own = lambda key, name: jax.random.fold_in(key, zlib.crc32(name.encode()))

    def init(key, phi, data):
        return {name: estimator.init(own(key, name), phi, data[name]) for name, (estimator, _) in members.items()}

    def restart(key, step, phi, data, state):
        return {
            name: estimator.restart(own(key, name), step, phi, data[name], state[name])
            for name, (estimator, _) in members.items()
            if estimator.restart is not None
        }

    def estimate(key, phi, data, state):
        grad, loss, after, losses = jax.tree.map(jnp.zeros_like, phi), 0.0, {}, []
        for name, (estimator, weight) in members.items():
            found, after[name] = estimator.estimate(own(key, name), phi, data[name], state[name])
            grad = jax.tree.map(lambda total, new, w=weight / whole: total + w * new, grad, found.grad)
            loss = loss + weight / whole * found.loss
            losses.append(found.losses)
        return Estimate(grad, jnp.asarray(loss), losses[0]), after

    def shardings(state):
        return {
            name: None if estimator.shardings is None else estimator.shardings(state[name])
            for name, (estimator, _) in members.items()
        }

    sharded = any(estimator.shardings is not None for estimator, _ in members.values())
    return Estimator(init, estimate, shardings if sharded else None, restart)
