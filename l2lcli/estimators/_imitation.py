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
from jax.flatten_util import ravel_pytree

from l2lcli.base import Estimate, Estimator, Inner, Key, LearnedOptimizer, Problem
from l2lcli.estimators._mixed import restarts
from l2lcli.estimators._recording import over_tasks
from l2lcli.estimators._tiles import enter, leave
from l2lcli.inner.flat import ravel
from l2lcli.inner.unroll import axes, fresh, unroll
from l2lcli.optimizers.hand import hand


class Watched(NamedTuple):
    """State: M optimizees of the teacher, leaves [M, ...], t (); and the state of the learner that watches them, [M, ...]."""

    inner: Inner
    opt: Any


class Imitating(NamedTuple):
    """State: that of the meta-gradient's estimator; the optimizees of the teacher, leaves [M, ...]; meta-steps done, ()."""

    learner: Any
    watched: Any
    step: jax.Array


def imitation(
    problem: Problem, optimizer: LearnedOptimizer, teacher: tuple[str, float], tasks: int, horizon: int, steps: int
) -> Estimator:
    """The estimator of d/dphi mean_m Σ_t of the distances of updates, t over a window.

    The distance of two updates is half the mean over coordinates of their difference squared, in units of the teacher's
    learning rate. A coordinatewise optimizer is differentiated tile by tile, whose activations stay in a core's cache.

    Args:
      problem: f, on which the teacher trains.
      optimizer: the learned family.
      teacher: name and learning rate of a hand-made optimizer.
      tasks: M.
      horizon: T.
      steps: W.
    """
    name, rate = teacher
    taught, fixed = hand(name), {"log_learning_rate": jnp.float32(math.log(rate))}
    replay = optimizer.replay
    by_tile = replay is not None and replay.composed is None and replay.members is None and replay.per_coordinate is None
    cut = enter if by_tile else lambda size, leaf: leaf[None]
    join = leave if by_tile else lambda size, leaf: leaf[0]

    def init(key, phi, data):
        one = lambda key: fresh(problem, taught, fixed, key, data, horizon)
        inner = jax.vmap(one, out_axes=axes())(jax.random.split(key, tasks))
        return Watched(inner, jax.vmap(optimizer.bind(phi).init)(inner.theta))

    def record(inner: Inner):
        """What the teacher is fed at a step, and its update, of all coordinates [N]."""
        update, _ = taught.bind(fixed).update(inner.grad, inner.opt, inner.theta, value=inner.value, horizon=inner.horizon)
        return inner.value, ravel(inner.grad), ravel(inner.theta), ravel(update)

    def estimate(key, phi, data, state: Watched):
        del key  # nothing here is random beyond what the optimizees carry

        def run(inner):
            found = unroll(problem, taught, fixed, inner, data, steps, record=record)
            return found.end, (found.losses, found.recorded)

        after, (losses, recorded) = over_tasks(run, state.inner, steps)
        vector, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], state.inner.theta))
        size = vector.size

        def learn(task):
            opt, (values, *vectors) = task

            def of_tile(total, tile):
                opt, counts, *vectors = tile

                def apart(phi):
                    def step(opt, now):
                        value, grad, theta, target = now
                        grad, theta = (grad, theta) if by_tile else (unravel(grad), unravel(theta))
                        said, opt = optimizer.bind(phi).update(grad, opt, theta, value=value, horizon=state.inner.horizon)
                        return opt, jnp.vdot(counts, ((ravel(said) - target) / rate) ** 2) / (2 * size)

                    opt_after, each = jax.lax.scan(step, opt, (values, *vectors))
                    return each.sum(), opt_after

                (loss, opt), grad = jax.value_and_grad(apart, has_aux=True)(phi)
                return jax.tree.map(jnp.add, total, (loss, grad)), opt

            tiles = jax.tree.map(lambda leaf: cut(size, leaf), (opt, jnp.ones_like(vector), *vectors))
            nothing = jnp.zeros_like(values[0]), jax.tree.map(jnp.zeros_like, phi)
            found, opt = jax.lax.scan(of_tile, nothing, tiles)
            return found, jax.tree.map(lambda leaf: join(size, leaf), opt)

        (loss, grad), opt = jax.lax.map(learn, (state.opt, recorded))
        mean = lambda leaf: leaf.mean(0)
        return Estimate(jax.tree.map(mean, grad), loss.mean(), losses.mean(0)), Watched(after, opt)

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
            # A teacher that diverged has nothing to teach; the meta-loss's own gradient is sound all the same.
            sound = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((apart.grad, apart.loss))]).all()
            taught = lambda ours, theirs: jnp.where(sound, ours + now * theirs, ours)
            grad, loss = jax.tree.map(taught, (found.grad, found.loss), (apart.grad, apart.loss))
            return found._replace(grad=grad, loss=loss), watching

        found, watching = jax.lax.cond(now > 0, more, lambda: (found, state.watched))
        return found, Imitating(after, watching, state.step)

    def shardings(state: Imitating) -> Imitating:
        of = lambda estimator, state: None if estimator.shardings is None else estimator.shardings(state)
        return Imitating(of(learner, state.learner), of(watched, state.watched), None)  # pyright: ignore[reportArgumentType]

    sharded = learner.shardings is not None or watched.shardings is not None
    return Estimator(init, estimate, shardings if sharded else None, restart)
