"""Curves of any family on any problem over paired seeds, and learning rates tuned by them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2lcli.base import Key, LearnedOptimizer, Phi, Problem
from l2lcli.evaluation import statistics
from l2lcli.evaluation.grid import Grid
from l2lcli.evaluation.rows import by_row
from l2lcli.inner.unroll import fresh, unroll
from l2lcli.optimizers.hand import hand
from l2lcli.signals import UNWATCHED, Progress

GRID = Grid(per_decade=3, first=range(-12, 4), stride=8, furthest=36)  # 1e-4 … 10 at first; eight rates a dispatch


class Curves(NamedTuple):
    """One optimizer on S seeds."""

    losses: np.ndarray  # [S, T+1] f at steps 0 … T
    steps: np.ndarray  # [K] where metrics were taken: every k steps, and at T
    metrics: dict[str, np.ndarray]  # name -> [S, K], on the whole test split
    draws: Mapping[str, np.ndarray] = {}  # name -> [S], what was drawn for each optimizee, of a problem that says so


def drawn_from(problem: Problem, split: str) -> Problem:
    """The problem with all its tasks from one split, where its splits have tasks of their own; else as it is."""
    return problem._replace(data={**problem.data, "train": problem.data[split]}) if problem.held_out else problem


def curves(problem: Problem, optimizer: LearnedOptimizer, phi: Phi, keys: Key, steps: int, every: int) -> Curves:
    """Train one optimizee per key, [S], for `steps` steps; metrics every `every` steps. Tasks held out are those of "test"."""
    problem = drawn_from(problem, "test")
    # A few-shot problem's metrics are of one task's query, not of the whole split.
    measure = problem.metrics if "test" in problem.data and problem.query is None else None

    @jax.jit
    def run(phi, keys, data):
        def one(key):
            inner = fresh(problem, optimizer, phi, key, data["train"], steps)
            view = lambda inner: inner.theta if problem.units is None else problem.units(inner.theta, inner.task)
            test = lambda inner: measure(view(inner), data["test"]) if measure else {}
            losses, metrics = [inner.value[None]], [jax.tree.map(lambda x: x[None], test(inner))]

            def segment(inner, _, length):
                found = unroll(problem, optimizer, phi, inner, data["train"], length)
                return found.end, (found.losses, test(found.end))

            whole, rest = divmod(steps, every)
            if whole:
                inner, (values, found) = jax.lax.scan(functools.partial(segment, length=every), inner, length=whole)
                losses.append(values.reshape(-1))
                metrics.append(found)
            if rest:
                inner, (values, found) = segment(inner, None, rest)
                losses.append(values)
                metrics.append(jax.tree.map(lambda x: x[None], found))
            draws = {} if problem.describe is None else problem.describe(inner.task)
            return jnp.concatenate(losses), jax.tree.map(lambda *xs: jnp.concatenate(xs), *metrics), draws

        return jax.vmap(one)(keys)

    losses, metrics, draws = by_row(run, phi, keys, dict(problem.data))
    at = [*range(0, steps + 1, every), *([steps] if steps % every else [])]
    return Curves(losses.astype(np.float64), np.array(at), metrics, draws)


def tune(
    problem: Problem,
    name: str,
    keys: Key,
    steps: int,
    progress: Progress = UNWATCHED,
    tried: Callable[[float, np.ndarray], None] = lambda rate, losses: None,
) -> dict[str, float]:
    """The learning rates of a hand-made optimizer with the least mean over `keys` of each metric: {"final", "sum"}.

    Three rates a decade from 1e-4 to 10; a best value at the grid's edge extends the grid on that side. `tried` hears of each
    rate, and of its losses [S, T+1]. Tasks held out are those of "validation".
    """
    problem = drawn_from(problem, "validation")
    optimizer = hand(name, horizon=steps)

    @jax.jit
    def run(phis, keys, data):
        def one(phi, key):
            inner = fresh(problem, optimizer, phi, key, data, steps)
            return jnp.concatenate([inner.value[None], unroll(problem, optimizer, phi, inner, data, steps).losses])

        return jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None))(phis, keys)

    def costs(exponents: list[int]) -> dict[int, dict[str, float]]:
        progress.check()
        phis = {"log_learning_rate": jnp.asarray([e * math.log(10) / GRID.per_decade for e in exponents], jnp.float32)}
        losses = np.asarray(by_row(run, phis, keys, problem.data["train"], axis=1), np.float64)
        found: dict[int, dict[str, float]] = {}
        with np.errstate(over="ignore", invalid="ignore"):
            for exponent, of_rate in zip(exponents, losses, strict=True):
                tried(GRID.rate(exponent), of_rate)
                means = {"final": statistics.final(of_rate, problem.minibatch).mean(), "sum": statistics.total(of_rate).mean()}
                finite = np.isfinite(of_rate).all()
                found[exponent] = {metric: float(mean) if finite else math.inf for metric, mean in means.items()}
        return found

    return {metric: GRID.rate(exponent) for metric, exponent in GRID.search(costs).items()}


def program(problem: Problem) -> str:
    """f as a text: an optimizee's start, batches, loss and gradient as they are compiled. Who edits a problem changes it."""
    optimizer = hand("sgd")

    def one(phi, key, data):
        return unroll(problem, optimizer, phi, fresh(problem, optimizer, phi, key, data), data, 1).losses

    return jax.jit(one).lower(optimizer.init(jax.random.key(0), None), jax.random.key(0), problem.data["train"]).as_text()
