"""Replay's second pass: the optimizer alone, differentiated over a recorded window, block of coordinates by block."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2lcli.base import Intervals, Key, LearnedOptimizer, Phi, Theta
from l2lcli.estimators._recording import Job, Window, suffix_sums
from l2lcli.estimators._sampling import draw
from l2lcli.inner.flat import length, ravel

WIDE = 1 << 21  # coordinates times steps that are replayed at a time on anything but a CPU: 3 GB for an LSTM of 2 x 20


class Coordinates(NamedTuple):
    """What was recorded of N coordinates, of M tasks; of one task or block the leading axes are gone.

    Its five parts are cut, sampled and merged alike.
    """

    opt: Any  # state at the window's beginning: leaves [M, ..., N], or [M] of scalars
    theta: jax.Array  # [M, N] theta there
    grads: jax.Array  # [M, W, N] what the optimizer was fed
    later: jax.Array  # [M, W, N] the cotangents c_1 … c_W, or [M, N], c_W alone, where the others are `grads` one step later
    counts: jax.Array  # [M, N] how many coordinates each stands for: 1, or of a sample the inverse of its chance

    @property
    def cotangents(self) -> jax.Array:
        """c_1 … c_W of one task, [W, N]."""
        return self.later if self.later.ndim == 2 else jnp.concatenate([self.grads[1:], self.later[None]])


def member_gradient(
    job: Job, member: LearnedOptimizer, intervals: Intervals, key: Key, phi: Phi, window: Window, weights: jax.Array,
    theta: Theta, block: int, sample: int | None,
) -> Phi:  # fmt: skip
    """The meta-gradient of a family, or of one that it is made of, by this device's coordinates of it.

    Args:
      job: what is worked on.
      member: the family.
      intervals: its coordinates, among those of the raveled theta.
      key: of the sample; not consumed.
      phi: its parameters.
      window: the record; its state, theta, gradients and cotangents are this family's own.
      weights: what the cotangents at the window's steps count for [W].
      theta: theta at the window's beginning, before a learned start is applied; leaves [M, ...].
      block: coordinates at a time.
      sample: coordinates of each task that are replayed; None for all.

    Returns:
      Like phi.
    """
    if not jax.tree.leaves(phi):
        return phi  # nothing of this family is learned
    mine = job.split(length(intervals))
    part, back = jax.vjp(lambda phi: mine.phi_part(member, phi), phi)
    counts = jnp.ones((job.tasks, window.theta.shape[-1]), window.losses.dtype)
    coordinates = Coordinates(window.opt, window.theta, window.grads, window.later, counts)
    if sample is not None and sample < counts.shape[1]:
        keys = jax.random.split(jax.random.fold_in(key, intervals[0][0]), job.tasks)
        coordinates = jax.vmap(lambda key, of_task: sampled(key, of_task, weights, sample))(keys, coordinates)
    grad, by_start = surrogate_gradient(member, part, coordinates, window.values, window.horizon, weights / job.tasks, block)
    grad = back(grad)[0]
    if member.start is None:
        return grad
    learned_start = member.start
    start = lambda phi, drawn: mine.cut(ravel(learned_start(phi, drawn)))
    _, back = jax.vjp(lambda phi: jax.vmap(start, (None, 0))(phi, theta), phi)
    return jax.tree.map(jnp.add, grad, back(by_start)[0])


def sampled(key: Key, of_task: Coordinates, weights: jax.Array, count: int) -> Coordinates:
    """So many coordinates of one task, drawn in proportion to Σ_t |w_t c_t|. weights: [W]. The key is consumed."""
    sizes = jnp.abs(weights) @ jnp.abs(of_task.cotangents)
    indices, counts = draw(key, sizes, count)
    taken = jax.tree.map(lambda leaf: leaf if leaf.ndim == 0 else leaf[..., indices], of_task)
    return taken._replace(counts=counts)


def surrogate_gradient(
    optimizer: LearnedOptimizer, phi: Phi, coordinates: Coordinates, values: jax.Array, horizon: jax.Array,
    weights: jax.Array, block: int,
) -> tuple[Phi, jax.Array | None]:  # fmt: skip
    """d/dphi of Σ_{m,t} w_t ⟨c_t, theta_t(phi)⟩, block by block.

    Args:
      optimizer: the family.
      phi: its parameters.
      coordinates: N of each of M tasks.
      values: the losses that it was fed [M, W].
      horizon: T that each task's was told, [M].
      weights: w_t [W].
      block: coordinates at a time.

    Returns:
      The gradient, and, of a family with a start, the derivative by theta at the window's beginning [M, N] (else None).
    """
    replay = optimizer.replay
    assert replay is not None
    shape = coordinates.theta.shape
    leaves, structure = jax.tree.flatten(phi)
    sliced = [False] * len(leaves) if replay.per_coordinate is None else jax.tree.leaves(replay.per_coordinate(phi))
    if replay.window is not None and not any(sliced):
        # Such a family reads gradients alone: the coordinates of all tasks are one vector.
        spread = lambda leaf: leaf if leaf.ndim > 1 else jnp.broadcast_to(leaf[:, None], shape)  # scalars of a state
        merge = lambda leaf: jnp.moveaxis(spread(leaf), 0, -2).reshape(1, *leaf.shape[1:-1], -1)  # [1, ..., M N]
        coordinates = jax.tree.map(merge, coordinates)
    tasks, size = coordinates.theta.shape
    width = min(together(block if replay.block is None else replay.block(block), len(weights)), size)
    blocks = -(-size // width)

    def cut(leaf, task, start):
        leaf = leaf[task]
        return leaf if leaf.ndim == 0 else jax.lax.dynamic_slice_in_dim(leaf, start, width, -1)

    def add(total, i):
        # The last block is as wide as the others, and so begins inside the one before: what is there twice counts once.
        task, first = i // blocks, i % blocks * width
        start = jnp.minimum(first, size - width)
        of_block = jax.tree.map(lambda leaf: cut(leaf, task, start), coordinates)
        cotangents = jnp.outer(weights, of_block.counts) * of_block.cotangents
        cotangents = jnp.where(start + jnp.arange(width) >= first, cotangents, 0)

        def of(phi, theta):
            moved = of_block._replace(theta=theta)
            return surrogate(optimizer, structure.unflatten(phi), moved, values[task], horizon[task], cotangents)

        part = [cut(leaf[None], 0, start) if own else leaf for leaf, own in zip(leaves, sliced, strict=True)]
        if optimizer.start is None:
            by_phi, by_theta = jax.grad(of)(part, of_block.theta), None
        else:
            by_phi, by_theta = jax.grad(of, (0, 1))(part, of_block.theta)
        of_phi = [
            _put(whole, (start,), grad) if own else whole + grad
            for whole, grad, own in zip(total[0], by_phi, sliced, strict=True)
        ]
        return (of_phi, None if by_theta is None else _put(total[1], (task, start), by_theta[None])), None

    zeros = [jnp.zeros_like(leaf) for leaf in leaves], None if optimizer.start is None else jnp.zeros_like(coordinates.theta)
    of_phi, of_theta = jax.lax.scan(add, zeros, jnp.arange(tasks * blocks))[0]
    return structure.unflatten(of_phi), None if of_theta is None else of_theta.reshape(shape)


def together(block: int, steps: int) -> int:
    """Coordinates that are replayed at a time over a window of so many steps, where `block` are asked for.

    On a CPU that many, whose activations fit in a core's cache. Elsewhere at least as many as keep a large device busy.
    """
    return block if jax.default_backend() == "cpu" else max(block, WIDE // steps)


def surrogate(
    optimizer: LearnedOptimizer, phi: Phi, of_block: Coordinates, values: jax.Array, horizon: jax.Array, cotangents: jax.Array
) -> jax.Array:
    """Σ_t ⟨cotangent_t, theta_t(phi)⟩, (), of B coordinates of one task; differentiable in phi and in their theta.

    Args:
      optimizer: the family.
      phi: its parameters, those indexed by coordinate [B].
      of_block: leaves of the state [..., B] or (), theta [B], gradients [W, B].
      values: the losses that it was fed [W].
      horizon: T that it was told, ().
      cotangents: w_t c_t, times what each coordinate counts for, [W, B].
    """
    if optimizer.replay is not None and optimizer.replay.window is not None:
        # theta_t is theta and a sum of updates: the cotangent of an update is the sum of those of every later theta.
        later = suffix_sums(cotangents)
        updates = optimizer.replay.window(phi, of_block.opt, of_block.grads)
        return jnp.vdot(later, updates) + jnp.vdot(cotangents.sum(0), of_block.theta)
    tx = optimizer.bind(phi)

    def step(carry: tuple[Any, Any], now: tuple[Any, Any]) -> tuple[Any, Any]:  # an update may read theta: it is carried along
        theta, opt = carry
        grad, value = now
        update, opt = tx.update(grad, opt, theta, value=value, horizon=horizon)
        theta = optax.apply_updates(theta, update)
        return (theta, opt), theta

    trajectory: Any = jax.lax.scan(step, (of_block.theta, of_block.opt), (of_block.grads, values))[1]
    return jnp.vdot(cotangents, trajectory)


def _put(whole: jax.Array, at: tuple[Any, ...], part: jax.Array) -> jax.Array:
    """The array with `part` added where it begins at the place `at`."""
    return jax.lax.dynamic_update_slice(whole, jax.lax.dynamic_slice(whole, at, part.shape) + part, at)
