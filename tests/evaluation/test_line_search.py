"""Baselines that search along lines, against SciPy on the same function written in NumPy, and what an evaluation costs."""

from typing import Any

import jax
import numpy as np
import pytest
import scipy.optimize

from l2lcli import registry
from l2lcli.config import ConfigError, load
from l2lcli.config.specs import LINE_SEARCH
from l2lcli.evaluation import compare, curves, line_search
from l2lcli.experiment import build
from l2lcli.optimizers.hand import hand
from l2lcli.signals import UNWATCHED

KEYS = jax.random.split(jax.random.key(0), 3)
STEPS = 25


@pytest.fixture(scope="module")
def quadratics():
    kinds: Any = registry.problem.specs()
    return registry.problem.build(kinds["quadratic"](dimension=5, start="gaussian", start_scale=1.0), None)


@pytest.mark.parametrize("name", LINE_SEARCH)
def test_a_loss_is_the_least_of_as_many_evaluations_by_scipy(quadratics, name):
    found, seconds, images = line_search.line_search(quadratics, name, KEYS, STEPS, 10, UNWATCHED)
    assert found.losses.shape == (3, STEPS + 1) and seconds is not None and seconds > 0 and images is None
    beside = curves.curves(quadratics, hand("sgd"), {"log_learning_rate": np.float32(-9)}, KEYS, 1, 1)
    np.testing.assert_allclose(found.losses[:, 0], beside.losses[:, 0], rtol=1e-6)  # the same optimizees
    for key, losses in zip(KEYS, found.losses, strict=True):
        theta, (w, y) = quadratics.init(jax.random.split(key)[0], ())
        (w, y, x), seen = (np.asarray(a, np.float64).squeeze() for a in (w, y, theta["theta"])), []

        def f(x, w=w, y=y, seen=seen):
            seen.append(((w @ x - y) ** 2).sum())
            return seen[-1], 2 * w.T @ (w @ x - y)

        scipy.optimize.minimize(f, x, jac=True, method={"bfgs": "BFGS", "lbfgs": "L-BFGS-B"}.get(name, "CG"))
        best = np.minimum.accumulate(seen)[:8]  # what rounding in float32 does to line searches grows from there
        np.testing.assert_allclose(losses[: len(best)], best, rtol=1e-3, atol=1e-5)
    assert (np.diff(found.losses) <= 0).all() and found.losses[:, -1].max() < 1e-3 * found.losses[:, 0].min()


def test_it_is_a_row_of_the_comparison_that_nothing_was_tuned_for(quadratics):
    found = compare.compare(
        quadratics, "q", None, ["sgd", "lbfgs"], jax.random.key(1), steps=20, seeds=3, tuning_seeds=2, metrics_every=20
    ).summary
    assert found.best_baseline is not None and found.best_baseline.final == "lbfgs"
    entry = found.optimizers["lbfgs"]
    assert entry.rate("final") is None and entry.diverged == 0 and (entry.seconds_per_step or 0) > 0


def test_a_loss_that_changes_from_step_to_step_has_no_line():
    config = load({"problem": {"kind": "classification", "dataset": "digits"}, "eval": {"baselines": ["adam", "lbfgs"]}})
    with pytest.raises(ConfigError, match="lbfgs searches along a line of one loss"):
        build(config)
    with pytest.raises(ConfigError, match="lbfgs is compared at equal steps alone"):
        load({"eval": {"baselines": ["lbfgs"], "equal_time": True}})
