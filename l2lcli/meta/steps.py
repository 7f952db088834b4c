"""One meta-step as a compiled function: a meta-gradient estimator and an Optax meta-optimizer make phi better. Pure.

Randomness is a function of the seed and of the episode's number, and one compiled program runs any number of meta-steps
(its trip count is an argument), so how the steps are cut into dispatches leaves no trace in the bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2lcli import processes
from l2lcli.base import Data, Estimator, Key, LearnedOptimizer, Phi, Problem
from l2lcli.config.specs import TrainSpec
from l2lcli.estimators._mixed import restarts
from l2lcli.estimators._sharding import placed
from l2lcli.inner.unroll import namespace
from l2lcli.meta.optimizer import factors, learning_rate, transformation
from l2lcli.meta.validation import validation
from l2lcli.tree import is_key

CAPACITY = 1024  # meta-steps per dispatch at most: the rows of one dispatch are returned in a buffer of this size


class MetaState(NamedTuple):
    """Meta-training's state on the device."""

    phi: Phi
    good: Phi  # the last phi whose meta-gradient was finite
    opt: Any  # the meta-optimizer's state
    inner: Any  # the estimator's state, M optimizees; of a mixture {name: that of the member}
    step: jax.Array  # () int32 meta-steps done, skipped ones included
    failures: jax.Array  # () int32 meta-steps skipped in a row, for a meta-gradient that was not finite


class MetaTraining(NamedTuple):
    """The compiled functions of one meta-training.

    Attributes:
      init: (root key, phi, data) -> MetaState.
      place: MetaState -> the same, on the devices as `advance` leaves it: else its second call would be compiled anew.
      everywhere: (tree, MetaState) -> the tree, on all devices that the state is on, of several processes.
      advance: (root key, MetaState, data, count) -> (MetaState, [CAPACITY, 3] of loss, gradient norm, skipped; the first
        `count` rows are filled, fewer if a run of skipped steps ended it).
      fresh: (phi, MetaState) -> the meta-optimizer's state to begin with from that phi, on the devices of the state's own.
      validate: (root key, phi, data, stage of the curriculum) -> what `meta.validation` finds on the horizon that is judged by.
      per_episode: meta-steps per episode, T / W.
      limit: skipped meta-steps in a row that count as divergence.
    """

    init: Callable[[Key, Phi, Data], MetaState]
    place: Callable[[MetaState], MetaState]
    everywhere: Callable[[Any, MetaState], Any]
    advance: Callable[[Key, MetaState, Data, Any], tuple[MetaState, jax.Array]]
    fresh: Callable[[Phi, MetaState], Any]
    validate: Callable[..., dict[str, Any]]
    per_episode: int
    limit: int


def meta_training(problem: Problem, optimizer: LearnedOptimizer, estimator: Estimator, spec: TrainSpec) -> MetaTraining:
    """Build the outer loop of a config's `train` section, `spec`."""
    per_episode = spec.windows
    begin = estimator.restart or restarts(estimator.init, per_episode)
    limit = max(20, 3 * per_episode)
    schedule = learning_rate(spec.meta_optimizer, spec.meta_steps)
    meta_optimizer = transformation(spec.meta_optimizer)

    @jax.jit
    def rates(step):
        """The learning rates of the next `CAPACITY` meta-steps."""
        return jax.vmap(schedule)(step + jnp.arange(CAPACITY))

    first = lambda phi: meta_optimizer(jnp.ones(())).init(phi)

    def fresh(phi, state):
        # Of a copy, for a state may hold phi itself, and both are donated.
        sharding = jax.tree.map(lambda leaf: leaf.sharding, state.opt)
        return jax.jit(first, out_shardings=sharding)(jax.tree.map(jnp.copy, phi))

    def init(root, phi, data):
        # Stand-in optimizees of the right shapes: the first meta-step begins an episode and draws its own.
        shapes = jax.eval_shape(estimator.init, root, phi, data)
        blank = lambda s: jax.random.split(root, s.shape) if is_key(s) else jnp.zeros(s.shape, s.dtype)
        inner = jax.tree.map(blank, shapes)
        return MetaState(
            phi,
            jax.tree.map(jnp.copy, phi),
            first(phi),
            inner,
            jnp.zeros((), jnp.int32),
            jnp.zeros((), jnp.int32),
        )

    def place(state):
        if estimator.shardings is None:
            return state
        inner = _split(estimator.shardings(state.inner))
        shardings: Any = MetaState(*[_alike(inner)] * len(state))  # pyright: ignore[reportArgumentType]
        return placed(state, shardings._replace(inner=inner))

    def everywhere(tree, state):
        if processes.count() == 1 or estimator.shardings is None:
            return tree
        return placed(tree, _alike(estimator.shardings(state.inner)))

    def meta_step(root, state, data, rate):
        inner = begin(namespace(root, "train"), state.step, state.phi, data, state.inner)
        key = jax.random.fold_in(namespace(root, "estimator"), state.step)
        estimate, inner = estimator.estimate(key, state.phi, data, inner)
        # Before clipping: optax.clip_by_global_norm turns an infinite gradient into NaN.
        finite = _finite((estimate.grad, estimate.loss))
        good = jax.tree.map(lambda new, old: jnp.where(finite, new, old), state.phi, state.good)
        update, opt = meta_optimizer(rate).update(estimate.grad, state.opt, state.phi, value=estimate.loss)
        update = jax.tree.map(jnp.multiply, update, factors(spec.meta_optimizer.factors, state.phi))
        moved = optax.apply_updates(state.phi, update), opt
        finite &= _finite(moved[0])
        phi, opt = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, (state.phi, state.opt))
        row = jnp.stack([estimate.loss, optax.tree.norm(estimate.grad), (~finite).astype(estimate.loss.dtype)])
        return MetaState(phi, good, opt, inner, state.step + 1, jnp.where(finite, 0, state.failures + 1)), row

    @functools.partial(jax.jit, donate_argnums=1)
    def dispatched(root, state, data, count, rates):
        def body(carry):
            i, state, rows = carry
            state, row = meta_step(root, state, data, rates[i])
            return i + 1, state, rows.at[i].set(row)

        def goes_on(carry):
            return (carry[0] < count) & (carry[1].failures < limit)

        return jax.lax.while_loop(goes_on, body, (jnp.zeros((), jnp.int32), state, jnp.zeros((CAPACITY, 3))))[1:]

    def advance(root, state, data, count):
        # Rates are an argument, so that another number of episodes or another schedule is the same program.
        return dispatched(root, state, data, count, np.asarray(rates(np.asarray(state.step))))

    judged = [spec.judged(stage).horizon for stage in range(len(spec.stages))]
    # Compiled when called, and once where two stages are judged on the same horizon.
    on = {length: validation(problem, optimizer, spec.judged(judged.index(length))) for length in judged}
    validate = lambda root, phi, data, stage=0: on[judged[stage]](root, phi, data)
    return MetaTraining(jax.jit(init), place, everywhere, advance, fresh, validate, per_episode, limit)


def _split(shardings: Any) -> Any:
    """With what is not split, None of the members of a mixture, on every device of several processes."""
    if processes.count() == 1:
        return shardings
    none = lambda sharding: sharding is None
    return jax.tree.map(lambda each: _alike(shardings) if none(each) else each, shardings, is_leaf=none)


def _alike(shardings: Any) -> Any:
    """The whole of an array on every device that those are of."""
    return jax.sharding.NamedSharding(jax.tree.leaves(shardings)[0].mesh, jax.sharding.PartitionSpec())


def _finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
