"""Evaluation against closed forms: tuning finds the known best rate, the comparison is paired, statistics are what they say."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2lcli.base import Problem, Spec
from l2lcli.evaluation import compare, curves, statistics
from l2lcli.evaluation.summary import BestBaseline
from l2lcli.optimizers.hand import hand


class Plain(Spec):
    kind: Literal["plain"] = "plain"


def parabola(curvature=1.0, noise=0.0):
    """f = curvature x² / 2 from x ~ N(0, 1): after t steps of gradient descent x = (1 - rate·curvature)^t x_0."""

    def batch(key, task, data):
        return noise * jax.random.normal(key)

    return Problem(
        init=lambda key, data: (jax.random.normal(key), ()),
        batch=batch,
        loss=lambda x, e: 0.5 * curvature * (x - e) ** 2,
        data={"train": (), "test": ()},
        minibatch=noise > 0,
        metrics=lambda x, data: {"distance": jnp.abs(x)},
    )


KEYS = jax.random.split(jax.random.key(0), 4)


def rate_phi(rate):
    return {"log_learning_rate": jnp.log(jnp.float32(rate))}


def test_curves_have_their_closed_form():
    found = curves.curves(parabola(), hand("sgd"), rate_phi(0.25), KEYS, steps=7, every=3)
    start = np.sqrt(2 * found.losses[:, :1])
    np.testing.assert_allclose(found.losses, 0.5 * (start * 0.75 ** np.arange(8)) ** 2, rtol=1e-4)
    assert found.steps.tolist() == [0, 3, 6, 7]
    np.testing.assert_allclose(found.metrics["distance"], start * 0.75 ** np.array([0, 3, 6, 7]), rtol=1e-4)
    assert len(np.unique(start)) == 4


@pytest.mark.parametrize("curvature", [1.0, 1e-3, 1e4])
def test_tuning_finds_the_best_rate_and_extends_its_grid(curvature):
    """One step of rate 1/curvature lands in the minimum; the first grid ends at 1e-4 and 10."""
    found = curves.tune(parabola(curvature), "sgd", KEYS, 10)
    nearest = 10 ** (np.round(3 * np.log10(1 / curvature)) / 3)
    np.testing.assert_allclose([found["final"], found["sum"]], nearest, rtol=1e-5)


def test_each_metric_has_a_rate_of_its_own():
    """With noisy gradients a small step is best in the end, and a large one on the way there."""
    found = curves.tune(parabola(noise=3.0), "sgd", KEYS, 100)
    assert found["final"] < found["sum"]


def test_a_rate_at_which_a_seed_blows_up_is_never_chosen():
    assert curves.tune(parabola(1e12), "sgd", KEYS, 40)["final"] < 2e-12


def test_a_cosine_baseline_decays_to_zero_at_the_last_step():
    """At rate zero the noise of the gradient moves nothing any more, which a constant rate never stops paying for."""
    found = compare.compare(
        parabola(noise=1.0), "p", None, ["nag", "nag_cosine"], jax.random.key(1),
        steps=60, seeds=50, tuning_seeds=20, metrics_every=1,
    )  # fmt: skip
    moved = {name: np.abs(np.diff(c.metrics["distance"])).mean(0) for name, c in found.curves.items()}
    assert moved["nag_cosine"][-1] < 0.02 * moved["nag_cosine"][:5].mean()


def test_comparison_is_paired_and_complete():
    learned = ("half", hand("sgd"), rate_phi(0.5))
    found = compare.compare(
        parabola(), "parabola", learned, ["sgd", "adam"], jax.random.key(1), steps=6, seeds=5, tuning_seeds=3, metrics_every=4
    )
    summary, curves = found.summary, found.curves
    assert all((c.losses[:, 0] == curves["half"].losses[:, 0]).all() for c in curves.values())  # the same starts
    assert (summary.problem, summary.learned, summary.steps, summary.seeds) == ("parabola", "half", 6, 5)
    assert summary.optimizers["half"].phi_final is None
    for name, entry in summary.optimizers.items():
        assert entry.final == pytest.approx(curves[name].losses[:, 6].mean())
        best_for_sum = curves.get(f"{name}@sum", curves[name]).losses
        assert entry.sum == pytest.approx(best_for_sum[:, :6].sum(1).mean())
        assert entry.final_ci[0] <= entry.final <= entry.final_ci[1]
        assert entry.seconds_per_step > 0 and entry.diverged == 0
        assert entry.test["distance"] == pytest.approx(curves[name].metrics["distance"][:, -1].mean())
    assert summary.optimizers["sgd"].phi_final.learning_rate == pytest.approx(1.0)
    assert summary.best_baseline == BestBaseline(final="sgd", sum="sgd")
    ours, best = summary.optimizers["half"], summary.optimizers["sgd"]
    assert summary.ratio_sum == pytest.approx(ours.sum / best.sum)
    assert summary.dump()["pays"] == {"step": None, "seconds": None}  # sgd at rate 1 is at zero at once
    # Every seed's sum is in the same proportion to its start, so a paired interval has no width at all.
    np.testing.assert_allclose(summary.ratio_sum_ci, summary.ratio_sum, rtol=1e-4)
    assert ours.sum_ci[1] > 1.05 * ours.sum_ci[0]


def test_a_learned_optimizer_that_blows_up_is_lost_and_so_are_the_ratios():
    learned = ("wild", hand("sgd"), rate_phi(1e30))
    found = compare.compare(
        parabola(), "p", learned, ["sgd"], jax.random.key(1), steps=6, seeds=3, tuning_seeds=2, metrics_every=6
    )
    wild = found.summary.optimizers["wild"]
    assert (wild.diverged, wild.final, wild.sum) == (3, None, None)
    assert found.summary.ratio_final is None and found.summary.ratio_sum_ci is None
    assert found.summary.best_baseline.final == "sgd"


def test_tuning_seeds_are_not_the_reported_ones():
    problem, root = parabola(noise=1.0), jax.random.key(2)
    kwargs = {"steps": 5, "seeds": 3, "metrics_every": 5}
    few, many = (compare.compare(problem, "p", None, ["sgd"], root, tuning_seeds=n, **kwargs) for n in (2, 40))
    starts = [found.curves["sgd"].losses[:, 0] for found in (few, many)]
    np.testing.assert_array_equal(*starts)  # however many are tuned on


def test_final_is_the_last_step_or_the_mean_of_the_last_five():
    losses = np.arange(20.0).reshape(2, 10)
    assert statistics.final(losses, minibatch=False).tolist() == [9, 19]
    assert statistics.final(losses, minibatch=True).tolist() == [7, 17]
    assert statistics.total(losses).tolist() == [sum(range(9)), sum(range(10, 19))]
    assert statistics.first_at_or_below(losses[:, ::-1], 6.0) == 8
    assert statistics.first_at_or_below(losses, -1.0) is None


def test_paying_is_staying_below_everyone_by_the_clock():
    """A loss of 1/(1 + t) at twice the time a step against one that stands at .3, and one that is faster but lost."""
    t = np.arange(11)
    ours, flat = np.tile(1 / (1 + t), (2, 1)), np.full((2, 11), 0.3)
    assert statistics.pays_from((ours, 2.0), [(flat, 1.0), (np.full((2, 11), np.nan), 1.0)], False) == 3  # 1/4 < .3
    assert statistics.pays_from((ours, 2.0), [(ours, 1.0)], False) is None  # it holds 1/11, which we only reach at the end
    assert statistics.pays_from((ours, 2.0), [(ours * 1.5, 1.0)], False) == 7  # 1/8 < 1.5/11, and 1/7 is not
    assert statistics.pays_from((ours, 1.0), [(1.5 * ours, 1.0)], False) == 0
    assert statistics.pays_from((ours, 1.0), [(1.5 * ours, 4.0)], False) == 0
    late = np.where(t == 8, 1.0, ours)  # above for one step
    assert statistics.pays_from((late, 2.0), [(flat, 1.0)], False) == 9
    # On minibatches the mean of five steps: (1/6 + 1/7 + 1/8 + 1 + 1/10) / 5 = .307 at step 9, .292 at step 10.
    assert statistics.pays_from((late, 2.0), [(flat, 1.0)], True) == 10
    assert statistics.pays_from((np.where(t == 3, np.nan, ours), 2.0), [(flat, 1.0)], False) == 4


def test_bootstrap_interval_agrees_with_the_normal_one():
    samples = np.random.default_rng(1).normal(3.0, 2.0, 400)
    mean, (low, high) = statistics.mean_interval(samples)
    half = 1.96 * samples.std() / 20
    np.testing.assert_allclose([low, mean, high], [mean - half, samples.mean(), mean + half], atol=0.02)
    ratio, (low, high) = statistics.ratio_interval(2 * samples, samples)
    np.testing.assert_allclose([low, ratio, high], 2.0)
    assert statistics.mean_interval(np.array([1.0, np.nan])) == (None, None)
    assert statistics.mean_interval(np.array([3.0])) == (3.0, (3.0, 3.0))


def test_intervals_of_ten_networks_hold_the_truth_95_times_in_100():
    # Percentiles alone hold it 88 times in 100 here.
    draws = np.exp(0.3 * np.random.default_rng(1).normal(size=(400, 2, 10)))
    truth = np.exp(0.3**2 / 2)
    means = [statistics.mean_interval(ours)[1] for ours, _ in draws]
    ratios = [statistics.ratio_interval(*pair)[1] for pair in draws]
    for intervals, inside in ((means, truth), (ratios, 1.0)):
        assert 0.92 <= np.mean([low <= inside <= high for low, high in intervals]) <= 0.97


def test_an_interval_of_what_is_never_negative_ends_at_0():
    heavy = np.append(np.zeros(3), 1.0)
    assert statistics.mean_interval(heavy)[1][0] == 0 == statistics.ratio_interval(heavy, np.ones(4))[1][0]
    assert statistics.mean_interval(heavy - 1e-6)[1][0] < -0.1  # what may be negative may have a mean below
