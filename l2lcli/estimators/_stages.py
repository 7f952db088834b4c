"""A curriculum: all tasks have the same horizon, which becomes a longer one when validation says so (Chen et al. 2020)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2lcli.base import Data, Estimator, Key, Phi
from l2lcli.estimators._staggered import of_tasks, with_tasks


class Staged(NamedTuple):
    """State: the estimator's, and how many horizons are behind, ()."""

    inner: Any
    stage: jax.Array


def staged(estimator: Estimator, horizons: tuple[int, ...]) -> Estimator:
    """The estimator on episodes whose horizon is that of the stage in which they begin; multiples of the window."""

    def begun(key: Key, phi: Phi, data: Data, stage: jax.Array) -> Any:
        state = estimator.init(key, phi, data)
        return with_tasks(state, of_tasks(state)._replace(horizon=jnp.asarray(horizons, jnp.int32)[stage]))

    def init(key: Key, phi: Phi, data: Data) -> Staged:
        stage = jnp.zeros((), jnp.int32)
        return Staged(begun(key, phi, data, stage), stage)

    def estimate(key: Key, phi: Phi, data: Data, state: Staged) -> Any:
        found, after = estimator.estimate(key, phi, data, state.inner)
        return found, state._replace(inner=after)

    def restart(key: Key, step: Any, phi: Phi, data: Data, state: Staged) -> Staged:
        tasks = of_tasks(state.inner)
        anew = lambda: begun(jax.random.fold_in(key, step), phi, data, state.stage)
        return state._replace(inner=jax.lax.cond((tasks.t >= tasks.horizon) | (step == 0), anew, lambda: state.inner))

    shardings = estimator.shardings
    of = None if shardings is None else lambda state: Staged(shardings(state.inner), None)  # pyright: ignore[reportArgumentType]
    return Estimator(init, estimate, of, restart)


def stage(state: Any) -> int:
    """How many horizons are behind the state of an estimator that is made of such, or of none."""
    return int(found[0].stage) if (found := _all(state)) else 0


def further(state: Any) -> Any:
    """The state at the next horizon, which its next episodes have."""
    more = lambda each: each._replace(stage=jax.device_put(np.int32(int(each.stage) + 1), each.stage.sharding))
    return jax.tree.map(lambda each: more(each) if isinstance(each, Staged) else each, state, is_leaf=_is_staged)


def _is_staged(part: Any) -> bool:
    return isinstance(part, Staged)


def _all(state: Any) -> list[Staged]:
    return [part for part in jax.tree.leaves(state, is_leaf=_is_staged) if _is_staged(part)]
