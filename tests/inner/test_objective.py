"""What meta-training makes low, against formulas written down by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from l2lcli.base import Inner, Objective
from l2lcli.inner.objective import of_window, slopes

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
