"""Replay's first pass: a window of M tasks run forward, and what the optimizer was fed in it kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from l2lcli.base import Data, Inner, Key, LearnedOptimizer, Objective, Phi, Problem
from l2lcli.estimators._sharding import AXIS
from l2lcli.estimators._split import Split
from l2lcli.inner.flat import each, flat, length, ravel, take
from l2lcli.inner.objective import slopes
from l2lcli.inner.query import score_on_query
from l2lcli.inner.unroll import axes, begun, drawn, fresh, standing, unroll

SMALL = 1024  # coordinates of a task up to which tasks run side by side on a CPU
TOGETHER = 1 << 22  # coordinates of all tasks up to which they do elsewhere, where what is small is not worth a launch

ByMember: TypeAlias = Any  # an array of a family's coordinates; of one that is made of others {member: array}


class Job(NamedTuple):
    """What replay works on, fixed for a whole meta-training."""

    problem: Problem  # f, which the optimizees step on
    judged: Problem  # whose loss on its query is the outer loss; f itself where it has no query
    optimizer: LearnedOptimizer  # replayable
    tasks: int  # M, of this device where tasks are split over devices
    objective: Objective  # w_1 … w_T and g
    steps: int  # W
    devices: int  # over which the coordinates of every task are split

    def split(self, size: int) -> Split:
        """How that many coordinates are split over the devices."""
        return Split(size, self.devices, AXIS)

    @property
    def whole(self) -> LearnedOptimizer:
        """The optimizer of any theta, its state that of this device's own coordinates."""
        return self._raveled(Split.optimizer)

    @property
    def together(self) -> LearnedOptimizer:
        """The same outside of `shard_map`, its state that of all devices."""
        return self._raveled(Split.together)

    def _raveled(self, adapted: Callable[[Split, LearnedOptimizer], LearnedOptimizer]) -> LearnedOptimizer:
        if self.optimizer.replay is not None and self.optimizer.replay.composed is not None:
            return self.optimizer  # it looks at whole tensors, which every device has
        return flat(self.optimizer, lambda member, size: adapted(self.split(size), member))


class Window(NamedTuple):
    """A recorded window. N: this device's own coordinates, of the whole family or of each of its members."""

    losses: jax.Array  # [M, W] f at t+1 … t+W
    scores: jax.Array  # [M, W] the outer loss there
    values: jax.Array  # [M, W] the losses that the optimizer was fed at t … t+W-1
    horizon: jax.Array  # [M] the T that it was told
    opt: ByMember  # the optimizer's state at the window's beginning: leaves [M, ..., N], or [M] of scalars
    theta: ByMember  # [M, N] theta there, with a learned start already moved to it
    grads: ByMember  # [M, W, N] the gradients that the optimizer was fed at t … t+W-1
    later: ByMember  # c_{t+1} … c_{t+W} [M, W, N]; [M, N], c_{t+W} alone, where the others are `grads` one step later


def begin(job: Job, key: Key, phi: Phi, data: Data) -> Inner:
    """M fresh optimizees, a learned start not yet applied: that is done where the window begins. The key is consumed."""
    make = fresh if job.optimizer.start is None else drawn
    one = lambda key: make(job.problem, job.whole, phi, key, data, len(job.objective.weights))
    return jax.vmap(one, out_axes=axes())(jax.random.split(key, job.tasks))


def record_window(job: Job, phi: Phi, data: Data, state: Inner) -> tuple[Inner, Window]:
    """Run M optimizees W steps, by the optimizer as it is.

    Args:
      job: what is worked on.
      phi: the optimizer's parameters.
      data: one split.
      state: leaves [M, ...], t ().

    Returns:
      The optimizees W steps further, and the record.
    """
    theta = jax.tree.map(lambda leaf: leaf[0], state.theta)

    def own(tree: Any) -> ByMember:
        vector = ravel(tree)
        return each(job.optimizer, theta, lambda member, at: job.split(length(at)).cut(take(vector, at)))

    def judge(theta, query):
        value, grad = jax.value_and_grad(job.judged.loss)(theta, query)
        return value, own(grad)

    score = score_on_query(job.judged, job.objective.weights, data, judge)

    def one(inner: Inner) -> tuple[Inner, tuple[Any, ...]]:
        if job.optimizer.start is not None:
            inner = begun(job.problem, job.whole, phi, inner, data)
        fed = lambda inner: (inner.value, own(inner.grad))
        found = unroll(job.problem, job.whole, phi, inner, data, job.steps, record=fed, score=score)
        values, grads = found.recorded
        # Without a query, the gradients that the optimizer is fed are the cotangents, one step later.
        scores, later = (found.losses, own(found.end.grad)) if score is None else found.scores
        return found.end, (found.losses, scores, values, own(inner.theta), grads, later)

    after, (losses, scores, values, *coordinates) = over_tasks(one, state, job.steps)
    horizon = jnp.broadcast_to(state.horizon, (job.tasks,))
    return after, Window(losses, scores, values, horizon, state.opt, *coordinates)


def weighed(job: Job, window: Window, state: Inner) -> tuple[jax.Array, Window]:
    """What the cotangents at the steps of a window count for, [W], and the window.

    Where that differs between tasks, the cotangents of the window that is returned have been multiplied by it, and count for 1.
    """
    counts = jax.vmap(lambda scores, inner: slopes(job.objective, scores, inner), in_axes=(0, standing(state)))(
        window.scores, state
    )
    if job.objective.measure == "plain" and job.objective.cut is None and state.t.ndim == 0:
        return counts[0], window

    def times(grads: jax.Array, later: jax.Array) -> jax.Array:
        return counts[..., None] * (later if later.ndim == 3 else jnp.concatenate([grads[:, 1:], later[:, None]], 1))

    return jnp.ones_like(counts[0]), window._replace(later=jax.tree.map(times, window.grads, window.later))


def suffix_sums(cotangents: jax.Array) -> jax.Array:
    """Σ_{s ≥ t} of cotangents [W, ...] of theta: those of the updates, each of which every later theta contains."""
    return jnp.flip(jnp.cumsum(jnp.flip(cotangents, 0), 0), 0)


def over_tasks(one: Callable[[Inner], tuple[Inner, Any]], state: Inner, steps: int) -> tuple[Inner, Any]:
    """`one`, so many steps of a task's Inner, of each task: side by side where tasks are small, else one after the other.

    Side by side, the LSTM's arrays have the tasks as another axis, and on a CPU XLA transposes them at every step.
    """
    tasks = state.value.shape[0]
    most = SMALL * tasks if jax.default_backend() == "cpu" else TOGETHER
    if sum(leaf.size for leaf in jax.tree.leaves(state.theta)) < most:
        return jax.vmap(one, in_axes=(standing(state),), out_axes=(standing(state), 0))(state)
    if state.t.ndim:
        return jax.lax.map(one, state)

    def in_turn(batched):
        after, found = one(batched._replace(t=state.t, horizon=state.horizon))
        return after._replace(t=None, horizon=None), found

    after, found = jax.lax.map(in_turn, state._replace(t=None, horizon=None))
    return after._replace(t=state.t + steps, horizon=state.horizon), found
