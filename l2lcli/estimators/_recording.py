"""Replay's first pass: a window of M tasks run forward, and what the optimizer was fed in it kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax

from l2lcli.base import Data, Inner, Key, LearnedOptimizer, Phi, Problem
from l2lcli.estimators._sharding import AXIS
from l2lcli.estimators._split import Split
from l2lcli.inner.flat import each, flat, length, ravel, take
from l2lcli.inner.query import score_on_query
from l2lcli.inner.unroll import axes, begun, drawn, fresh, unroll

SMALL = 1024  # coordinates of a task up to which tasks run side by side

ByMember: TypeAlias = Any  # an array of a family's coordinates; of one that is made of others {member: array}


class Job(NamedTuple):
    """What replay works on, fixed for a whole meta-training."""

    problem: Problem  # f, which the optimizees step on
    judged: Problem  # whose loss on its query is the outer loss; f itself where it has no query
    optimizer: LearnedOptimizer  # replayable
    tasks: int  # M, of this device where tasks are split over devices
    weights: tuple[float, ...]  # w_1 … w_T
    steps: int  # W
    devices: int  # over which the coordinates of every task are split

    def split(self, size: int) -> Split:
        """How that many coordinates are split over the devices."""
        return Split(size, self.devices, AXIS)

    @property
    def whole(self) -> LearnedOptimizer:
        """The optimizer of any theta, its state that of this device's own coordinates."""
        return flat(self.optimizer, lambda member, size: self.split(size).optimizer(member))


class Window(NamedTuple):
    """A recorded window. N: this device's own coordinates, of the whole family or of each of its members."""

    losses: jax.Array  # [M, W] f at t+1 … t+W
    scores: jax.Array  # [M, W] the outer loss there
    values: jax.Array  # [M, W] the losses that the optimizer was fed at t … t+W-1
    opt: ByMember  # the optimizer's state at the window's beginning: leaves [M, ..., N], or [M] of scalars
    theta: ByMember  # [M, N] theta there, with a learned start already moved to it
    grads: ByMember  # [M, W, N] the gradients that the optimizer was fed at t … t+W-1
    later: ByMember  # c_{t+1} … c_{t+W} [M, W, N]; [M, N], c_{t+W} alone, where the others are `grads` one step later


def begin(job: Job, key: Key, phi: Phi, data: Data) -> Inner:
    """M fresh optimizees, a learned start not yet applied: that is done where the window begins. The key is consumed."""
    make = fresh if job.optimizer.start is None else drawn
    one = lambda key: make(job.problem, job.whole, phi, key, data)
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

    score = score_on_query(job.judged, job.weights, data, judge)

    def one(inner: Inner) -> tuple[Inner, tuple[Any, ...]]:
        if job.optimizer.start is not None:
            inner = begun(job.problem, job.whole, phi, inner, data)
        fed = lambda inner: (inner.value, own(inner.grad))
        found = unroll(job.problem, job.whole, phi, inner, data, job.steps, record=fed, score=score)
        values, grads = found.recorded
        # Without a query, the gradients that the optimizer is fed are the cotangents, one step later.
        scores, later = (found.losses, own(found.end.grad)) if score is None else found.scores
        return found.end, (found.losses, scores, values, own(inner.theta), grads, later)

    after, (losses, scores, values, *coordinates) = _over_tasks(one, state, job.steps)
    return after, Window(losses, scores, values, state.opt, *coordinates)


def _over_tasks(one: Callable[[Inner], tuple[Inner, Any]], state: Inner, steps: int) -> tuple[Inner, Any]:
    """`one` of each task's Inner: side by side where a task is small, one after the other where it fills the machine.

    Side by side, the LSTM's arrays have the tasks as another axis, and XLA transposes them at every step.
    """
    tasks = state.value.shape[0]
    if sum(leaf.size for leaf in jax.tree.leaves(state.theta)) < SMALL * tasks:
        return jax.vmap(one, in_axes=(axes(),), out_axes=(axes(), 0))(state)

    def in_turn(batched):
        after, found = one(batched._replace(t=state.t))
        return after._replace(t=None), found

    after, found = jax.lax.map(in_turn, state._replace(t=None))
    return after._replace(t=state.t + steps), found
