"""Replay: the paper's meta-gradient without differentiating the training run.

The paper drops the gradient along what the optimizer is fed (Andrychowicz et al. 2016, Fig. 2, the dashed edges). Then

    L = Σ_t w_t f_t(theta_t),    dL/dphi = Σ_t w_t ⟨∇f_t(theta_t), dtheta_t/dphi⟩,

and ∇f_t(theta_t) is the very gradient that the optimizer is fed at step t; of a loss on a query it is one more, where w_t is
not 0. So a window is run forward once and its W + 1 gradients are recorded; then the optimizer alone is run again over the
record, block of coordinates by block, and the surrogate Σ_t w_t ⟨∇f_t, theta_t(phi)⟩, in which everything recorded is
constant, is differentiated. That is exact. The optimizee is never differentiated twice, and a block's activations fit in the
cache: memory is W·N floats instead of the activations of W·N optimizer steps. A learned start is carried along by the update
rule's own recurrence, dtheta_t/dtheta_0.
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
    batches: int = Field(1, ge=1, le=10_000)
    """Minibatches over which the loss that is made low is averaged at every step; more than 1 are fresh ones, besides the one
    that the optimizer is fed. The expectation is the same, the meta-gradient less noisy."""


@registry.estimator.register("replay", ReplaySpec)
def replay(
    spec: ReplaySpec, problem: Problem, optimizer: LearnedOptimizer, tasks: int, weights: tuple[float, ...], devices: int = 1
) -> Estimator:
    """Build the estimator; arguments as `autodiff`, and `devices` to split the blocks over.

    Raises ValueError if the optimizer cannot be replayed, or not a sample of its coordinates, or if f has no minibatches.
    """
    import jax
    import jax.numpy as jnp

    from l2lcli.estimators._sampling import draw
    from l2lcli.estimators._sharding import AXIS, by_coordinate, shardings_by_coordinate
    from l2lcli.estimators._split import Split
    from l2lcli.inner.flat import each, flat, length, ravel, take
    from l2lcli.inner.query import averaged, outer
    from l2lcli.inner.unroll import axes, begun, drawn, fresh, unroll

    if not optimizer.replayable:
        raise ValueError("this optimizer cannot be replayed block by block: use the estimator autodiff")
    if spec.sample is not None and (optimizer.start is not None or optimizer.per_coordinate is not None):
        raise ValueError("parameters with an entry for each coordinate need all of them: no estimator.sample")
    judged = averaged(problem, spec.batches)
    split = lambda size: Split(size, devices, AXIS)  # noqa: E731
    whole = flat(optimizer, lambda member, size: split(size).optimizer(member))
    begin = fresh if optimizer.start is None else drawn  # a learned start is applied where the window begins

    def init(key, phi, data):
        one = lambda key: begin(problem, whole, phi, key, data)  # noqa: E731
        return jax.vmap(one, out_axes=axes())(jax.random.split(key, tasks))

    def local(key, phi, data, state):
        """The part of the meta-gradient that is due to this device's coordinates."""
        theta = jax.tree.map(lambda leaf: leaf[0], state.theta)

        def own(tree):
            vector = ravel(tree)
            return each(optimizer, theta, lambda member, at: split(length(at)).cut(take(vector, at)))

        def judge(theta, query):
            value, grad = jax.value_and_grad(judged.loss)(theta, query)
            return value, own(grad)

        score = None if judged.query is None else outer(judged, weights, data, judge)
        fed = lambda inner: (inner.value, own(inner.grad))  # noqa: E731

        def one(inner):
            if optimizer.start is not None:
                inner = begun(problem, whole, phi, inner, data)
            after, (found, (values, grads)) = unroll(problem, whole, phi, inner, data, spec.window, record=fed, score=score)
            # Without a query, the gradients that the optimizer is fed are the cotangents, one step later.
            losses, (scores, cotangents) = (found, (found, own(after.grad))) if score is None else found
            return after, (losses, scores, values, own(inner.theta), grads, cotangents)

        after, (losses, scores, values, *record) = _over_tasks(one, state, spec.window)
        w = jax.lax.dynamic_slice(jnp.asarray(weights, losses.dtype), (state.t,), (spec.window,))

        def gradient(member, at, phi, *coordinates):
            if not jax.tree.leaves(phi):
                return phi  # nothing of this member is learned
            mine = split(length(at))
            part, back = jax.vjp(lambda phi: mine.own(member, phi), phi)
            counts = jnp.ones((tasks, coordinates[-1].shape[-1]), losses.dtype)
            if spec.sample is not None and spec.sample < counts.shape[1]:
                keys = jax.random.split(jax.random.fold_in(key, at[0][0]), tasks)
                coordinates, counts = jax.vmap(sampled)(keys, coordinates)
            grad, by_start = _gradient(member, part, (*coordinates, counts), values, w / tasks, spec.block)
            grad = back(grad)[0]
            if member.start is None:
                return grad
            start = lambda phi, drawn: mine.cut(ravel(member.start(phi, drawn)))  # noqa: E731
            _, back = jax.vjp(lambda phi: jax.vmap(start, (None, 0))(phi, state.theta), phi)
            return jax.tree.map(jnp.add, grad, back(by_start)[0])

        def sampled(key, coordinates):
            *_, grads, later = coordinates
            sizes = jnp.abs(w) @ jnp.abs(_cotangents(grads, later))
            indices, counts = draw(key, sizes, spec.sample)
            return jax.tree.map(lambda leaf: leaf if leaf.ndim == 0 else leaf[..., indices], coordinates), counts

        grad = each(optimizer, theta, gradient, phi, state.opt, *record)
        return Estimate(grad, jnp.mean(scores @ w), losses.mean(0)), after

    def estimate(key, phi, data, state):
        return (local if devices == 1 else by_coordinate(local, devices))(key, phi, data, state)

    return Estimator(init, estimate, None if devices == 1 else lambda state: shardings_by_coordinate(state, devices))


def _over_tasks(one, state, steps: int):
    """`one` of each task's Inner: side by side where a task is small, one after the other where it fills the machine.

    Side by side, the LSTM's arrays have the tasks as another axis, and XLA transposes them at every step.
    """
    import jax

    from l2lcli.inner.unroll import axes

    tasks = state.value.shape[0]
    if sum(leaf.size for leaf in jax.tree.leaves(state.theta)) < SMALL * tasks:
        return jax.vmap(one, in_axes=(axes(),), out_axes=(axes(), 0))(state)

    def in_turn(batched):
        after, found = one(batched._replace(t=state.t))
        return after._replace(t=None), found

    after, found = jax.lax.map(in_turn, state._replace(t=None))
    return after._replace(t=state.t + steps), found


def _gradient(optimizer: LearnedOptimizer, phi, coordinates, values, weights, block: int):
    """d/dphi of Σ_{m,t} w_t ⟨c_t, theta_t(phi)⟩, block by block.

    Args:
      optimizer: the family.
      phi: its parameters.
      coordinates: its state at the window's beginning (leaves [M, ..., N] or [M]), theta there [M, N], the gradients that it
        was fed [M, W, N], the cotangents c_t: [M, W, N], or, where those are the gradients one step later, the one after
        the last of them [M, N]; and what each coordinate counts for [M, N].
      values: the losses that it was fed [M, W].
      weights: w_t [W].
      block: coordinates at a time.

    Returns:
      The gradient, and, of a family with a start, the derivative by theta at the window's beginning [M, N] (else None).
    """
    import jax
    import jax.numpy as jnp

    tasks, _, size = coordinates[2].shape
    shape = tasks, size
    if optimizer.window is not None:
        # Such a family reads gradients alone: the coordinates of all tasks are one vector.
        merge = lambda leaf: jnp.moveaxis(leaf, 0, -2).reshape(1, *leaf.shape[1:-1], -1)  # noqa: E731  [1, ..., M N]
        coordinates = jax.tree.map(merge, coordinates)
        tasks, _, size = coordinates[2].shape
    width = min(block, size)
    blocks = -(-size // width)
    leaves, structure = jax.tree.flatten(phi)
    sliced = [False] * len(leaves)
    if optimizer.per_coordinate is not None:
        sliced = jax.tree.leaves(optimizer.per_coordinate(phi))
    surrogate = _surrogate if optimizer.window is None else _surrogate_of_window

    def cut(leaf, task, start):
        leaf = leaf[task]
        return leaf if leaf.ndim == 0 else jax.lax.dynamic_slice_in_dim(leaf, start, width, -1)

    def add(total, i):
        # The last block is as wide as the others, and so begins inside the one before: what is there twice counts once.
        task, first = i // blocks, i % blocks * width
        start = jnp.minimum(first, size - width)
        opt, theta, grads, later, counts = jax.tree.map(lambda leaf: cut(leaf, task, start), coordinates)
        cotangents = jnp.outer(weights, counts) * _cotangents(grads, later)
        cotangents = jnp.where(start + jnp.arange(width) >= first, cotangents, 0)

        def of(phi, theta):
            return surrogate(optimizer, structure.unflatten(phi), opt, theta, grads, values[task], cotangents)

        part = [cut(leaf[None], 0, start) if own else leaf for leaf, own in zip(leaves, sliced, strict=True)]
        by_phi, by_theta = jax.grad(of, (0, 1))(part, theta) if optimizer.start else (jax.grad(of)(part, theta), None)
        of_phi = [
            _put(whole, (start,), grad) if own else whole + grad
            for whole, grad, own in zip(total[0], by_phi, sliced, strict=True)
        ]
        return (of_phi, None if by_theta is None else _put(total[1], (task, start), by_theta[None])), None

    zeros = [jnp.zeros_like(leaf) for leaf in leaves], jnp.zeros_like(coordinates[1]) if optimizer.start else None
    of_phi, of_theta = jax.lax.scan(add, zeros, jnp.arange(tasks * blocks))[0]
    return structure.unflatten(of_phi), None if of_theta is None else of_theta.reshape(shape)


def _cotangents(grads, later):
    """c_1 … c_W of one task [W, N] as `_gradient` is given them."""
    import jax.numpy as jnp

    return later if later.ndim == 2 else jnp.concatenate([grads[1:], later[None]])


def _put(whole, at, part):
    """The array with `part` added where it begins at the place `at`."""
    import jax

    return jax.lax.dynamic_update_slice(whole, jax.lax.dynamic_slice(whole, at, part.shape) + part, at)


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

    theta_t is then theta and a sum of updates, and the cotangent of an update the sum of those of every later theta.
    """
    import jax.numpy as jnp

    later = jnp.flip(jnp.cumsum(jnp.flip(cotangents, 0), 0), 0)
    return jnp.vdot(later, optimizer.window(phi, opt, grads)) + jnp.vdot(cotangents.sum(0), theta)
