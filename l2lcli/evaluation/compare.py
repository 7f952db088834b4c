"""Comparison of a learned optimizer with tuned baselines, on any problem.

Fairness: each baseline's learning rate is tuned on tuning seeds, for this problem and for each metric apart; what is
reported comes from other seeds, the same ones for every optimizer, and so from the same starts and minibatches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from l2lcli import processes
from l2lcli.base import Key, LearnedOptimizer, Phi, Problem
from l2lcli.config.specs import LINE_SEARCH
from l2lcli.evaluation import statistics
from l2lcli.evaluation.curves import Curves, curves, tune
from l2lcli.evaluation.equal_time import PACE, Remember, at_once
from l2lcli.evaluation.equal_time import equal_time as at_equal_time
from l2lcli.evaluation.line_search import line_search
from l2lcli.evaluation.pictures import Gallery, gallery, pictured
from l2lcli.evaluation.summary import METRICS, BestBaseline, Entry, Part, Pays, Rate
from l2lcli.evaluation.timing import seconds_per_step
from l2lcli.inner.unroll import namespace
from l2lcli.optimizers.hand import hand
from l2lcli.signals import UNWATCHED, Progress


class Comparison(NamedTuple):
    """What a comparison found: the summary, and the curves it rests on."""

    summary: Part
    curves: dict[str, Curves]  # "adam" is tuned for `final`, "adam@sum" for `sum` where that is another rate, "adam@time"
    pictures: Gallery | None = None  # of a problem whose optimizees are images


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
    equal_time: bool = False,
    remember: Remember = at_once,
) -> Comparison:
    """Compare a learned optimizer with tuned baselines.

    Args:
      problem: f.
      name: what the summary calls it.
      learned: the name, family and phi of the learned optimizer; None compares the baselines alone.
      baselines: names that `hand` knows or, where f is the same at every step, that are in LINE_SEARCH.
      root: the run's key; tuning and evaluation draw from namespaces of their own.
      steps: T.
      seeds: S.
      tuning_seeds: seeds for the learning rates.
      metrics_every: steps between evaluations on the test split.
      kept: other parameters of the learned family, by name: rows of the summary that are not judged.
      progress: told what is being done, and asked between dispatches.
      equal_time: whether baselines are also given the learned one's time.
      remember: where learning rates come from and, with `equal_time`, what a step costs: of an equal one before, or now.
    """
    tuning = jax.random.split(namespace(root, "tuning"), tuning_seeds)
    keys = jax.random.split(namespace(root, "evaluation"), seeds)
    found: dict[str, Curves] = {}
    made: dict[str, Any] = {}
    entries: dict[str, Entry] = {}
    members: dict[str, tuple[LearnedOptimizer, Phi]] = {}

    def add(label: str, family: LearnedOptimizer, phis: dict[str, Phi], rates: dict[str, float] | None) -> None:
        progress.check()
        found[label] = curves(problem, family, phis["final"], keys, steps, metrics_every)
        for_sum = found[label]
        if rates is not None and rates["sum"] != rates["final"]:
            for_sum = found[f"{label}@sum"] = curves(problem, family, phis["sum"], keys, steps, metrics_every)
        members[label] = family, phis["final"]
        enter(label, for_sum, rates)
        if problem.pictures is not None:
            made[label] = pictured(problem, family, phis["final"], keys, steps)

    def enter(label: str, for_sum: Curves, rates: dict[str, float] | None) -> None:
        measured: dict[str, Any] = {}
        for metric, values in found[label].metrics.items():
            measured[metric], measured[f"{metric}_ci"] = statistics.mean_interval(values[:, -1])
        entries[label] = Entry(
            phi_final=None if rates is None else Rate(learning_rate=rates["final"]),
            phi_sum=None if rates is None else Rate(learning_rate=rates["sum"]),
            steps_to_best_baseline=None,
            seconds_per_step=None,
            **statistics.describe(found[label].losses, for_sum.losses, problem.minibatch),
        )
        if measured:
            entries[label] = entries[label].model_copy(update={"test": measured})

    for baseline in filter(lambda name: name not in LINE_SEARCH, baselines):

        def find(baseline: str = baseline) -> dict[str, float]:
            progress.say(f"tuning {baseline}")
            return tune(problem, baseline, tuning, steps, progress)

        rates = remember(baseline, steps, find)
        phis = {metric: {"log_learning_rate": jnp.float32(math.log(rate))} for metric, rate in rates.items()}
        add(baseline, hand(baseline, horizon=steps), phis, rates)
    searched: dict[str, float | None] = {}
    for baseline in filter(lambda name: name in LINE_SEARCH, baselines):
        progress.say(f"evaluating {baseline}")
        run = lambda name=baseline: line_search(problem, name, keys, steps, metrics_every, progress)
        found[baseline], searched[baseline], images = processes.shared(run, slow=True)
        enter(baseline, found[baseline], None)
        if images is not None:
            made[baseline] = images
    if learned is not None:
        label, family, phi = learned
        progress.say(f"evaluating {label}")
        add(label, family, {"final": phi, "sum": phi}, None)
        for other, parameters in kept.items():
            add(other, family, {"final": parameters, "sum": parameters}, None)
    measure = lambda: processes.shared(lambda: seconds_per_step(problem, members, keys[0], steps, progress), slow=True)
    pace = remember(PACE, steps, measure) if equal_time else measure()
    for label, seconds in (pace | searched).items():
        entries[label] = entries[label].model_copy(update={"seconds_per_step": seconds})
    ours = learned and learned[0]
    said = _verdict(problem, ours, baselines, entries, found)
    if equal_time and ours is not None and baselines:
        said["equal_time"], longer = at_equal_time(
            problem, found[ours].losses, pace, ours, baselines, (tuning, keys), progress, remember
        )
        found |= {f"{name}@time": of_name for name, of_name in longer.items()}
    summary = Part(problem=name, learned=ours, steps=steps, seeds=seeds, optimizers=entries, **said)
    return Comparison(summary, found, gallery(made, steps) if made else None)


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
