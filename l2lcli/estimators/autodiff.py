"""Truncated back-propagation through time by differentiating the unroll itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Estimate, Estimator, EstimatorSpec, LearnedOptimizer, Objective, Problem


class AutodiffSpec(EstimatorSpec):
    """Differentiate the unrolled window; what a step computes is computed again on the way back (`jax.checkpoint`)."""

    kind: Literal["autodiff"] = "autodiff"
    window: int = Field(default=20, ge=1, le=100_000)
    """Steps per meta-gradient; divides the horizon."""
    second_order: bool = False
    """Let derivatives flow through what the optimizer is fed; the paper drops them."""
    discount: float = Field(default=1.0, gt=0, le=1)
    """What each step leaves of the derivatives by the optimizee that are passed on to the next. Over many steps those of the
    second order explode; a discount below 1 makes them smaller, and bounds them where a step multiplies them by less than its
    inverse, at the price of late losses that count less for early updates."""
    checkpoint: bool = True
    """Recompute each step when differentiating, instead of keeping its activations."""
    clip: float | None = Field(default=None, gt=0)
    """Global norm that each task's own meta-gradient is clipped to, before their mean is taken, so that none has the say alone;
    one that is not finite counts as zero. null: the mean as it is."""


@registry.estimator.register("autodiff", AutodiffSpec)
def autodiff(
    spec: AutodiffSpec, problem: Problem, optimizer: LearnedOptimizer, tasks: int, objective: Objective, devices: int = 1
) -> Estimator:
    """Build the estimator of d/dphi mean_m Σ_t w_t g(f_m(theta_t)), t over one window (Andrychowicz et al. 2016, Section 2).

    With `Problem.query`, f_m(theta_t) in that sum is the loss on the query. A learned start is part of what is
    differentiated; its window is the whole episode.

    Args:
      spec: its config.
      problem: f.
      optimizer: the family.
      tasks: M.
      objective: w_1 … w_T and g; a window takes its own part.
      devices: over which the coordinates of every task are split, of a coordinatewise family; of another it uses 1.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from l2lcli.estimators._sharding import AXIS, by_coordinate, shardings_by_coordinate
    from l2lcli.estimators._split import Split
    from l2lcli.estimators._tiles import enter, leave, recomputed, tiled
    from l2lcli.inner.flat import each, flat, length
    from l2lcli.inner.objective import of_window
    from l2lcli.inner.query import score_on_query
    from l2lcli.inner.unroll import axes, begun, drawn, fresh, standing, trajectory_axes, unroll

    begin = fresh if optimizer.start is None else drawn  # a learned start is applied where it is differentiated
    second_order = spec.second_order or optimizer.second_order
    replay = optimizer.replay
    if replay is None or replay.composed is not None:  # not coordinatewise
        devices = 1
    split = lambda size: Split(size, devices, AXIS)
    in_tiles = spec.checkpoint and replay is not None and replay.composed is None and replay.per_coordinate is None
    whole = together = optimizer
    if in_tiles or devices > 1:
        whole = flat(optimizer, lambda member, size: split(size).optimizer(member))
        together = flat(optimizer, lambda member, size: split(size).together(member))
    if in_tiles:
        stepping = flat(optimizer, lambda member, size: split(size).optimizer(tiled(member)))
    else:
        stepping = recomputed(whole) if spec.checkpoint else whole

    def retiled(change, theta, opt):
        """A state with each leaf changed by `enter` or `leave`."""
        change = lambda member, at, state, do=change: jax.tree.map(lambda leaf: do(split(length(at)).part, leaf), state)
        return each(optimizer, theta, change, opt) if in_tiles else opt

    def init(key, phi, data):
        one = lambda key: begin(problem, whole, phi, key, data, len(objective.weights))
        return jax.vmap(one, out_axes=axes())(jax.random.split(key, tasks))

    def clipped(grad):
        norm = optax.tree.norm(grad)
        factor = jnp.minimum(1.0, spec.clip / jnp.maximum(norm, 1e-30)) if spec.clip else 1.0
        return jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(norm), factor * leaf, 0), grad)

    def shared(grad):
        """This device's share of a gradient that every device has the whole loss differentiated for: of as many losses."""
        return jax.tree.map(lambda leaf: leaf / devices, grad)

    def local(key, phi, data, state):
        del key  # nothing here is random beyond what the optimizees carry
        score = score_on_query(problem, objective.weights, data, problem.loss)

        def one(phi, inner):
            if optimizer.start is not None:
                inner = begun(problem, whole, phi, inner, data)
            inner = inner._replace(opt=retiled(enter, inner.theta, inner.opt))
            found = unroll(
                problem, stepping, phi, inner, data, spec.window, second_order=second_order, discount=spec.discount,
                checkpoint=spec.checkpoint, score=score,
            )  # fmt: skip
            end = found.end._replace(opt=retiled(leave, inner.theta, found.end.opt))
            return of_window(objective, found.scores, inner), found._replace(end=end)

        at = standing(state)

        def mean(phi):
            parts, found = jax.vmap(lambda inner: one(phi, inner), in_axes=(at,), out_axes=(0, trajectory_axes(at)))(state)
            return jnp.mean(parts), (found.end, found.losses)

        if spec.clip is None:
            (loss, (after, losses)), grad = jax.value_and_grad(mean, has_aux=True)(phi)
            grad = shared(grad)
        else:
            of_each = jax.vmap(
                jax.value_and_grad(one, has_aux=True), in_axes=(None, at), out_axes=((0, trajectory_axes(at)), 0)
            )
            (parts, found), grads = of_each(phi, state)
            grads = grads if devices == 1 else jax.lax.psum(shared(grads), AXIS)  # a norm is that of all parts together
            grad = shared(jax.tree.map(lambda leaf: leaf.mean(0), jax.vmap(clipped)(grads)))
            loss, after, losses = parts.mean(), found.end, found.losses
        return Estimate(grad, loss, losses.mean(0)), after

    if devices == 1:
        return Estimator(init, local, family=together)
    shardings = lambda state: shardings_by_coordinate(state, devices)
    return Estimator(init, by_coordinate(local, devices), shardings, family=together)
