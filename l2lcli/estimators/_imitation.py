"""Imitation: while a hand-made optimizer trains networks, the learned one watches, and is to say what that one does.

As Chen et al. 2020 have it, it is off-policy: the teacher's updates drive the optimizees, and the learned optimizer is fed
their gradients. Theirs is a meta-step of its own, drawn by lot, with a meta-optimizer of its own; here its gradient is added
to that of the meta-loss with a weight that falls to 0.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from l2lcli.base import Estimate, Estimator, Inner, Key, LearnedOptimizer, Problem
from l2lcli.estimators._mixed import restarts
from l2lcli.estimators._tiles import recomputed
from l2lcli.inner.transformation import transformation
from l2lcli.inner.unroll import axes, fresh, standing, unroll
from l2lcli.optimizers.hand import hand


class Watching(NamedTuple):
    """State of an optimizee's optimizer: of the teacher, and of the one that watches."""

    teacher: Any
    learner: Any
    apart: jax.Array  # () Σ_t of the distances of their updates


class Imitating(NamedTuple):
    """State: that of the meta-gradient's estimator; the optimizees of the teacher, leaves [M, ...]; meta-steps done, ()."""

    learner: Any
    watched: Any
    step: jax.Array


def watching(optimizer: LearnedOptimizer, name: str, rate: float) -> LearnedOptimizer:
    """The family that steps as the hand-made optimizer of that name and learning rate does, and remembers `Watching`.

    Its phi is that of `optimizer`. The distance of two updates is half the mean over coordinates of their difference squared,
    in units of the learning rate.
    """
    teacher = hand(name).bind({"log_learning_rate": jnp.float32(math.log(rate))})

    def bind(phi):
        learner = optimizer.bind(phi)

        def init(theta):
            return Watching(teacher.init(theta), learner.init(theta), jnp.zeros(()))

        def update(grad, state, theta=None, **extra):
            step, of_teacher = teacher.update(grad, state.teacher, theta, **extra)
            said, of_learner = learner.update(grad, state.learner, theta, **extra)
            squares = jax.tree.map(lambda a, b: jnp.sum(((a - b) / rate) ** 2), said, step)
            size = sum(leaf.size for leaf in jax.tree.leaves(grad))
            apart = state.apart + sum(jax.tree.leaves(squares)) / (2 * size)
            return step, Watching(of_teacher, of_learner, apart)

        return transformation(init, update)

    return LearnedOptimizer(optimizer.init, bind)


def imitation(problem: Problem, family: LearnedOptimizer, tasks: int, horizon: int, steps: int) -> Estimator:
    """The estimator of d/dphi mean_m Σ_t of the distances of updates, t over a window.

    Args:
      problem: f, on which the teacher trains.
      family: of `watching`.
      tasks: M.
      horizon: T.
      steps: W.
    """
    stepping = recomputed(family)

    def init(key, phi, data):
        one = lambda key: fresh(problem, family, phi, key, data, horizon)
        return jax.vmap(one, out_axes=axes())(jax.random.split(key, tasks))

    def estimate(key, phi, data, state: Inner):
        del key

        def mean(phi):
            def one(inner):
                inner = inner._replace(opt=inner.opt._replace(apart=jnp.zeros_like(inner.opt.apart)))
                found = unroll(problem, stepping, phi, inner, data, steps)
                return found.end.opt.apart, found.end, found.losses

            at = standing(state)
            apart, after, losses = jax.vmap(one, in_axes=(at,), out_axes=(0, at, 0))(state)
            return apart.mean(), (after, losses.mean(0))

        (loss, (after, losses)), grad = jax.value_and_grad(mean, has_aux=True)(phi)
        return Estimate(grad, loss, losses), after

    return Estimator(init, estimate)


def imitating(learner: Estimator, watched: Estimator, weight: Callable[[jax.Array], jax.Array], windows: int) -> Estimator:
    """The estimator of a meta-loss and of a weight times the distances; once the weight is 0 nobody watches any more.

    Args:
      learner: of the meta-loss.
      watched: that of `imitation`.
      weight: meta-step () -> ().
      windows: meta-steps of an episode, where these do not say themselves when optimizees begin anew.
    """
    again, anew = (each.restart or restarts(each.init, windows) for each in (learner, watched))
    own = lambda key: jax.random.fold_in(key, zlib.crc32(b"imitation"))

    def init(key, phi, data):
        return Imitating(learner.init(key, phi, data), watched.init(own(key), phi, data), jnp.zeros((), jnp.int32))

    def restart(key: Key, step: Any, phi: Any, data: Any, state: Imitating) -> Imitating:
        begun = again(key, step, phi, data, state.learner), anew(own(key), step, phi, data, state.watched)
        return Imitating(*begun, jnp.asarray(step, jnp.int32))

    def estimate(key, phi, data, state):
        found, after = learner.estimate(key, phi, data, state.learner)
        now = weight(state.step)

        def more():
            apart, watching = watched.estimate(own(key), phi, data, state.watched)
            grad = jax.tree.map(lambda ours, theirs: ours + now * theirs, found.grad, apart.grad)
            return found._replace(grad=grad, loss=found.loss + now * apart.loss), watching

        found, watching = jax.lax.cond(now > 0, more, lambda: (found, state.watched))
        return found, Imitating(after, watching, state.step)

    def shardings(state: Imitating) -> Imitating:
        of = lambda estimator, state: None if estimator.shardings is None else estimator.shardings(state)
        return Imitating(of(learner, state.learner), of(watched, state.watched), None)  # pyright: ignore[reportArgumentType]

    sharded = learner.shardings is not None or watched.shardings is not None
    return Estimator(init, estimate, shardings if sharded else None, restart)
