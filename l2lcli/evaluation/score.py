"""Scoring an optimizer on a suite of problems: against tuned baselines problem by problem, and over all of them together.

Fairness is that of `compare`: each baseline is tuned for each problem, on other seeds than those that are reported; all meet
the same starts and minibatches. A win is an interval of the ratio of final losses that lies below 1, against the better of the
tuned baselines; a seed that diverges is a loss.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2lcli.base import Key, LearnedOptimizer, Phi, Problem
from l2lcli.evaluation import statistics
from l2lcli.evaluation.curves import Curves, curves, tune
from l2lcli.evaluation.equal_time import equal_time
from l2lcli.evaluation.timing import seconds_per_step
from l2lcli.inner.unroll import namespace
from l2lcli.optimizers.hand import hand
from l2lcli.signals import UNWATCHED, Progress

UNTUNED = {"adam_1e-3": ("adam", 1e-3), "prodigy": ("prodigy", 1.0), "schedule_free": ("schedule_free_adamw", 2.5e-3)}
SMOOTHING = 0.95  # of seed-mean curves before the envelope is taken, as in learned_optimization's normalizers
RESAMPLES = 2000


class Reference(NamedTuple):
    """Tuned baselines, and others that need no tuning, on one problem.

    Attributes:
      rates: baseline -> the learning rate with the least final loss on the tuning seeds.
      costs: baseline -> {rate tried: mean final loss on the tuning seeds, inf where one diverged}.
      losses: baseline, or untuned one -> [S, T+1].
      tests: the same -> {metric: [S]} on the test split at the end.
      envelope: [T+1] lowest loss that Adam, at any rate of the grid, has reached up to each step; curves smoothed.
    """

    rates: dict[str, float]
    costs: dict[str, dict[float, float]]
    losses: dict[str, np.ndarray]
    tests: dict[str, dict[str, np.ndarray]]
    envelope: np.ndarray


def reference(
    problem: Problem, baselines: list[str], root: Key, steps: int, seeds: int, tuning_seeds: int, progress: Progress = UNWATCHED
) -> Reference:
    """Tune the baselines on a problem and run them, and the untuned ones. Arguments as of `compare.compare`."""
    tuning = jax.random.split(namespace(root, "tuning"), tuning_seeds)
    keys = jax.random.split(namespace(root, "evaluation"), seeds)
    rates: dict[str, float] = {}
    costs: dict[str, dict[float, float]] = {}
    found: dict[str, Curves] = {}
    smooth: list[np.ndarray] = []
    for name in baselines:
        costs[name] = {}

        def tried(rate: float, losses: np.ndarray, name: str = name) -> None:
            finite = np.isfinite(losses).all()
            costs[name][rate] = float(statistics.final(losses, problem.minibatch).mean()) if finite else math.inf
            if name == "adam" and finite:
                smooth.append(smoothed(losses.mean(0)))

        progress.say(f"tuning {name}")
        rates[name] = tune(problem, name, tuning, steps, progress, tried)["final"]
        found[name] = _run(problem, name, rates[name], keys, steps)
        progress.check()
    for label, (name, rate) in UNTUNED.items():
        found[label] = _run(problem, name, rate, keys, steps)
        progress.check()
    envelope = np.minimum.accumulate(np.min(smooth, 0)) if smooth else np.full(steps + 1, np.inf)
    losses = {name: curve.losses for name, curve in found.items()}
    tests = {name: {metric: values[:, -1] for metric, values in curve.metrics.items()} for name, curve in found.items()}
    return Reference(rates, costs, losses, tests, envelope)


def _run(problem: Problem, name: str, rate: float, keys: Key, steps: int) -> Curves:
    return curves(problem, hand(name, horizon=steps), {"log_learning_rate": jnp.float32(math.log(rate))}, keys, steps, steps)


def smoothed(curve: np.ndarray) -> np.ndarray:
    """Exponential average of a curve [T+1], corrected for its start."""
    total, weight, out = 0.0, 0.0, []
    for value in curve:
        total, weight = SMOOTHING * total + (1 - SMOOTHING) * value, SMOOTHING * weight + 1 - SMOOTHING
        out.append(total / weight)
    return np.array(out)


def task(
    problem: Problem, learned: tuple[LearnedOptimizer, Phi], against: Reference, root: Key, steps: int, seeds: int,
    progress: Progress = UNWATCHED,
) -> tuple[dict[str, Any], np.ndarray]:  # fmt: skip
    """How a learned optimizer does on one problem: the entry of score.json, and its losses [S, T+1]."""
    keys = jax.random.split(namespace(root, "evaluation"), seeds)
    ours = curves(problem, *learned, keys, steps, steps)
    tuned = {
        name: (hand(name, horizon=steps), {"log_learning_rate": jnp.float32(math.log(r))}) for name, r in against.rates.items()
    }
    seconds = seconds_per_step(problem, {"learned": learned, **tuned}, keys[0], steps, progress)
    tests = {metric: values[:, -1] for metric, values in ours.metrics.items()}
    return judged(ours.losses, tests, against, problem.minibatch, seconds), ours.losses


def judged(
    losses: np.ndarray, tests: dict[str, np.ndarray], against: Reference, minibatch: bool, seconds: dict[str, float]
) -> dict[str, Any]:
    """The entry of score.json: ratios, verdict, speed-up, times. losses: [S, T+1]; seconds: per step, of all."""
    diverged = statistics.diverged(losses)
    finals = {name: _final(against.losses[name], minibatch) for name in against.losses}
    own = _final(losses, minibatch)
    better = min(against.rates, key=lambda name: finals[name].mean() if np.isfinite(finals[name]).all() else math.inf)
    ratio, interval = statistics.ratio_interval(own, finals[better])
    verdict = _verdict(None if diverged else interval)
    level = float(finals[better].mean())
    reached = {"learned": losses, **{name: against.losses[name] for name in against.rates}}
    times = {name: _time(of, level, minibatch, seconds[name]) for name, of in reached.items()}
    test = {"learned": tests, **{name: against.tests[name] for name in against.tests}}
    return {
        "ratio_final": ratio,
        "ratio_final_ci": interval,
        "verdict": verdict,
        "baseline": better,
        "learning_rate": against.rates[better],
        "finals": {"learned": _mean(own), **{name: _mean(final) for name, final in finals.items()}},
        "test": {name: {metric: _mean(values) for metric, values in of.items()} for name, of in test.items() if of},
        "diverged": diverged,
        "log_ratios": [float(x) for x in np.log(own / finals[better])] if not diverged else None,
        "speedup": _speedup(losses, against.envelope),
        "seconds_per_step": seconds,
        "seconds_to_target": times,
        "steps": losses.shape[1] - 1,
    }


def at_equal_time(
    problem: Problem,
    losses: np.ndarray,
    entry: dict[str, Any],
    root: Key,
    seeds: tuple[int, int],
    progress: Progress = UNWATCHED,
) -> dict[str, Any]:
    """What `equal_time` of an entry says: of that many tuning seeds and seeds that losses, [S, T+1], are of."""
    spaces = (("tuning", seeds[0]), ("evaluation", seeds[1]))
    keys = tuple(jax.random.split(namespace(root, name), count) for name, count in spaces)
    baselines = [name for name in entry["seconds_per_step"] if name != "learned"]
    found, _ = equal_time(problem, losses, entry["seconds_per_step"], "learned", baselines, (keys[0], keys[1]), progress)
    return {**found.model_dump(mode="json"), "verdict": _verdict(found.ratio_ci)}


def _verdict(interval: tuple[float, float] | None) -> str:
    """Of a ratio's interval; none, where a seed diverged, is lost."""
    return "lost" if interval is None or interval[0] > 1 else "won" if interval[1] < 1 else "undecided"


def together(tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What score.json says of all tasks: counts, the interquartile mean of the log-ratios, speed-up, profile by the clock."""
    count = lambda verdict: sum(entry["verdict"] == verdict for entry in tasks.values())
    there = {name: entry for name, entry in tasks.items() if entry["verdict"] != "missing"}
    found: dict[str, Any] = {
        "wins": count("won"),
        "undecided": count("undecided"),
        "losses": count("lost"),
        "missing": count("missing"),
    }
    if not there:
        return found | {"iqm_log_ratio": None, "iqm_log_ratio_ci": None, "speedup": None, "clock_profile": None}
    seeds = max((len(entry["log_ratios"]) for entry in there.values() if entry["log_ratios"]), default=1)
    ratios = np.array([entry["log_ratios"] or [math.inf] * seeds for entry in there.values()])
    generator = np.random.default_rng(0)
    resampled = []
    for _ in range(RESAMPLES):
        rows = generator.integers(0, len(ratios), len(ratios))
        columns = generator.integers(0, seeds, (len(ratios), seeds))
        resampled.append(interquartile_mean(np.take_along_axis(ratios[rows], columns, 1)))
    speed = [entry["speedup"] for entry in there.values()]
    found |= {
        "iqm_log_ratio": interquartile_mean(ratios),
        "iqm_log_ratio_ci": tuple(np.percentile(resampled, [2.5, 97.5]).tolist()),
        "speedup": float(np.exp(np.mean(np.log(speed)))) if min(speed) > 0 else 0.0,
    }
    timed = [entry["equal_time"]["verdict"] for entry in there.values() if entry.get("equal_time")]
    if timed:
        names = {"wins": "won", "undecided": "undecided", "losses": "lost"}
        found["equal_time"] = {name: timed.count(verdict) for name, verdict in names.items()}
    areas = {name: statistics.area(taus) for name, taus in statistics.profile_taus(there).items()}
    return found | {"clock_profile": areas["learned"], "clock_profiles": areas}


def interquartile_mean(values: np.ndarray) -> float:
    """The mean of the middle half of all (Agarwal et al. 2021)."""
    ordered = np.sort(values, None)
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def _final(losses: np.ndarray, minibatch: bool) -> np.ndarray:
    """[S]; infinite of a seed that diverged."""
    return np.where(np.isfinite(losses).all(1), statistics.final(losses, minibatch), np.inf)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if np.isfinite(values).all() else None


def _time(losses: np.ndarray, level: float, minibatch: bool, seconds: float) -> float | None:
    """Seconds until the mean over seeds, on minibatches also over five steps, is at or below the level.

    None if it never is, or if a seed diverges.
    """
    if not np.isfinite(losses).all():
        return None
    means = losses.mean(0)
    if minibatch:
        means = np.convolve(means, np.full(statistics.LAST, 1 / statistics.LAST), "full")[: len(means)]
        means[: statistics.LAST - 1] = np.inf
    below = np.flatnonzero(means <= level * (1 + 1e-9))
    return float(below[0] * seconds) if len(below) else None


def _speedup(losses: np.ndarray, envelope: np.ndarray) -> float:
    """Steps of tuned Adam over ours for the same loss: that at which Adam ends, or, where we do not reach it, ours at the end.

    Metz et al. 2022 (VeLO), Section 5: Adam's curve is the lower envelope over its learning rates.
    """
    if not np.isfinite(losses).all():
        return 0.0
    ours, last = np.minimum.accumulate(smoothed(losses.mean(0))), len(envelope) - 1
    if ours[-1] <= envelope[-1]:
        return last / max(int(np.argmax(ours <= envelope[-1])), 1)
    return int(np.argmax(envelope <= ours[-1])) / last
