"""Persistent evolution strategies: short windows, and yet the gradient of the whole episode."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Estimate, Estimator, EstimatorSpec, LearnedOptimizer, Objective, Problem


class PesSpec(EstimatorSpec):
    """Persistent evolution strategies: new noise in each window, all noise of the episode remembered (Vicol et al. 2021)."""

    kind: Literal["pes"] = "pes"
    window: int = Field(default=20, ge=1, le=100_000)
    """Steps per meta-gradient; divides the horizon."""
    sigma: float = Field(default=0.01, gt=0, le=10)
    """Standard deviation of the noise that is added to each parameter of the optimizer, in each window."""
    clip: float | None = Field(default=None, gt=0)
    """What the two of a pair differ in counts as at most this, so that no pair has the say alone; null: as it is."""


@registry.estimator.register("pes", PesSpec)
def pes(
    spec: PesSpec, problem: Problem, optimizer: LearnedOptimizer, tasks: int, objective: Objective, devices: int = 1
) -> Estimator:
    """Build the estimator: mean_m (Σ_{windows so far} e_m) (L_m^+ − L_m^−) / 2 sigma², L of this window (Vicol et al. 2021).

    Unbiased for the smoothed objective of whole episodes, in which each window has noise of its own; its variance grows with
    the windows of an episode. Arguments as `autodiff`. Raises ValueError for an optimizer that learns where theta begins.
    """
    import jax
    import jax.numpy as jnp

    from l2lcli.estimators import _perturbed

    work = _perturbed.work(problem, optimizer, tasks, objective, spec.window, spec.sigma, spec.clip)

    def init(key, phi, data):
        nothing = jax.tree.map(lambda leaf: jnp.zeros((tasks, *leaf.shape), leaf.dtype), phi)
        return _perturbed.Pairs(_perturbed.pairs(_perturbed.singles(work, key, phi, data)), nothing)

    def estimate(key, phi, data, state):
        noise = _perturbed.noise(work, key, phi)
        after, parts, losses = _perturbed.run(work, _perturbed.signed(phi, noise), state.inner, data)
        whole = jax.tree.map(jnp.add, state.noise, noise)
        found = Estimate(_perturbed.slope(work, parts, whole), parts.mean(), losses.mean((0, 1)))
        return found, _perturbed.Pairs(after, whole)

    return Estimator(init, estimate)
