"""Statistics of loss curves: what one number says of a curve, and how sure it is. NumPy and SciPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

RESAMPLES = 10_000
SLOWEST = 4.0  # times the fastest up to which a performance profile is integrated (Dahl et al. 2023, AlgoPerf)
LAST = 5  # steps averaged into `final` where one loss is a noisy sample


def final(losses: np.ndarray, minibatch: bool) -> np.ndarray:
    """f at step T of each seed, [S]; the mean of the last 5 steps on minibatches. losses: [S, T+1]."""
    return losses[:, -LAST:].mean(1) if minibatch else losses[:, -1]


def total(losses: np.ndarray) -> np.ndarray:
    """Σ_{t=0}^{T-1} f(theta_t) of each seed, [S]. losses: [S, T+1]."""
    return losses[:, :-1].sum(1)


def mean_interval(samples: np.ndarray) -> tuple[float | None, tuple[float, float] | None]:
    """Mean and its bootstrap 95 % interval (`_interval`); None, None if a sample is not finite."""
    if not np.isfinite(samples).all():
        return None, None
    (means,) = _resampled_means(samples)
    return float(samples.mean()), _interval(samples.mean(), means, samples)


def ratio_interval(ours: np.ndarray, theirs: np.ndarray) -> tuple[float | None, tuple[float, float] | None]:
    """Ratio of means over the same seeds and its paired bootstrap 95 % interval; None, None if a sample is not finite."""
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()) or theirs.mean() == 0:
        return None, None
    means = _resampled_means(ours, theirs)
    ratio = ours.mean() / theirs.mean()
    return float(ratio), _interval(ratio, means[0] / means[1], ours, theirs)


def _interval(found: float, resampled: np.ndarray, *samples: np.ndarray) -> tuple[float, float]:
    """The 2.5 % and 97.5 % percentiles of the resampled values, moved away from what was found for few samples.

    Of samples none of which is negative the interval ends at 0, which neither a mean of them nor a ratio can be below.

    Resampling S samples understates the variance by (S-1)/S and knows nothing of Student's t, so that percentiles alone miss
    the truth too often: of S = 10, in 11 to 13 of 100. Hesterberg (2015, "What Teachers Should Know about the Bootstrap") moves
    the percentiles by the same factor; here it stretches the interval.
    """
    from scipy.special import ndtri, stdtrit  # a tenth of a second, which a training need not wait for

    ends = np.percentile(resampled, [2.5, 97.5])
    count = len(samples[0])
    wider = 1.0 if count < 2 else stdtrit(count - 1, 0.975) / ndtri(0.975) * np.sqrt(count / (count - 1))
    low, high = (found + wider * (ends - found)).tolist()
    return max(low, 0.0) if all((of >= 0).all() for of in samples) else low, high


def first_at_or_below(losses: np.ndarray, level: float) -> int | None:
    """First step at which the mean over seeds is at or below `level`; None if it never is. losses: [S, T+1]."""
    below = np.nonzero(losses.mean(0) <= level)[0]
    return int(below[0]) if len(below) else None


def pays_from(ours: tuple[np.ndarray, float], theirs: list[tuple[np.ndarray, float]], minibatch: bool) -> int | None:
    """First step from which on `ours` is below all of `theirs` at the same second; None if it never stays there.

    Each is (losses [S, T+1], seconds per step). Compared are means over seeds, on minibatches also over the last 5 steps;
    one that has done its T steps holds its last loss, one that is not finite is no competitor.
    """
    losses, pace = ours
    steps = np.arange(losses.shape[1])
    best = np.full(len(steps), np.inf)
    for other, seconds in theirs:
        level = _level(other, minibatch)
        at = np.minimum(np.floor(steps * (pace / seconds) + 1e-9), len(level) - 1).astype(int)
        best = np.minimum(best, np.where(np.isfinite(level[at]), level[at], np.inf))
    above = np.flatnonzero(~(_level(losses, minibatch) < best))
    first = int(above[-1]) + 1 if len(above) else 0
    return first if first < len(steps) else None


def _level(losses: np.ndarray, minibatch: bool) -> np.ndarray:
    """Mean over seeds at each step, [T+1]; on minibatches the mean of the up to 5 last of these."""
    means = losses.mean(0)
    if not minibatch:
        return means
    return np.array([means[max(0, t + 1 - LAST) : t + 1].mean() for t in range(len(means))])


def diverged(losses: np.ndarray) -> int:
    """Seeds with a loss that is not finite. losses: [S, T+1]."""
    return int((~np.isfinite(losses)).any(1).sum())


def describe(for_final: np.ndarray, for_sum: np.ndarray, minibatch: bool) -> dict[str, Any]:
    """The fields of a summary's `Entry` that follow from the losses of the two tuned rates, [S, T+1] each."""
    last, last_interval = mean_interval(_or_nan(final(for_final, minibatch), for_final))
    whole, whole_interval = mean_interval(_or_nan(total(for_sum), for_sum))
    lost = max(diverged(for_final), diverged(for_sum))
    return {"final": last, "final_ci": last_interval, "sum": whole, "sum_ci": whole_interval, "diverged": lost}


def _or_nan(samples: np.ndarray, losses: np.ndarray) -> np.ndarray:
    # A seed that blew up half-way counts as lost even if its last loss is finite again.
    return np.where(np.isfinite(losses).all(1), samples, np.nan)


def _resampled_means(*samples: np.ndarray) -> list[np.ndarray]:
    """[RESAMPLES] means of each array of S samples, over the same resampled seeds for all of them."""
    # A fixed generator: the same curves give the same interval. In chunks: S may be 100,000.
    generator, size = np.random.default_rng(0), len(samples[0])
    chunk = max(1, 2_000_000 // size)
    parts = []
    for start in range(0, RESAMPLES, chunk):
        rows = generator.integers(0, size, (min(chunk, RESAMPLES - start), size))
        parts.append([sample[rows].mean(1) for sample in samples])
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def profile_taus(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Optimizer -> [tasks] its `seconds_to_target` over the shortest of all, per task; infinite where it misses."""
    names = dict.fromkeys(name for entry in tasks.values() for name in entry["seconds_to_target"])
    times = {name: np.array([entry["seconds_to_target"].get(name) or np.inf for entry in tasks.values()]) for name in names}
    best = np.min(list(times.values()), 0)
    # inf / 1 where nobody reaches it: inf / inf would be no number.
    return {name: of / np.where(np.isfinite(best), best, 1) for name, of in times.items()}


def area(taus: np.ndarray) -> float:
    """∫ rho(tau) dtau from 1 to SLOWEST, over its length, rho the share of tasks with at most tau (Dahl et al. 2023)."""
    return float(np.mean(np.clip(SLOWEST - taus, 0, SLOWEST - 1)) / (SLOWEST - 1))
