"""What meta-training makes low, against formulas written down by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from l2lcli import registry
from l2lcli.base import Inner, Objective
from l2lcli.config.specs import TrainSpec
from l2lcli.inner.flat import flat
from l2lcli.inner.objective import of_window, slopes
from l2lcli.optimizers.hand import hand
from l2lcli.problems.quadratic import QuadraticSpec

SCORES = jnp.array([4.0, 2.0, 1.0])


def at(t, horizon, first=3.0):
    nothing = jnp.zeros(())
    return Inner((), (), (), nothing, jnp.int32(t), jnp.int32(horizon), jnp.float32(first), nothing, ())


def test_plain_is_the_weighted_sum():
    assert of_window(Objective((9.0, 1.0, 2.0, 3.0)), SCORES, at(1, 4)) == 4 + 2 * 2 + 3 * 1


def test_measures():
    np.testing.assert_allclose(of_window(Objective((1.0,) * 3, measure="relative"), SCORES, at(0, 3)), 7 / 3, rtol=1e-6)
    np.testing.assert_allclose(of_window(Objective((1.0,) * 3, measure="log"), SCORES, at(0, 3)), np.log(8), rtol=1e-6)
    assert of_window(Objective((1.0,) * 3, cut=1.0), SCORES, at(0, 3)) == 3 + 2 + 1
    assert of_window(Objective((1.0,) * 3, cut=1.0), jnp.array([jnp.inf, 2.0, 1.0]), at(0, 3)) == 6


def test_the_last_part_of_a_runs_own_horizon_counts():
    objective = Objective((1.0,) * 10, last=0.5)
    assert of_window(objective, SCORES, at(0, 4)) == 2 * 1.0  # steps 3 and 4 of 4; 3 of these steps are 1, 2, 3
    assert of_window(objective, SCORES, at(5, 8)) == 2 * 7.0
    assert of_window(objective, SCORES, at(0, 10)) == 0


def test_slopes_are_the_derivatives_by_each_loss():
    found = slopes(Objective((1.0, 2.0, 1.0), measure="log"), SCORES, at(0, 3))
    np.testing.assert_allclose(found, [1 / 4, 2 / 2, 1], rtol=1e-6)
    assert not np.asarray(slopes(Objective((1.0,) * 3, cut=0.5), SCORES, at(0, 3)))[:2].any()
    assert np.isfinite(jax.device_get(slopes(Objective((1.0,) * 3, measure="log"), jnp.zeros(3), at(0, 3)))).all()


def test_the_last_step_of_each_window_counts():
    """Against sums of a training run written out, one window after the other."""
    problem = registry.problem.build(QuadraticSpec(dimension=3), None)
    spec = TrainSpec(horizon=6, tasks=2, weights="window", estimator=registry.estimator.specs()["replay"](window=2))
    assert spec.step_weights == (0, 1, 0, 1, 0, 1)
    family, key = flat(hand("sgd", 0.01)), jax.random.key(0)
    phi, found = family.init(key, None), {}
    for kind in ("replay", "autodiff"):
        estimator = registry.estimator.build(registry.estimator.specs()[kind](window=2), problem, family, 2, spec.objective)
        state, found[kind], estimate = jax.jit(estimator.init)(key, phi, ()), [], jax.jit(estimator.estimate)
        for _ in range(3):
            result, state = estimate(key, phi, (), state)
            found[kind].append(jax.device_get((result.loss, result.grad["log_learning_rate"])))
    expected = []
    starts = [problem.init(jax.random.split(one)[0], ()) for one in jax.random.split(key, 2)]
    tasks = [[np.asarray(array, np.float64) for array in (theta["theta"], *task)] for theta, task in starts]
    for _ in range(3):
        loss = slope = 0.0
        for i, (theta, w, y) in enumerate(tasks):
            moved = np.zeros(3)
            for _ in range(2):  # theta moves by -rate g, and so by -rate g more for each 1 that log rate grows
                step = -0.01 * 2 * w.T @ (w @ theta - y)
                theta, moved = theta + step, moved + step
            residual = w @ theta - y
            loss, slope = loss + residual @ residual / 2, slope + 2 * (w.T @ residual) @ moved / 2
            tasks[i] = [theta, w, y]
        expected.append((loss, slope))
    for kind, of_kind in found.items():
        np.testing.assert_allclose(of_kind, expected, rtol=1e-4, err_msg=kind)
