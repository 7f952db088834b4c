"""Noise-reuse evolution strategies: one perturbation for a whole episode, and a meta-gradient after each of its windows."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Estimate, Estimator, EstimatorSpec, LearnedOptimizer, Objective, Problem


class NresSpec(EstimatorSpec):
    """Noise-reuse evolution strategies: the same noise in all windows of an episode (Li et al. 2023)."""

    kind: Literal["nres"] = "nres"
    window: int = Field(default=20, ge=1, le=100_000)
    """Steps per meta-gradient; divides the horizon."""
    sigma: float = Field(default=0.01, gt=0, le=10)
    """Standard deviation of the noise that is added to each parameter of the optimizer."""
    clip: float | None = Field(default=None, gt=0)
    """What the two of a pair differ in counts as at most this, so that no pair has the say alone; null: as it is."""


@registry.estimator.register("nres", NresSpec)
def nres(
    spec: NresSpec, problem: Problem, optimizer: LearnedOptimizer, tasks: int, objective: Objective, devices: int = 1
) -> Estimator:
    """Build the estimator: mean_m e_m (L_m^+ − L_m^−) / 2 sigma², L of this window, e_m that of the episode (Li et al. 2023).

    Over the windows of an episode it sums to what `es` gives of the whole episode: unbiased for the smoothed objective, without
    PES's growing variance. Arguments as `autodiff`. Raises ValueError for an optimizer that learns where theta begins.
    """
    import jax

    from l2lcli.estimators import _perturbed

    work = _perturbed.work(problem, optimizer, tasks, objective, spec.window, spec.sigma, spec.clip)

    def init(key, phi, data):
        task_key, noise_key = jax.random.split(key)
        inner = _perturbed.singles(work, task_key, phi, data)
        return _perturbed.Pairs(_perturbed.pairs(inner), _perturbed.noise(work, noise_key, phi))

    def estimate(key, phi, data, state):
        del key  # the noise of an episode is drawn where it begins
        after, parts, losses = _perturbed.run(work, _perturbed.signed(phi, state.noise), state.inner, data)
        found = Estimate(_perturbed.slope(work, parts, state.noise), parts.mean(), losses.mean((0, 1)))
        return found, state._replace(inner=after)

    return Estimator(init, estimate)
