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
    sample: int | None = Field(None, ge=1, le=100_000_000)
    """Coordinates of each task that are replayed (on each device), drawn anew for every meta-gradient, which then is right in
    expectation; null for all of them, which is exact."""


@registry.estimator.register("replay", ReplaySpec)
def replay(
    spec: ReplaySpec, problem: Problem, optimizer: LearnedOptimizer, tasks: int, weights: tuple[float, ...], devices: int = 1
) -> Estimator:
    """Build the estimator; arguments as `autodiff`, and `devices` to split the blocks over.

    Raises ValueError if the optimizer cannot be replayed.
    """
    import jax
    import jax.numpy as jnp

    from l2lcli.estimators.sampling import draw
    from l2lcli.flat import each, flat, length, ravel, take
    from l2lcli.sharding import AXIS, by_coordinate
    from l2lcli.split import Split
    from l2lcli.unroll import axes, fresh, unroll

    if not optimizer.replayable or optimizer.start is not None or problem.query is not None:
        raise ValueError("this optimizer or problem cannot be replayed block by block: use the estimator autodiff")
    whole = flat(optimizer, lambda member, size: Split(size, devices, AXIS).optimizer(member))

    def init(key, phi, data):
        one = lambda key: fresh(problem, whole, phi, key, data)  # noqa: E731
        return jax.vmap(one, out_axes=axes())(jax.random.split(key, tasks))

    def local(key, phi, data, state):
        """The part of the meta-gradient that is due to this device's coordinates."""
        theta = jax.tree.map(lambda leaf: leaf[0], state.theta)

        def own(tree):
            vector = ravel(tree)
            return each(optimizer, theta, lambda member, at: Split(length(at), devices, AXIS).cut(take(vector, at)))

        def one(inner):
            fed = lambda inner: (inner.value, own(inner.grad))  # noqa: E731
            after, (losses, record) = unroll(problem, whole, phi, inner, data, spec.window, record=fed)
            return after, losses, record, own(inner.theta), own(after.grad)

        after, losses, (values, grads), thetas, last = _over_tasks(one, state)
        w = jax.lax.dynamic_slice(jnp.asarray(weights, losses.dtype), (state.t,), (spec.window,))

        def gradient(member, at, phi, opt, theta, grads, last):
            if not jax.tree.leaves(phi):
                return phi  # nothing of this member is learned
            coordinates, counts = (opt, theta, grads, last), jnp.ones_like(theta)
            if spec.sample is not None and spec.sample < theta.shape[1]:
                keys = jax.random.split(jax.random.fold_in(key, at[0][0]), tasks)
                coordinates, counts = jax.vmap(sampled)(keys, coordinates)
            return _gradient(member, phi, (*coordinates, counts), values, w / tasks, spec.block)

        def sampled(key, coordinates):
            *_, grads, last = coordinates
            indices, counts = draw(key, jnp.abs(w[:-1]) @ jnp.abs(grads[1:]) + jnp.abs(w[-1] * last), spec.sample)
            return jax.tree.map(lambda leaf: leaf if leaf.ndim == 0 else leaf[..., indices], coordinates), counts

        grad = each(optimizer, theta, gradient, phi, state.opt, thetas, grads, last)
        return Estimate(grad, jnp.mean(losses @ w), losses.mean(0)), after

    def estimate(key, phi, data, state):
        return (local if devices == 1 else by_coordinate(local, devices))(key, phi, data, state)

    return Estimator(init, estimate)


def _over_tasks(one, state):
    """`one` of each task's Inner: side by side where a task is small, one after the other where it fills the machine.

    Side by side, the LSTM's arrays have the tasks as another axis, and XLA transposes them at every step.
    """
    import jax

    from l2lcli.unroll import axes

    tasks = state.value.shape[0]
    if sum(leaf.size for leaf in jax.tree.leaves(state.theta)) < SMALL * tasks:
        return jax.vmap(one, in_axes=(axes(),), out_axes=(axes(), 0, 0, 0, 0))(state)

    def in_turn(batched):
        after, *found = one(batched._replace(t=state.t))
        return after._replace(t=None), *found

    after, *found = jax.lax.map(in_turn, state._replace(t=None))
    return after._replace(t=state.t + found[0].shape[1]), *found


def _gradient(optimizer: LearnedOptimizer, phi, coordinates, values, weights, block: int):
    """d/dphi of Σ_{m,t} w_t ⟨∇f_t, theta_t(phi)⟩, block by block.

    Args:
      optimizer: the family.
      phi: its parameters.
      coordinates: its state at the window's beginning (leaves [M, ..., N] or [M]), theta there [M, N], the gradients that it
        was fed [M, W, N], the one after the last of them [M, N], and what each coordinate counts for [M, N].
      values: the losses that it was fed [M, W].
      weights: w_t [W].
      block: coordinates at a time.
    """
    import jax
    import jax.numpy as jnp

    if optimizer.window is not None:
        # Such a family reads gradients alone: the coordinates of all tasks are one vector.
        merge = lambda leaf: jnp.moveaxis(leaf, 0, -2).reshape(1, *leaf.shape[1:-1], -1)  # noqa: E731  [1, ..., M N]
        coordinates = jax.tree.map(merge, coordinates)
    surrogate = _surrogate if optimizer.window is None else _surrogate_of_window
    tasks, _, size = coordinates[2].shape
    width = min(block, size)
    blocks = -(-size // width)

    def cut(leaf, task, start):
        leaf = leaf[task]
        return leaf if leaf.ndim == 0 else jax.lax.dynamic_slice_in_dim(leaf, start, width, -1)

    def add(total, i):
        # The last block is as wide as the others, and so begins inside the one before: what is there twice counts once.
        task, first = i // blocks, i % blocks * width
        start = jnp.minimum(first, size - width)
        opt, theta, grads, last, counts = jax.tree.map(lambda leaf: cut(leaf, task, start), coordinates)
        cotangents = jnp.outer(weights, counts) * jnp.concatenate([grads[1:], last[None]])
        cotangents = jnp.where(start + jnp.arange(width) >= first, cotangents, 0)
        grad = jax.grad(surrogate, 1)(optimizer, phi, opt, theta, grads, values[task], cotangents)
        return jax.tree.map(jnp.add, total, grad), None

    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, phi), jnp.arange(tasks * blocks))[0]


def _surrogate(optimizer: LearnedOptimizer, phi, opt, theta, grads, values, cotangents):
    """Σ_t ⟨cotangent_t, theta_t(phi)⟩ of a block of one task, theta carried along for updates that read it."""
    import jax
    import jax.numpy as jnp
    import optax

    tx = optimizer.bind(phi)

    def step(carry, now):
        theta, opt = carry
        grad, value = now
        update, opt = tx.update(grad, opt, theta, value=value)
        theta = optax.apply_updates(theta, update)
        return (theta, opt), theta

    return jnp.vdot(cotangents, jax.lax.scan(step, (theta, opt), (grads, values))[1])


def _surrogate_of_window(optimizer: LearnedOptimizer, phi, opt, theta, grads, values, cotangents):
    """The same where the family has a window of its own.

    theta_t is then a sum of updates, and the cotangent of an update the sum of those of every later theta.
    """
    import jax.numpy as jnp

    later = jnp.flip(jnp.cumsum(jnp.flip(cotangents, 0), 0), 0)
    return jnp.vdot(later, optimizer.window(phi, opt, grads))
