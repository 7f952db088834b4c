"""Replay: the paper's meta-gradient without differentiating the training run.

The paper drops the gradient along what the optimizer is fed (Andrychowicz et al. 2016, Fig. 2, the dashed edges). Then

    L = Σ_t w_t f_t(theta_t),    dL/dphi = Σ_t w_t ⟨∇f_t(theta_t), dtheta_t/dphi⟩,

and ∇f_t(theta_t) is the very gradient that the optimizer is fed at step t. So a window is run forward once and its W + 1
gradients are recorded; then the optimizer alone is run again over the record, block of coordinates by block, and the
surrogate Σ_t w_t ⟨∇f_t, theta_t(phi)⟩, in which everything recorded is constant, is differentiated. That is exact. The
optimizee is never differentiated twice, and a block's activations fit in the cache: memory is W·N floats instead of the
activations of W·N optimizer steps.
"""

from __future__ import annotations

import functools
from typing import Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Estimate, Estimator, LearnedOptimizer, Problem, Spec

SMALL = 1024  # coordinates of a task


class ReplaySpec(Spec):
    """Run the window once, then differentiate the optimizer alone over what it was fed, block by block."""

    kind: Literal["replay"] = "replay"
    window: int = Field(20, ge=1, le=100_000)
    """Steps per meta-gradient; divides the horizon."""
    block: int = Field(128, ge=1, le=100_000_000)
    """Coordinates replayed at a time."""


@registry.estimator.register("replay", ReplaySpec)
def replay(
    spec: ReplaySpec, problem: Problem, optimizer: LearnedOptimizer, tasks: int, weights: tuple[float, ...], devices: int = 1
) -> Estimator:
    """Build the estimator; arguments as `autodiff`, and `devices` to split the blocks over.

    Raises ValueError if the optimizer cannot be replayed.
    """
    import jax
    import jax.numpy as jnp

    from l2lcli.flat import each, flat, length, ravel, take
    from l2lcli.sharding import AXIS, on_all
    from l2lcli.split import Split
    from l2lcli.unroll import axes, fresh, unroll

    if not optimizer.replayable or optimizer.start is not None or problem.query is not None:
        raise ValueError("this optimizer or problem cannot be replayed block by block: use the estimator autodiff")
    whole = flat(optimizer)
    one_of = functools.partial(jax.tree.map, lambda leaf: leaf[0])  # of M tasks

    def init(key, phi, data):
        one = lambda key: fresh(problem, whole, phi, key, data)  # noqa: E731
        return jax.vmap(one, out_axes=axes())(jax.random.split(key, tasks))

    def estimate(key, phi, data, state):
        del key  # nothing here is random beyond what the optimizees carry

        def recorded(phi, data, state, family=whole):
            def one(inner):
                after, (losses, values, grads) = unroll(problem, family, phi, inner, data, spec.window, record=True)
                return after, losses, values, jax.vmap(ravel)(grads)

            return _over_tasks(one, state)

        def spread(phi, data, state):
            # Task by task: the leading axis M of a scalar could be as long as a part.
            cut = lambda member, at, opt: jax.vmap(Split(length(at), devices, AXIS).cut)(opt)  # noqa: E731
            join = lambda member, at, opt: jax.vmap(Split(length(at), devices, AXIS).join)(opt)  # noqa: E731
            parts = flat(optimizer, lambda member, size: Split(size, devices, AXIS).optimizer(member))
            theta = one_of(state.theta)
            after, *found = recorded(phi, data, state._replace(opt=each(optimizer, theta, cut, state.opt)), parts)
            return after._replace(opt=each(optimizer, theta, join, after.opt)), *found

        record = recorded if devices == 1 else on_all(spread, devices)
        after, losses, values, grads = record(phi, data, state)
        w = jax.lax.dynamic_slice(jnp.asarray(weights, losses.dtype), (state.t,), (spec.window,))
        following = jnp.concatenate([grads[:, 1:], jax.vmap(ravel)(after.grad)[:, None]], 1)
        cotangents = following * (w / tasks)[None, :, None]
        thetas = jax.vmap(ravel)(state.theta)

        def gradient(member, at, phi, opt):
            if not jax.tree.leaves(phi):
                return phi  # nothing of this member is learned
            coordinates = opt, take(thetas, at), take(grads, at), take(cotangents, at)
            return _gradient(member, phi, coordinates, values, spec.block, devices)

        grad = each(optimizer, one_of(state.theta), gradient, phi, state.opt)
        return Estimate(grad, jnp.mean(losses @ w), losses.mean(0)), after

    return Estimator(init, estimate)


def _over_tasks(one, state):
    """`one` of each task's Inner: side by side where a task is small, one after the other where it fills the machine.

    Side by side, the LSTM's arrays have the tasks as another axis, and XLA transposes them at every step.
    """
    import jax

    from l2lcli.unroll import axes

    tasks = state.value.shape[0]
    if sum(leaf.size for leaf in jax.tree.leaves(state.theta)) < SMALL * tasks:
        return jax.vmap(one, in_axes=(axes(),), out_axes=(axes(), 0, 0, 0))(state)

    def in_turn(batched):
        after, *found = one(batched._replace(t=state.t))
        return after._replace(t=None), *found

    after, *found = jax.lax.map(in_turn, state._replace(t=None))
    return after._replace(t=state.t + found[0].shape[1]), *found


def _gradient(optimizer: LearnedOptimizer, phi, coordinates, values, block: int, devices: int):
    """d/dphi of Σ_{m,t} ⟨cotangent_t, theta_t(phi)⟩, block by block.

    Args:
      optimizer: the family.
      phi: its parameters.
      coordinates: its state at the window's beginning (leaves [M, ..., N] or [M]), theta there [M, N], the gradients that it
        was fed [M, W, N], the cotangents of theta at steps t+1 … t+W [M, W, N].
      values: the losses that it was fed [M, W].
      block: coordinates at a time.
      devices: over how many the blocks are split.
    """
    import jax
    import jax.numpy as jnp

    from l2lcli.sharding import summed

    if optimizer.window is not None:
        coordinates, surrogate = _merged(optimizer, coordinates)
    else:
        surrogate = _surrogate(optimizer)
    tasks, _, size = coordinates[-1].shape
    width = min(block, size)
    blocks = -(-size // width)

    def cut(leaf, task, start):
        leaf = leaf[task]
        return jax.lax.dynamic_slice_in_dim(leaf, start, width, -1) if leaf.shape[-1:] == (size,) else leaf

    def gradient(phi, i, coordinates, values):
        # The last block is as wide as the others, and so begins inside the one before: what is there twice counts once.
        task, first = i // blocks, i % blocks * width
        start = jnp.minimum(first, size - width)
        *fed, cotangents = jax.tree.map(lambda leaf: cut(leaf, task, start), coordinates)
        cotangents = jnp.where(start + jnp.arange(width) >= first, cotangents, 0)
        return jax.grad(surrogate)(phi, fed, values[task], cotangents)

    return summed(gradient, phi, tasks * blocks, devices, (coordinates, values))


def _surrogate(optimizer: LearnedOptimizer):
    """Σ_t ⟨cotangent_t, theta_t(phi)⟩ of one task's block, theta carried along for updates that read it."""
    import jax
    import jax.numpy as jnp
    import optax

    def surrogate(phi, fed, values, cotangents):
        opt, theta, grads = fed
        tx = optimizer.bind(phi)

        def step(carry, now):
            theta, opt = carry
            grad, value = now
            update, opt = tx.update(grad, opt, theta, value=value)
            theta = optax.apply_updates(theta, update)
            return (theta, opt), theta

        return jnp.vdot(cotangents, jax.lax.scan(step, (theta, opt), (grads, values))[1])

    return surrogate


def _merged(optimizer: LearnedOptimizer, coordinates):
    """For a family with a window of its own, which reads gradients alone: the coordinates of all tasks are one vector.

    theta_t is then a sum of updates, and the cotangent of an update the sum of those of every later theta.
    """
    import jax
    import jax.numpy as jnp

    def merge(leaf):  # [M, ..., N] -> [1, ..., M N]
        return jnp.moveaxis(leaf, 0, -2).reshape(1, *leaf.shape[1:-1], -1)

    opt, theta, grads, cotangents = coordinates
    later = jnp.flip(jnp.cumsum(jnp.flip(cotangents, 1), 1), 1)

    def surrogate(phi, fed, values, cotangents):
        opt, _, grads = fed
        return jnp.vdot(cotangents, optimizer.window(phi, opt, grads))

    return jax.tree.map(merge, (opt, theta, grads, later)), surrogate
