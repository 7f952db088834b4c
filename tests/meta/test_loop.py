"""The outer loop against one written out, and what it does with meta-gradients that are not finite."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2lcli import registry
from l2lcli.base import Estimate, Estimator, Objective
from l2lcli.config.specs import MetaOptimizerSpec, TrainSpec
from l2lcli.estimators.autodiff import AutodiffSpec, autodiff
from l2lcli.inner.unroll import fresh, namespace, unroll
from l2lcli.meta.loop import Record, run
from l2lcli.meta.optimizer import factors, learning_rate
from l2lcli.meta.steps import CAPACITY, meta_training
from l2lcli.optimizers.lstm import LstmSpec, lstm
from l2lcli.problems.quadratic import QuadraticSpec

PROBLEM = registry.problem.build(QuadraticSpec(dimension=3), None)
FAMILY = lstm(LstmSpec(layers=1, hidden=3))
ROOT = jax.random.key(0)
PHI = FAMILY.init(jax.random.key(1), {"theta": jnp.zeros(3)})


def section(**more):
    """A config's `train` section."""
    spec = {
        "episodes": 6, "horizon": 10, "tasks": 2, "estimator": AutodiffSpec(window=5), "validate_every": 2,
        "validation_seeds": 3, "patience": None, "weights": "all", "keep": [],
    }  # fmt: skip
    meta = {
        "name": "adam",
        "learning_rate": 0.01,
        "schedule": "cosine",
        "clip": None,
        "factors": {},
    }
    meta |= more.pop("meta_optimizer", {})
    return TrainSpec(**spec | more, meta_optimizer=MetaOptimizerSpec(**meta))


def estimator(spec):
    return autodiff(spec.estimator, PROBLEM, FAMILY, spec.tasks, Objective((1.0,) * spec.horizon))


def begin(meta, phi=PHI):
    copy = jax.tree.map(jnp.array, phi)  # the first dispatch takes the buffers it is given
    return meta.init(ROOT, copy, ()), Record(jax.tree.map(np.array, phi), math.inf, 0, [])


def train(spec, made=None):
    """All rows, and the last chunk."""
    meta = meta_training(PROBLEM, FAMILY, made or estimator(spec), spec)
    state, record = begin(meta)
    chunks = list(run(meta, spec, ROOT, state, record, (), ()))
    return [row for chunk in chunks for row in chunk.rows], chunks[-1]


def test_meta_training_equals_a_loop_written_out():
    spec = section(meta_optimizer={"clip": 0.5})
    rows, last = train(spec)
    tx = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(optax.cosine_decay_schedule(0.01, 12)))
    phi, made = PHI, estimator(spec)
    opt = tx.init(phi)
    for episode in range(6):
        state, loss = made.init(jax.random.fold_in(namespace(ROOT, "train"), episode), phi, ()), 0.0
        for _ in range(2):
            found, state = jax.jit(made.estimate)(ROOT, phi, (), state)
            update, opt = tx.update(found.grad, opt, phi)
            phi, loss = optax.apply_updates(phi, update), loss + float(found.loss)
        assert [r for r in rows if "loss" in r][episode]["loss"] == pytest.approx(loss, rel=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), last.state.phi, phi)


def test_how_steps_are_cut_into_dispatches_leaves_no_trace():
    spec = section()
    meta = meta_training(PROBLEM, FAMILY, estimator(spec), spec)
    ends = []
    for cuts in ([12], [1, 4, 2, 5]):
        state, rows = begin(meta)[0], []
        for count in cuts:
            state, buffer = meta.advance(ROOT, state, (), jnp.int32(count))
            rows.append(np.array(buffer[:count]))
        ends.append([np.concatenate(rows), *map(np.array, jax.tree.leaves((state.phi, state.opt, state.inner.theta)))])
    for a, b in zip(*ends, strict=True):
        np.testing.assert_array_equal(a, b)


def test_factors_multiply_the_steps_of_the_leaves_they_match():
    moved = {}
    for patterns in ({}, {"readout/bias": 0.0, "readout/*": 0.25}):
        spec = section(meta_optimizer={"factors": patterns})
        meta = meta_training(PROBLEM, FAMILY, estimator(spec), spec)
        state = meta.advance(ROOT, begin(meta)[0], (), jnp.int32(1))[0]
        moved[len(patterns)] = jax.tree.map(lambda new, old: np.array(new - old), state.phi, PHI)
    plain, slowed = moved[0], moved[2]
    assert slowed["readout"]["bias"] == 0 and np.abs(plain["readout"]["bias"]) > 0  # the first match counts
    np.testing.assert_allclose(slowed["readout"]["kernel"], 0.25 * plain["readout"]["kernel"], rtol=1e-4, atol=1e-7)
    jax.tree.map(np.testing.assert_array_equal, slowed["lstm_0"], plain["lstm_0"])
    with pytest.raises(ValueError, match=r"'read' matches nothing in phi; there are lstm_0/bias, "):
        factors({"read": 1.0}, PHI)


def test_validation_is_the_mean_summed_loss_of_fixed_seeds_and_the_best_phi_is_kept():
    spec = section(meta_optimizer={"learning_rate": 0.3, "schedule": "constant"})
    rows, last = train(spec)
    found = [row for row in rows if "validation_loss" in row]
    assert [row["step"] for row in found] == [4, 8, 12]
    best = min(row["validation_loss"] for row in found)
    assert last.record.best_loss == best
    assert [row["best"] for row in found] == [row["validation_loss"] == min(
        r["validation_loss"] for r in found[: i + 1]) for i, row in enumerate(found)]  # fmt: skip
    total = 0.0
    for key in jax.random.split(namespace(ROOT, "validation"), 3):
        inner = fresh(PROBLEM, FAMILY, last.record.best, key, ())
        total += float(inner.value + unroll(PROBLEM, FAMILY, last.record.best, inner, (), 9).losses.sum())
    assert best == pytest.approx(total / 3, rel=1e-4)


def test_what_is_trained_already_is_kept_where_training_makes_it_worse():
    meta = meta_training(PROBLEM, FAMILY, estimator(spec := section(meta_optimizer={"learning_rate": 30.0})), spec)
    state, record = begin(meta)
    chunks = run(meta, spec, ROOT, state, record, (), (), trained=True)
    first = next(chunks)
    assert first.step == first.rows[0]["episode"] == 0 and first.rows[0]["best"]
    *_, last = chunks
    assert last.step == 12 and last.record.best_loss == first.rows[0]["validation_loss"]
    jax.tree.map(np.testing.assert_array_equal, last.record.best, PHI)
    # One that is resumed from there does not validate it twice.
    resumed = run(meta, spec, ROOT, begin(meta)[0], first.record, (), (), trained=True)
    assert min(row["step"] for chunk in resumed for row in chunk.rows) == 2


def faulty(spec, bad):
    """An estimator whose meta-gradient is NaN or inf where `bad` says so of the step in its episode."""
    made = estimator(spec)

    def estimate(key, phi, data, state):
        found, after = made.estimate(key, phi, data, state)
        grad = jax.tree.map(lambda g: jnp.where(bad(state.t), jnp.inf, g), found.grad)
        return Estimate(grad, found.loss, found.losses), after

    return Estimator(made.init, estimate)


def test_meta_gradients_that_are_not_finite_are_skipped_and_counted():
    spec = section(meta_optimizer={"clip": 1.0})
    rows, last = train(spec, faulty(spec, lambda t: t == 5))
    episodes = [row for row in rows if "loss" in row]
    assert [row["skipped"] for row in episodes] == [1] * 6
    assert last.finished == "done" and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last.state.phi))
    assert all(row["grad_norm"] > 0 for row in episodes)
    assert int(last.state.opt[1][0].count) == 6  # Adam has seen the finite ones alone


def test_a_run_of_them_ends_as_diverged_with_the_last_good_phi():
    spec = section(episodes=100)
    rows, last = train(spec, faulty(spec, lambda t: t >= 0))
    assert last.finished == "diverged" and last.step == 20
    jax.tree.map(np.testing.assert_array_equal, last.state.phi, PHI)
    assert all(row["grad_norm"] is None for row in rows if "loss" in row)


def test_patience_ends_training_early():
    spec = section(episodes=50, validate_every=1, patience=3, meta_optimizer={"learning_rate": 1e-30, "schedule": "constant"})
    rows, last = train(spec)
    assert last.finished == "stopped early"
    assert len([row for row in rows if "validation_loss" in row]) == 4


@pytest.mark.parametrize(
    ("schedule", "half", "end"),
    [("constant", 0.2, 0.2), ("cosine", 0.1, 0.0), ("linear", 0.1, 0.0), ("exponential", 0.02, 0.002)],
)
def test_schedules(schedule, half, end):
    rate = learning_rate(MetaOptimizerSpec(schedule=schedule, learning_rate=0.2), 100)
    np.testing.assert_allclose([rate(0), rate(50), rate(100)], [0.2, half, end], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["sgd", "rmsprop"])
def test_any_optax_optimizer_meta_trains(name):
    _, last = train(section(episodes=2, meta_optimizer={"name": name, "learning_rate": 1e-3}))
    moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(last.state.phi), jax.tree.leaves(PHI), strict=True)]
    assert max(moved) > 0


def test_meta_training_brings_the_loss_down_and_fits_its_buffer():
    spec = section(episodes=CAPACITY // 2 + 20, validate_every=10_000, tasks=8, meta_optimizer={"learning_rate": 0.01})
    rows, _ = train(spec)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == spec.episodes
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:20])
