"""A curriculum of horizons: when it goes on and from where, and that a resumed one ends with the same bits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from l2lcli import registry, tree
from l2lcli.config import ConfigError, load
from l2lcli.config.specs import ImitationSpec, MetaOptimizerSpec, TrainSpec
from l2lcli.estimators._stages import further, stage
from l2lcli.inner.unroll import fresh, namespace, unroll
from l2lcli.meta.estimator import estimator
from l2lcli.meta.loop import Record, run
from l2lcli.meta.steps import meta_training
from l2lcli.optimizers.hand import hand
from l2lcli.problems.quadratic import QuadraticSpec

PROBLEM = registry.problem.build(QuadraticSpec(dimension=2), None)
FAMILY = hand("sgd", 1e-3)
KEY = jax.random.key(0)
PHI = FAMILY.init(KEY, None)


SPEC = TrainSpec(
    episodes=8, tasks=2, horizon=8, curriculum=[2, 4, 8], patience=1, validate_every=1, validation_seeds=2,
    meta_optimizer=MetaOptimizerSpec(name="sgd", learning_rate=1e-3, schedule="constant"),
    estimator=registry.estimator.specs()["autodiff"](window=2), imitation=ImitationSpec(weight=1e-3, until=1.0),
)  # fmt: skip


def uphill(made):
    """An estimator of the negative meta-gradient: a phi is the worse the longer it was trained."""

    def estimate(key, phi, data, state):
        found, after = made.estimate(key, phi, data, state)
        return found._replace(grad=jax.tree.map(jnp.negative, found.grad)), after

    return made._replace(estimate=estimate)


META = meta_training(PROBLEM, FAMILY, uphill(estimator(SPEC, PROBLEM, FAMILY, 1)), SPEC)  # compiled once for all tests


def begin():
    state = META.init(KEY, jax.tree.map(jnp.array, PHI), ())
    return state, Record(jax.tree.map(np.array, PHI), math.inf, 0, [])


def validated(phi, horizon):
    losses = []
    for key in jax.random.split(namespace(KEY, "validation"), 2):
        inner = fresh(PROBLEM, FAMILY, phi, key, (), horizon)
        losses.append(inner.value + unroll(PROBLEM, FAMILY, phi, inner, (), horizon - 1).losses.sum())
    return float(np.mean(losses))


def test_it_goes_on_from_the_best_phi_when_validation_does_not_improve():
    chunks = list(run(META, SPEC, KEY, *begin(), (), ()))  # uphill: no validation but the first of a horizon is better
    rows = [row for chunk in chunks for row in chunk.rows if "validation_loss" in row]
    # Judged by the next horizon, at the last one by that: 4, 8, 8.
    assert [(row["horizon"], row["best"]) for row in rows] == [(4, True), (4, False), (8, False), (8, False), (8, False)]
    assert chunks[-1].finished == "stopped early" and rows[-1]["step"] == 16
    assert [row["step"] for row in rows] == [4, 8, 8, 12, 16]
    best = next(chunk.record.best for chunk in chunks if chunk.rows and chunk.rows[-1].get("best"))
    # The phi of the first validation, on the horizon after.
    assert rows[2]["validation_loss"] == pytest.approx(validated(best, 8), rel=1e-5)
    assert rows[3]["validation_loss"] > rows[2]["validation_loss"] < rows[4]["validation_loss"]
    jax.tree.map(np.testing.assert_array_equal, chunks[-1].record.best, best)


@pytest.mark.parametrize("name", ["adam", "prodigy", "schedule_free_sgd"])
def test_a_new_horizon_begins_with_the_meta_optimizers_own_first_state(name):
    spec = SPEC.model_copy(update={"meta_optimizer": MetaOptimizerSpec(name=name, learning_rate=1e-3, schedule="constant")})
    meta = meta_training(PROBLEM, FAMILY, uphill(estimator(spec, PROBLEM, FAMILY, 1)), spec)
    state = meta.init(KEY, jax.tree.map(jnp.array, PHI), ())
    for _ in range(3):
        state, _ = meta.advance(KEY, state, (), jnp.int32(1))
    phi = jax.tree.map(lambda leaf: leaf + 0.5, state.phi)
    of = getattr(optax, name, None) or getattr(optax.contrib, name)
    mine, theirs = (sorted(float(x) for x in jax.tree.leaves(tree)) for tree in (meta.fresh(phi, state), of(1.0).init(phi)))
    assert mine == pytest.approx(theirs)
    assert sorted(float(x) for x in jax.tree.leaves(state.opt)) != pytest.approx(theirs)
    state = state._replace(phi=phi, opt=meta.fresh(phi, state), inner=further(state.inner))
    state, rows = meta.advance(KEY, state, (), jnp.int32(1))
    assert int(state.failures) == 0 and np.isfinite(np.asarray(rows[0])).all()


def test_episodes_have_the_horizon_of_their_stage_and_so_have_those_of_the_teacher():
    state, seen = begin()[0], []
    for step in range(7):
        if step in (3, 4):  # in the middle of nothing, and in that of an episode of 4
            state = state._replace(inner=further(state.inner))
        state, _ = META.advance(KEY, state, (), jnp.int32(1))
        tasks = [state.inner.learner.inner, state.inner.watched.inner.inner]
        assert len({(int(inner.t), int(inner.horizon)) for inner in tasks}) == 1
        seen.append((int(tasks[0].t), int(tasks[0].horizon)))
    assert seen == [(2, 2), (2, 2), (2, 2), (2, 4), (4, 4), (2, 8), (4, 8)]
    assert stage(state.inner) == 2


def test_a_run_that_is_stopped_at_any_chunk_and_gone_on_with_ends_with_the_same_bits():
    def ran(state, record):
        chunks = []
        for chunk in run(META, SPEC, KEY, state, record, (), ()):
            chunks.append((tree.to_host(chunk.state, "outer/"), chunk.record, chunk.rows, chunk.finished))
        return chunks

    whole, (shapes, _) = ran(*begin()), begin()
    assert len({row["horizon"] for _, _, rows, _ in whole for row in rows if "horizon" in row}) > 1
    for cut in range(1, len(whole)):
        saved, record, _, _ = whole[cut - 1]
        state = META.place(tree.from_host(shapes, {key: np.array(value) for key, value in saved.items()}, "outer/"))
        rest = ran(state, record)
        assert [row for _, _, rows, _ in rest for row in rows] == [row for _, _, rows, _ in whole[cut:] for row in rows]
        assert rest[-1][0].keys() == whole[-1][0].keys()
        for key, value in whole[-1][0].items():
            np.testing.assert_array_equal(rest[-1][0][key], value, err_msg=key)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"curriculum": [20, 60, 40]}, "train.curriculum: its horizons must become longer, and end with train.horizon, 100"),
        ({"curriculum": [30, 100]}, "train.curriculum: 30 is not a multiple of the window 20"),
        ({"curriculum": [20, 100], "patience": None}, "train.curriculum: needs train.patience"),
        ({"curriculum": [20, 100], "weights": "last"}, "train.weights: last needs window = horizon"),
        ({"curriculum": [20, 100], "horizons": {}}, "train.curriculum: not together with train.horizons"),
        ({"imitation": {"of": "adm"}}, "train.imitation.of: no optimizer named 'adm'"),
    ],
)
def test_what_does_not_fit_is_told(given, fault):
    with pytest.raises(ConfigError) as told:
        load({"train": {"horizon": 100, "patience": 2} | given})
    assert any(fault in line for line in told.value.faults), told.value.faults
