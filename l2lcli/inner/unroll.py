"""The inner loop: an optimizee trained by any optimizer, for a number of steps. Nothing else steps an optimizee.

Written for one optimizee; callers `vmap` it with `axes()`. All randomness is in `Inner.key`: step t draws its batch from
`fold_in(key, t)`, so an unroll of 20 steps is bit-equal to 13 followed by 7, and the same key gives every optimizer the
same start and the same batches.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2lcli.base import Data, Inner, Key, LearnedOptimizer, Phi, Problem


def namespace(root: Key, name: str) -> Key:
    """A key of its own for "train", "validation", "tuning" or "evaluation", so that none of them sees another's tasks."""
    return jax.random.fold_in(root, zlib.crc32(name.encode()))


def axes(axis: Any = 0, together: Any = None) -> Any:
    """`in_axes` / `out_axes` for a batch of optimizees, an `Inner`.

    In lock-step everything is batched but t and the horizon; where tasks stand at steps of their own, `together` is an axis.
    """
    return Inner(axis, axis, axis, axis, together, together, axis, axis, axis)  # pyright: ignore[reportArgumentType]


def standing(inner: Inner) -> Any:
    """The axes of this batch of optimizees."""
    return axes(0, None if inner.t.ndim == 0 else 0)


def trajectory_axes(inner: Any = None) -> Any:
    """The same for a `Trajectory`, given those of its optimizees where they are not in lock-step."""
    return Trajectory(axes() if inner is None else inner, 0, 0, 0)  # pyright: ignore[reportArgumentType]


def fresh(problem: Problem, optimizer: LearnedOptimizer, phi: Phi, key: Key, data: Data, horizon: Any = 0) -> Inner:
    """One optimizee before its first step, with f and its gradient at theta_0. The key is consumed.

    horizon: the steps that it will be trained for, which its optimizer is told; 0 if nobody knows.
    """
    return begun(problem, optimizer, phi, drawn(problem, optimizer, phi, key, data, horizon), data)


def drawn(problem: Problem, optimizer: LearnedOptimizer, phi: Phi, key: Key, data: Data, horizon: Any = 0) -> Inner:
    """The same before `LearnedOptimizer.start` is applied: theta is the problem's own, f and gradient are 0."""
    init_key, step_key = jax.random.split(key)
    theta, task = problem.init(init_key, data)
    value = jnp.zeros((), jax.tree.leaves(theta)[0].dtype)
    opt = optimizer.bind(phi).init(theta)
    t, horizon = jnp.zeros((), jnp.int32), jnp.asarray(horizon, jnp.int32)
    return Inner(theta, opt, task, step_key, t, horizon, value, value, jax.tree.map(jnp.zeros_like, theta))


def begun(problem: Problem, optimizer: LearnedOptimizer, phi: Phi, inner: Inner, data: Data) -> Inner:
    """What `fresh` makes of what `drawn` made; differentiable in phi where the optimizer learns the start."""
    with jax.named_scope("learned start"):
        theta = inner.theta if optimizer.start is None else optimizer.start(phi, inner.theta)
    value, grad = _evidence(problem, theta, inner.task, inner.key, inner.t, data)
    return inner._replace(theta=theta, first=value, value=value, grad=grad)


class Trajectory(NamedTuple):
    """What `unroll` brought, of steps t+1 … t+W."""

    end: Inner  # the optimizee W steps further
    losses: jax.Array  # [W] f at each step, after its update
    scores: Any  # leaves [W, ...], what `score` gave at each step; the losses themselves without it
    recorded: Any  # leaves [W, ...], what `record` gave before each update; None without it


def unroll(
    problem: Problem,
    optimizer: LearnedOptimizer,
    phi: Phi,
    inner: Inner,
    data: Data,
    steps: int,
    *,
    second_order: bool = False,
    discount: float = 1.0,
    checkpoint: bool = False,
    record: Callable[[Inner], Any] | None = None,
    score: Callable[[Inner], Any] | None = None,
) -> Trajectory:
    """Train one optimizee for `steps` steps.

    Args:
      problem: f.
      optimizer: the family whose member phi is applied.
      phi: optimizer parameters; traced, and differentiable.
      inner: where the optimizee stands.
      data: one split of the problem's data.
      steps: number of updates, static.
      second_order: let derivatives flow through what the optimizer is fed, the gradient and the value. The paper drops
        them ("the dashed edges", Andrychowicz et al. 2016, Fig. 2), and so does the default.
      discount: what each step leaves of the derivatives by the optimizee that it passes on (of theta, and of what the
        optimizer is fed); the values stay as they are.
      checkpoint: recompute losses and gradients when differentiating, instead of keeping their activations.
      record: what is to be kept of each step, of the optimizee before its update: what the optimizer is fed, say.
      score: what is to be said of each step besides f, of the optimizee after its update: the outer loss.
    """
    passed = lambda x: optax.scale_gradient(x, discount)  # the values stay to the bit
    fed = passed if second_order else jax.lax.stop_gradient
    recomputed = functools.partial(jax.checkpoint, prevent_cse=False) if checkpoint else lambda function: function
    judged = None if score is None else recomputed(jax.named_scope("outer loss")(score))

    @recomputed
    def evidence(theta, task, key, t):
        # Stopped in here: what is dropped is not even recomputed.
        value, grad = _evidence(problem, theta, task, key, t, data)
        return value, fed(value), fed(grad)

    def step(inner: Inner, _: None) -> tuple[Inner, tuple[jax.Array, Any, Any]]:
        with jax.named_scope("optimizer"):  # these names are what profiles and `l2l inspect --graph` show
            tx = optimizer.bind(phi)
            update, opt = tx.update(inner.grad, inner.opt, inner.theta, value=inner.value, horizon=inner.horizon)
        with jax.named_scope("theta + update"):
            theta = optax.apply_updates(inner.theta, update)
        t = inner.t + 1
        value, fed_value, grad = evidence(theta, inner.task, inner.key, t)
        after = inner._replace(theta=theta, opt=opt, t=t, value=value, grad=grad)
        of_step = value, None if judged is None else judged(after), None if record is None else record(inner)
        return after._replace(theta=passed(theta), value=fed_value), of_step

    if not second_order:
        inner = inner._replace(value=fed(inner.value), grad=fed(inner.grad))
    end, (losses, scores, recorded) = jax.lax.scan(step, inner, length=steps)
    return Trajectory(end, losses, losses if score is None else scores, recorded)


def _evidence(problem: Problem, theta, task, key: Key, t: jax.Array, data: Data):
    with jax.named_scope("minibatch"):
        batch = problem.batch(jax.random.fold_in(key, t), task, data)
    return jax.value_and_grad(jax.named_scope("f")(problem.loss))(theta, batch)
