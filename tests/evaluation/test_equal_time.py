"""After equal times: as many steps as fit, a rate that is tuned for them, and the same figures from the same times."""

import jax
import numpy as np
import pytest

from l2lcli.evaluation import compare, curves, statistics
from l2lcli.evaluation.equal_time import PACE, equal_time, steps_within
from l2lcli.optimizers.hand import hand
from l2lcli.reports import tables
from l2lcli.signals import UNWATCHED
from tests.evaluation.test_compare import parabola, rate_phi

PROBLEM, KEYS = parabola(noise=1.0), (jax.random.split(jax.random.key(1), 8), jax.random.split(jax.random.key(2), 20))


def test_steps_that_fit():
    given = ((3.0, 1.0, 10), (1.0, 3.0, 10), (1.0, 1.0, 7), (0.1, 0.3, 3), (1.0, 100.0, 5))
    assert [steps_within(*each) for each in given] == [30, 3, 7, 1, 1]


def test_a_baseline_is_tuned_for_the_steps_that_it_is_given():
    ours = curves.curves(PROBLEM, hand("sgd"), rate_phi(0.25), KEYS[1], 10, 10).losses
    found, longer = equal_time(
        PROBLEM, ours, {"x": 6.0, "nag_cosine": 1.0, "sgd": 3.0}, "x", ["nag_cosine", "sgd"], KEYS, UNWATCHED
    )
    assert found.steps == {"nag_cosine": 60, "sgd": 20}
    for name, steps in found.steps.items():  # by hand: that many steps, tuned and run
        rate = curves.tune(PROBLEM, name, KEYS[0], steps)["final"]
        losses = curves.curves(PROBLEM, hand(name, horizon=steps), rate_phi(rate), KEYS[1], steps, steps).losses
        assert found.learning_rates[name] == rate
        np.testing.assert_allclose(longer[name].losses, losses, rtol=1e-6)
        assert found.final[name] == pytest.approx(losses[:, -5:].mean(), rel=1e-6)
    assert found.best == min(found.final, key=found.final.get)
    expected = statistics.ratio_interval(ours[:, -5:].mean(1), longer[found.best].losses[:, -5:].mean(1))
    np.testing.assert_allclose([found.ratio, *found.ratio_ci], [expected[0], *expected[1]], rtol=1e-6)


def test_one_that_diverged_cannot_be_compared():
    ours = np.full((20, 11), np.nan)
    found, _ = equal_time(PROBLEM, ours, {"x": 1.0, "sgd": 1.0}, "x", ["sgd"], KEYS, UNWATCHED)
    assert found.best == "sgd" and found.ratio is None


def test_the_times_that_are_remembered_decide_and_not_the_clock():
    times, asked = {"half": 4.0, "sgd": 1.0}, []

    def remember(what, steps, find):
        asked.append((what, steps))
        return times if what == PACE else find()

    learned = ("half", hand("sgd"), rate_phi(0.5))
    options = {"steps": 6, "seeds": 5, "tuning_seeds": 3, "metrics_every": 6, "equal_time": True, "remember": remember}
    found = [compare.compare(PROBLEM, "p", learned, ["sgd"], jax.random.key(1), **options) for _ in range(2)]
    assert asked[:3] == [("sgd", 6), (PACE, 6), ("sgd", 24)]
    assert found[0].summary == found[1].summary
    assert found[0].curves["sgd@time"].losses.shape == (5, 25)
    said = tables.at_equal_time(found[0].summary)
    assert said.startswith("In the time of half's 6 steps its final loss is") and "sgd's after 24 steps" in said
