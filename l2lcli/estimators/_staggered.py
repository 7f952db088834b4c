"""Tasks that stand at steps of their own: a meta-gradient sees early and late training at once, over horizons of any length."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from l2lcli.base import Data, Estimator, Inner, Key, LearnedOptimizer, Phi, Problem
from l2lcli.inner.unroll import axes, unroll


class Horizons(NamedTuple):
    """Which horizons are drawn: multiples of the window, evenly in the logarithm.

    Attributes:
      shortest: T at least.
      longest: T at most.
      window: W.
      growing: meta-steps over which the longest T grows, in proportion, from the shortest; 0 for none.
    """

    shortest: int
    longest: int
    window: int
    growing: int

    def draw(self, key: Key, tasks: int, step: Any) -> jax.Array:
        """[tasks] int32, at a meta-step. The key is consumed."""
        low = self.shortest // self.window
        grown = jnp.minimum(step / self.growing, 1.0) if self.growing else 1.0
        high = low + (self.longest // self.window - low) * grown
        windows = jnp.exp(jax.random.uniform(key, (tasks,), minval=jnp.log(low - 0.5), maxval=jnp.log(high + 0.5)))
        return self.window * jnp.clip(jnp.round(windows), low, jnp.floor(high)).astype(jnp.int32)


def staggered(estimator: Estimator, problem: Problem, optimizer: LearnedOptimizer, tasks: int, horizons: Horizons) -> Estimator:
    """The estimator on tasks with horizons of their own, each of which begins anew when its own is over.

    At the first meta-step tasks are spread over their horizons: each is advanced, by phi and without a gradient, a number of
    windows that is drawn evenly.

    Raises ValueError for an optimizer that learns where theta begins, and so needs whole episodes.
    """
    if optimizer.start is not None:
        raise ValueError("train.horizons: this optimizer learns where theta begins, and needs whole episodes")

    stepping = estimator.family or optimizer

    def begun(key: Key, step: Any, phi: Phi, data: Data) -> Any:
        task_key, horizon_key = jax.random.split(key)
        state = estimator.init(task_key, phi, data)
        zeros = jnp.zeros(tasks, jnp.int32)
        inner = of_tasks(state)._replace(t=zeros, horizon=horizons.draw(horizon_key, tasks, step))
        return with_tasks(state, inner)

    def first(key: Key, phi: Phi, data: Data) -> Any:
        state = begun(key, 0, phi, data)
        inner = of_tasks(state)
        windows = inner.horizon // horizons.window
        ahead = jax.random.randint(jax.random.fold_in(key, 1), (tasks,), 0, windows)
        one = lambda inner: unroll(problem, stepping, phi, inner, data, horizons.window).end
        deep = inner.value.ndim - 1  # pairs of optimizees, or single ones
        for _ in range(deep):
            one = jax.vmap(one, in_axes=(axes(),), out_axes=axes())

        def advance(i, inner):
            further = jax.vmap(one, in_axes=(axes(0, 0),), out_axes=axes(0, 0))(inner)
            return _chosen(i < ahead, further, inner)

        return with_tasks(state, jax.lax.fori_loop(0, horizons.longest // horizons.window, advance, inner))

    def restart(key: Key, step: Any, phi: Phi, data: Data, state: Any) -> Any:
        over = of_tasks(state).t >= of_tasks(state).horizon

        def renewed():
            return _chosen(over, begun(jax.random.fold_in(key, step), step, phi, data), state)

        later = lambda: jax.lax.cond(over.any(), renewed, lambda: state)
        return jax.lax.cond(step == 0, lambda: first(jax.random.fold_in(key, step), phi, data), later)

    return estimator._replace(init=lambda key, phi, data: begun(key, 0, phi, data), restart=restart)


def of_tasks(state: Any) -> Inner:
    """The optimizees in an estimator's state."""
    return state if isinstance(state, Inner) else state.inner


def with_tasks(state: Any, inner: Inner) -> Any:
    """The state with other optimizees."""
    return inner if isinstance(state, Inner) else state._replace(inner=inner)


def _chosen(which: jax.Array, new: Any, old: Any) -> Any:
    """Task by task. which: [M]."""
    return jax.tree.map(lambda a, b: jnp.where(which.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)
