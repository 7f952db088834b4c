"""BFGS, L-BFGS and nonlinear conjugate gradient, as SciPy has them: what people use where f is not a noisy sample.

They are no families: a step is as many evaluations of f as its line search takes. So they are compared by what they cost, one
evaluation of f and its gradient counting as a step, and nothing of them is tuned.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from l2lcli.base import Key, Problem
from l2lcli.evaluation.curves import Curves, drawn_from
from l2lcli.evaluation.pictures import TASKS, in_bytes, steps_shown
from l2lcli.inner.unroll import fresh
from l2lcli.optimizers.hand import hand
from l2lcli.signals import Progress

METHODS = {"bfgs": "BFGS", "lbfgs": "L-BFGS-B", "conjugate_gradient": "CG"}  # SciPy's names
ENDLESS = {  # they stop where their steps no longer bring anything, or where the evaluations are spent
    "bfgs": {"gtol": 0.0, "maxiter": 10**9},
    "lbfgs": {"gtol": 0.0, "ftol": 0.0, "maxiter": 10**9, "maxfun": 10**9},
    "conjugate_gradient": {"gtol": 0.0, "maxiter": 10**9},
}


class _SpentError(Exception):
    """All evaluations were made."""


class Searched(NamedTuple):
    """What a line search did.

    Attributes:
      curves: the losses.
      seconds: of an evaluation, with what the method itself takes: the median over optimizees, None where none made any.
      pictures: as of `pictures.pictured`, None where optimizees are no images.
    """

    curves: Curves
    seconds: float | None
    pictures: dict[str, Any] | None


def line_search(problem: Problem, name: str, keys: Key, steps: int, every: int, progress: Progress) -> Searched:
    """Train one optimizee per key, [S], by one of METHODS.

    The loss at step t is the least of the first t + 1 evaluations: what who stops there has in hand. A search that ends early,
    since no step makes f smaller in float32, keeps that.

    Args:
      problem: f, the same at every step.
      name: the method.
      keys: as of `curves.curves`, and so the same optimizees.
      steps: T, evaluations after the first.
      every: steps from one measurement of the test metrics to the next.
      progress: asked between optimizees.
    """
    problem = drawn_from(problem, "test")
    data = dict(problem.data)
    begin = jax.jit(lambda key, data: fresh(problem, hand("sgd"), {"log_learning_rate": jnp.float32(0)}, key, data, steps))
    shapes = jax.eval_shape(begin, keys[0], data["train"]).theta
    unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))[1]

    @jax.jit
    def evaluate(x, inner, data):
        """f and its gradient [N] at x [N]: one program, whose time is part of what is reported."""
        return jax.value_and_grad(lambda x: problem.loss(unravel(x), problem.batch(inner.key, inner.task, data)))(x)

    measured = problem.metrics is not None and "test" in data

    @jax.jit
    def test(theta, task, data):
        return problem.metrics(theta if problem.units is None else problem.units(theta, task), data)  # pyright: ignore[reportOptionalCall]

    at = np.array([*range(0, steps + 1, every), *([steps] if steps % every else [])])
    losses, metrics, seconds, draws, images = [], [], [], [], []
    for key in keys:
        progress.check()
        inner = begin(key, data["train"])
        start = ravel_pytree(inner.theta)[0]
        jax.block_until_ready(evaluate(start, inner, data["train"]))
        began = time.perf_counter()
        found, points = _run(name, np.asarray(start), lambda x, i=inner: evaluate(x, i, data["train"]), steps)
        if len(found) > 1:
            seconds.append((time.perf_counter() - began) / len(found))
        best = np.minimum.accumulate(np.where(np.isfinite(found), found, np.inf))
        whole = np.append(best, np.full(steps + 1 - len(best), best[-1]))
        losses.append(np.where(np.isfinite(whole), whole, np.nan))

        def reached(step: int, best=best, points=points, dtype=start.dtype) -> Any:
            first = int(np.argmax(best == best[min(step, len(best) - 1)]))
            return unravel(jnp.asarray(points[first], dtype))

        if measured:
            of_seed = [test(reached(step), inner.task, data["test"]) for step in at.tolist()]
            metrics.append(jax.tree.map(lambda *values: np.stack(values), *of_seed))
        if (pictures := problem.pictures) is not None and len(images) < TASKS:
            made = jnp.stack([pictures.made(reached(step)) for step in steps_shown(steps)])
            images.append(jax.tree.map(in_bytes, {"given": dict(pictures.given(inner.task)), "made": made}))
        draws.append({} if problem.describe is None else problem.describe(inner.task))
    stacked = lambda trees: jax.tree.map(lambda *leaves: np.stack(leaves), *trees) if trees else {}
    pace = float(np.median(seconds)) if seconds else None
    found = Curves(np.stack(losses).astype(np.float64), at, stacked(metrics), stacked(draws))
    return Searched(found, pace, stacked(images) or None)


def _run(name: str, start: np.ndarray, evaluate: Any, steps: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """f at each evaluation, at most steps + 1, and where it was evaluated."""
    from scipy.optimize import minimize  # a tenth of a second, which who does not ask for it need not wait for

    losses: list[float] = []
    points: list[np.ndarray] = []

    def value_and_grad(x: np.ndarray):
        if len(losses) > steps:
            raise _SpentError
        value, grad = evaluate(np.asarray(x, start.dtype))
        losses.append(float(value))
        points.append(np.array(x))
        return losses[-1], np.asarray(grad, np.float64)

    try:
        with np.errstate(all="ignore"):
            minimize(value_and_grad, start.astype(np.float64), jac=True, method=METHODS[name], options=ENDLESS[name])
    except _SpentError:
        pass
    return np.array(losses), points
