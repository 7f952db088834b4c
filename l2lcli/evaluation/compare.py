"""Evaluation of any family on any problem, over paired seeds: curves, learning-rate tuning, comparison.

Fairness: each baseline's learning rate is tuned on tuning seeds, for this problem and for each metric apart; what is
reported comes from other seeds, the same ones for every optimizer, and so from the same starts and minibatches.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2lcli.base import Key, LearnedOptimizer, Phi, Problem
from l2lcli.evaluation import statistics
from l2lcli.evaluation.grid import Grid
from l2lcli.evaluation.summary import METRICS, BestBaseline, Entry, Part, Pays, Rate
from l2lcli.evaluation.timing import seconds_per_step
from l2lcli.inner.unroll import fresh, namespace, unroll
from l2lcli.optimizers.hand import hand
from l2lcli.signals import UNWATCHED, Progress

GRID = Grid(per_decade=3, first=range(-12, 4), stride=8, furthest=36)  # 1e-4 … 10 at first; eight rates a dispatch


class Curves(NamedTuple):
    """One optimizer on S seeds."""

    losses: np.ndarray  # [S, T+1] f at steps 0 … T
    steps: np.ndarray  # [K] where metrics were taken: every k steps, and at T
    metrics: dict[str, np.ndarray]  # name -> [S, K], on the whole test split
    draws: Mapping[str, np.ndarray] = {}  # name -> [S], what was drawn for each optimizee, of a problem that says so


class Comparison(NamedTuple):
    """What a comparison found: the summary, and the curves it rests on."""

    summary: Part
    curves: dict[str, Curves]  # "adam" is tuned for `final`, "adam@sum" for `sum` where that is another rate


def curves(problem: Problem, optimizer: LearnedOptimizer, phi: Phi, keys: Key, steps: int, every: int) -> Curves:
    """Train one optimizee per key, [S], for `steps` steps; metrics every `every` steps."""
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

    losses, metrics, draws = jax.tree.map(np.asarray, run(phi, keys, dict(problem.data)))
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
    rate, and of its losses [S, T+1].
    """
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
        losses = np.asarray(run(phis, keys, problem.data["train"]), np.float64)
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


def compare(
    problem: Problem,
    name: str,
    learned: tuple[str, LearnedOptimizer, Phi] | None,
    baselines: list[str],
    root: Key,
    *,
    steps: int,
    seeds: int,
    tuning_seeds: int,
    metrics_every: int,
    kept: Mapping[str, Phi] = {},
    progress: Progress = UNWATCHED,
    remember: Callable[[str, Callable[[], dict[str, float]]], dict[str, float]] = lambda baseline, find: find(),
) -> Comparison:
    """Compare a learned optimizer with tuned baselines.

    Args:
      problem: f.
      name: what the summary calls it.
      learned: the name, family and phi of the learned optimizer; None compares the baselines alone.
      baselines: names that `hand` knows.
      root: the run's key; tuning and evaluation draw from namespaces of their own.
      steps: T.
      seeds: S.
      tuning_seeds: seeds for the learning rates.
      metrics_every: steps between evaluations on the test split.
      kept: other parameters of the learned family, by name: rows of the summary that are not judged.
      progress: told what is being done, and asked between dispatches.
      remember: (baseline, tuning it) -> its learning rates, as `tune` returns them: those of an equal tuning before, or
        of this one.
    """
    tuning = jax.random.split(namespace(root, "tuning"), tuning_seeds)
    keys = jax.random.split(namespace(root, "evaluation"), seeds)
    found: dict[str, Curves] = {}
    entries: dict[str, Entry] = {}
    members: dict[str, tuple[LearnedOptimizer, Phi]] = {}

    def add(label: str, family: LearnedOptimizer, phis: dict[str, Phi], rates: dict[str, float] | None) -> None:
        progress.check()
        found[label] = curves(problem, family, phis["final"], keys, steps, metrics_every)
        for_sum = found[label]
        if rates is not None and rates["sum"] != rates["final"]:
            for_sum = found[f"{label}@sum"] = curves(problem, family, phis["sum"], keys, steps, metrics_every)
        measured: dict[str, Any] = {}
        for metric, values in found[label].metrics.items():
            measured[metric], measured[f"{metric}_ci"] = statistics.mean_interval(values[:, -1])
        members[label] = family, phis["final"]
        entries[label] = Entry(
            phi_final=None if rates is None else Rate(learning_rate=rates["final"]),
            phi_sum=None if rates is None else Rate(learning_rate=rates["sum"]),
            steps_to_best_baseline=None,
            seconds_per_step=None,
            **statistics.describe(found[label].losses, for_sum.losses, problem.minibatch),
        )
        if measured:
            entries[label] = entries[label].model_copy(update={"test": measured})

    for baseline in baselines:

        def find(baseline: str = baseline) -> dict[str, float]:
            progress.say(f"tuning {baseline}")
            return tune(problem, baseline, tuning, steps, progress)

        rates = remember(baseline, find)
        phis = {metric: {"log_learning_rate": jnp.float32(math.log(rate))} for metric, rate in rates.items()}
        add(baseline, hand(baseline, horizon=steps), phis, rates)
    if learned is not None:
        label, family, phi = learned
        progress.say(f"evaluating {label}")
        add(label, family, {"final": phi, "sum": phi}, None)
        for other, parameters in kept.items():
            add(other, family, {"final": parameters, "sum": parameters}, None)
    for label, seconds in seconds_per_step(problem, members, keys[0], steps, progress).items():
        entries[label] = entries[label].model_copy(update={"seconds_per_step": seconds})
    ours = learned and learned[0]
    said = _verdict(problem, ours, baselines, entries, found)
    return Comparison(Part(problem=name, learned=ours, steps=steps, seeds=seeds, optimizers=entries, **said), found)


def _verdict(
    problem: Problem, learned: str | None, baselines: list[str], entries: dict[str, Entry], found: dict[str, Curves]
) -> dict[str, Any]:
    """What a `Part` says besides its entries; says in `entries` when the learned one reaches the best baseline."""
    best: dict[str, str | None] = {}
    said: dict[str, Any] = {}
    for metric in METRICS:
        means = {name: entries[name].of(metric).value for name in baselines}
        standing = {name: mean for name, mean in means.items() if mean is not None}
        best[metric] = rival = min(standing, key=standing.__getitem__) if standing else None
        ratio = interval = None
        if learned is not None and rival is not None and entries[learned].of(metric).value is not None:
            measure = statistics.total if metric == "sum" else lambda losses: statistics.final(losses, problem.minibatch)
            theirs = found.get(f"{rival}@sum", found[rival]) if metric == "sum" else found[rival]
            ratio, interval = statistics.ratio_interval(measure(found[learned].losses), measure(theirs.losses))
        said |= {f"ratio_{metric}": ratio, f"ratio_{metric}_ci": interval}
    said["best_baseline"] = BestBaseline(**best)
    if learned is not None and best["final"] is not None and (level := entries[best["final"]].final) is not None:
        reached = statistics.first_at_or_below(found[learned].losses, level)
        entries[learned] = entries[learned].model_copy(update={"steps_to_best_baseline": reached})
        rivals = {name: curves for name, curves in found.items() if name.removesuffix("@sum") in baselines or name == learned}
        said["pays"] = _pays(problem, learned, entries, rivals)
    return said


def _pays(problem: Problem, learned: str, entries: dict[str, Entry], found: dict[str, Curves]) -> Pays:
    """Where on the clock the learned one is below every baseline at both of its rates, for good."""
    pace = {name: entries[name.removesuffix("@sum")].seconds_per_step or math.nan for name in found}
    theirs = [(found[name].losses, pace[name]) for name in found if name != learned]
    step = statistics.pays_from((found[learned].losses, pace[learned]), theirs, problem.minibatch)
    return Pays(step=step, seconds=None if step is None else step * pace[learned])
