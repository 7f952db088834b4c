"""Estimators by perturbation, against a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2lcli import registry
from l2lcli.base import LearnedOptimizer, Objective, Problem
from l2lcli.inner.transformation import transformation

T, EPISODES, M = 10, 12_000, 500
PHI = {"step": jnp.float32(0.3)}


def constant_steps():
    """theta_{t+1} = theta_t + phi."""

    def bind(phi):
        return transformation(
            lambda theta: (), lambda grad, state, theta=None, **extra: (jnp.full_like(grad, phi["step"]), state)
        )

    return LearnedOptimizer(lambda key, theta: PHI, bind)


def parabola():
    """f(theta) = theta² / 2 from theta_0 ~ N(0, 1)."""
    return Problem(
        lambda key, data: (jax.random.normal(key), ()), lambda key, task, data: (), lambda x, batch: x**2 / 2, {"train": ()}
    )


EXACT = sum(t * t for t in range(1, T + 1)) * 0.3  # d/dphi E Σ_t (theta_0 + t phi)² / 2


def estimates(kind, window, **more):
    """One for each of the meta-batches: the sum over an episode's windows, with phi held fixed."""
    spec = registry.estimator.specs()[kind](window=window, **more)
    made = registry.estimator.build(spec, parabola(), constant_steps(), M, Objective((1.0,) * T))

    @jax.jit
    def episode(key):
        state, total = made.init(key, PHI, ()), 0.0
        for i in range(T // window):
            found, state = made.estimate(jax.random.fold_in(key, i), PHI, (), state)
            total += found.grad["step"]
        return total

    return np.array([episode(key) for key in jax.random.split(jax.random.key(0), EPISODES // M)])


@pytest.mark.parametrize(("kind", "window"), [("es", T), ("pes", 2), ("nres", 2)])
def test_they_are_unbiased(kind, window):
    """L is quadratic in phi, so that smoothing changes nothing: 12,000 episodes, within three standard errors."""
    found = estimates(kind, window, sigma=0.1)
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert error < 0.1 * EXACT, error
    assert abs(found.mean() - EXACT) < 3 * error, (found.mean(), EXACT, error)


def test_truncated_back_propagation_is_not():
    found = estimates("autodiff", 2, second_order=True)
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert abs(found.mean() - EXACT) > 10 * error, (found.mean(), EXACT, error)
    whole = estimates("autodiff", T, second_order=True)
    assert abs(whole.mean() - EXACT) < 3 * whole.std(ddof=1) / np.sqrt(len(whole))


def test_truncated_es_carries_an_episode_on_by_phi_itself():
    spec = registry.estimator.specs()["es"](window=2, sigma=0.5)
    made = registry.estimator.build(spec, parabola(), constant_steps(), 3, Objective((1.0,) * T))
    state = made.init(jax.random.key(0), PHI, ())
    _, after = made.estimate(jax.random.key(1), PHI, (), state)
    np.testing.assert_allclose(after.theta, state.theta + 2 * 0.3, rtol=1e-5)
    assert after.t == 2


def test_a_learned_start_is_refused():
    optimizer = registry.optimizer.build(registry.optimizer.specs()["meta_sgd"]())
    with pytest.raises(ValueError, match="learns where theta begins"):
        registry.estimator.build(registry.estimator.specs()["pes"](window=2), parabola(), optimizer, 1, Objective((1.0,) * 2))


def test_one_that_explodes_has_no_say_where_pairs_are_cut():
    spec = registry.estimator.specs()["es"](window=2, sigma=0.5, clip=1.0)
    problem = parabola()._replace(loss=lambda x, batch: jnp.where(x > 0.6, jnp.nan, x))
    made = registry.estimator.build(spec, problem, constant_steps(), 64, Objective((1.0,) * 2))
    found, _ = made.estimate(jax.random.key(1), PHI, (), made.init(jax.random.key(0), PHI, ()))
    assert np.isfinite(found.grad["step"]) and abs(found.grad["step"]) < 2
