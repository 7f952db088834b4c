"""Baselines with as many steps as fit into the learned optimizer's time, at rates tuned for that many."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np

from l2lcli.base import Key, Problem
from l2lcli.evaluation import statistics
from l2lcli.evaluation.curves import Curves, curves, tune
from l2lcli.evaluation.summary import EqualTime
from l2lcli.optimizers.hand import hand
from l2lcli.signals import Progress

PACE = "pace"  # what `Remember` calls the seconds per step
Remember: TypeAlias = Callable[[str, int, Callable[[], dict[str, float]]], dict[str, float]]
"""(what, T, finding it) -> numbers by name, found before or now: a baseline's rates {"final", "sum"}, of `PACE` seconds."""


def at_once(what: str, steps: int, find: Callable[[], dict[str, float]]) -> dict[str, float]:
    """A `Remember` that remembers nothing."""
    return find()


def steps_within(learned: float, baseline: float, steps: int) -> int:
    """Steps of a baseline in the time of so many of the learned optimizer's, at least 1. Seconds per step of both."""
    return max(1, math.floor(steps * learned / baseline + 1e-9))


def equal_time(
    problem: Problem,
    losses: np.ndarray,
    seconds: Mapping[str, float],
    learned: str,
    baselines: list[str],
    keys: tuple[Key, Key],
    progress: Progress,
    remember: Remember = at_once,
) -> tuple[EqualTime, dict[str, Curves]]:
    """Compare final losses after equal times.

    Args:
      problem: f.
      losses: of the learned optimizer, [S, T+1].
      seconds: per step, the gradient included, of the learned one and the baselines.
      learned: its name.
      baselines: names that `hand` knows; with a cosine, it falls over the steps that fit.
      keys: of the tuning seeds, and of the S that are reported.
      progress: told what is being done, and asked between dispatches.
      remember: where rates come from.

    Returns:
      What was found; each baseline's curves, [S, steps that fit + 1].
    """
    tuning, reported = keys
    counts, rates, found, means = {}, {}, {}, {}
    for name in baselines:
        counts[name] = count = steps_within(seconds[learned], seconds[name], losses.shape[1] - 1)

        def find(name: str = name, count: int = count) -> dict[str, float]:
            progress.say(f"tuning {name} for {count:,} steps, which take as long as those of {learned}")
            return tune(problem, name, tuning, count, progress)

        rates[name] = rate = remember(name, count, find)["final"]
        phi = {"log_learning_rate": jnp.float32(math.log(rate))}
        found[name] = curves(problem, hand(name, horizon=count), phi, reported, count, count)
        progress.check()
        means[name], _ = statistics.mean_interval(_final(found[name].losses, problem.minibatch))
    standing = {name: mean for name, mean in means.items() if mean is not None}
    best = min(standing, key=standing.__getitem__) if standing else None
    ratio = interval = None
    if best is not None and np.isfinite(losses).all():
        ratio, interval = statistics.ratio_interval(
            statistics.final(losses, problem.minibatch), statistics.final(found[best].losses, problem.minibatch)
        )
    return EqualTime(steps=counts, learning_rates=rates, final=means, best=best, ratio=ratio, ratio_ci=interval), found


def _final(losses: np.ndarray, minibatch: bool) -> np.ndarray:
    """[S]; not a number of a seed that diverged."""
    return np.where(np.isfinite(losses).all(1), statistics.final(losses, minibatch), np.nan)
