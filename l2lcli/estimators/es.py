"""Evolution strategies: the meta-gradient of a smoothed objective, by antithetic pairs of perturbed optimizers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Estimate, Estimator, EstimatorSpec, LearnedOptimizer, Objective, Problem


class EsSpec(EstimatorSpec):
    """Evolution strategies: phi ± noise, drawn anew for each window, on the same starts and minibatches."""

    kind: Literal["es"] = "es"
    window: int = Field(default=100, ge=1, le=100_000)
    """Steps per meta-gradient; divides the horizon. Shorter than it, what a window does to later ones is not seen."""
    sigma: float = Field(default=0.01, gt=0, le=10)
    """Standard deviation of the noise that is added to each parameter of the optimizer."""
    clip: float | None = Field(default=None, gt=0)
    """What the two of a pair differ in counts as at most this, so that no pair has the say alone; null: as it is."""


@registry.estimator.register("es", EsSpec)
def es(
    spec: EsSpec, problem: Problem, optimizer: LearnedOptimizer, tasks: int, objective: Objective, devices: int = 1
) -> Estimator:
    """Build the estimator of d/dphi E_e[L(phi + e)], e ~ N(0, sigma²): mean_m e_m (L_m(phi + e_m) − L_m(phi − e_m)) / 2 sigma².

    One pair for each of M tasks (Salimans et al. 2017; Metz et al. 2019). From window to window an episode is carried on by
    phi itself. Arguments as `autodiff`. Raises ValueError for an optimizer that learns where theta begins.
    """
    import jax

    from l2lcli.estimators import _perturbed

    work = _perturbed.work(problem, optimizer, tasks, objective, spec.window, spec.sigma, spec.clip)
    truncated = spec.window < len(objective.weights)

    def estimate(key, phi, data, state):
        noise = _perturbed.noise(work, key, phi)
        after, parts, losses = _perturbed.run(work, _perturbed.signed(phi, noise), _perturbed.pairs(state), data)
        if truncated:
            same = jax.tree.map(lambda leaf: jax.numpy.broadcast_to(leaf[None], (tasks, *leaf.shape)), phi)
            after, _, _ = _perturbed.run(work, same, state, data, paired=False)
        else:  # the episode is over: where it stands does not matter any more
            t, horizon = after.t, after.horizon
            after = jax.tree.map(lambda leaf: leaf[:, 0], after._replace(t=None, horizon=None))._replace(t=t, horizon=horizon)
        return Estimate(_perturbed.slope(work, parts, noise), parts.mean(), losses.mean((0, 1))), after

    return Estimator(lambda key, phi, data: _perturbed.singles(work, key, phi, data), estimate)
