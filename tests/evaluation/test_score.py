"""What a score says, against curves made by hand."""

import math

import numpy as np
import pytest

from l2lcli.evaluation import score, statistics
from l2lcli.evaluation.score import Reference

T, S = 40, 20


def falling(end, noise=0.0, steps=T):
    rng = np.random.default_rng(int(1000 * end))
    return np.linspace(1, end, steps + 1)[None] + noise * rng.normal(size=(S, steps + 1))


def against(**ends):
    losses = {name: falling(end, 0.01) for name, end in ends.items()}
    return Reference(dict.fromkeys(ends, 0.1), {}, losses, {name: {} for name in ends}, np.minimum.accumulate(falling(0.4)[0]))


def judged(losses, reference):
    seconds = {"learned": 2.0, **dict.fromkeys(reference.rates, 1.0)}
    return score.judged(losses, {}, reference, True, seconds)


def test_the_better_baseline_is_the_one_that_counts():
    found = judged(falling(0.3, 0.01), against(adam=0.5, nag=0.4))
    assert found["baseline"] == "nag" and found["verdict"] == "won"
    level = np.linspace(1, 0.3, T + 1)[-5:].mean() / np.linspace(1, 0.4, T + 1)[-5:].mean()
    assert found["ratio_final"] == pytest.approx(level, abs=0.02)
    assert judged(falling(0.45, 0.01), against(adam=0.5, nag=0.4))["verdict"] == "lost"
    assert judged(falling(0.4, 0.3), against(adam=0.5, nag=0.4))["verdict"] == "undecided"


def test_one_seed_that_diverges_is_a_loss():
    losses = falling(0.1, 0.01)
    losses[3, 7] = np.inf
    found = judged(losses, against(adam=0.5))
    assert (found["verdict"], found["diverged"], found["speedup"]) == ("lost", 1, 0.0)
    assert found["seconds_to_target"]["learned"] is None


def test_a_baseline_that_diverged_is_no_better_one():
    reference = against(adam=0.5, nag=0.4)
    reference.losses["nag"][0, -1] = np.nan
    assert judged(falling(0.45, 0.01), reference)["baseline"] == "adam"


def test_speedup_is_steps_of_adam_over_ours_for_the_same_loss():
    envelope = score.smoothed(np.linspace(1, 0.5, 101))
    same = np.repeat(np.linspace(1, 0.5, 101)[None], 3, 0)
    assert score._speedup(same, envelope) == pytest.approx(1, abs=0.02)
    twice = np.concatenate([np.linspace(1, 0.5, 51), np.full(50, 0.5)])[None]
    assert 1.2 < score._speedup(twice, envelope) < 2  # smoothing lags by some twenty steps
    half = np.repeat(np.linspace(1, 0.75, 101)[None], 3, 0)
    assert score._speedup(half, envelope) == pytest.approx(0.56, abs=0.1)


def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end():
    assert score.interquartile_mean(np.array([-100.0, 1.0, 2.0, math.inf])) == 1.5


def test_the_profile_is_the_area_under_the_share_of_problems():
    assert statistics.area(np.array([1.0, 1.0])) == 1 and statistics.area(np.array([np.inf, 5.0])) == 0
    assert statistics.area(np.array([1.0, 2.5])) == pytest.approx(0.75)


def test_all_problems_together():
    tasks = {"a": judged(falling(0.3, 0.01), against(adam=0.5)), "b": judged(falling(0.45, 0.01), against(adam=0.5))}
    tasks["c"] = {"verdict": "missing", "ratio_final": None, "ratio_final_ci": None, "why": "no file"}
    found = score.together(tasks)
    assert (found["wins"], found["losses"], found["missing"]) == (2, 0, 1)
    low, high = found["iqm_log_ratio_ci"]
    assert low < found["iqm_log_ratio"] < high < 0
    assert found["clock_profiles"]["adam"] == 1  # at half our seconds a step it is first on both
    assert 0 < found["clock_profile"] < 1
    assert score.together({"c": tasks["c"]})["iqm_log_ratio"] is None
