"""Mixtures of problems, and tasks with horizons of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2lcli import registry
from l2lcli.base import Member, Objective
from l2lcli.config.specs import HorizonsSpec, TrainSpec
from l2lcli.estimators._staggered import Horizons, staggered
from l2lcli.inner.unroll import fresh, unroll
from l2lcli.meta.estimator import estimator, split
from l2lcli.meta.steps import meta_training
from l2lcli.optimizers.groups import Group, GroupsSpec, groups
from l2lcli.optimizers.hand import hand
from l2lcli.problems.quadratic import QuadraticSpec

SMALL, LARGE = (registry.problem.build(QuadraticSpec(dimension=n), None) for n in (2, 3))
FAMILY = hand("sgd", 0.01)
MIXTURE = SMALL._replace(members={"small": Member(SMALL, 3.0), "large": Member(LARGE, 1.0, tasks=2, horizon=4, window=2)})
ADAM = hand("adam", 0.01)
GROUP = groups(GroupsSpec(groups={"all": Group(match=["*"], optimizer=registry.optimizer.specs()["adam"]())}))
KEY = jax.random.key(0)


def section(**more):
    given = {"episodes": 4, "tasks": 3, "horizon": 8, "validation_seeds": 2} | more
    return TrainSpec(estimator=registry.estimator.specs()["autodiff"](window=4), **given)


def test_a_mixtures_meta_gradient_is_the_weighted_mean_of_its_members():
    spec = section()
    made, phi = estimator(spec, MIXTURE, FAMILY, 1), FAMILY.init(KEY, None)
    data = split(MIXTURE, "train")
    state = made.restart(KEY, 0, phi, data, made.init(KEY, phi, data))
    found, after = made.estimate(KEY, phi, data, state)
    build = registry.estimator.build
    kind = registry.estimator.specs()["autodiff"]
    small = build(kind(window=4), SMALL, FAMILY, 3, Objective((1.0,) * 8)).estimate(KEY, phi, (), state["small"])[0]
    large = build(kind(window=2), LARGE, FAMILY, 2, Objective((1.0,) * 4)).estimate(KEY, phi, (), state["large"])[0]
    rate = "log_learning_rate"
    np.testing.assert_allclose(found.grad[rate], (3 * small.grad[rate] + large.grad[rate]) / 4, rtol=1e-5)
    assert (after["small"].t, after["large"].t) == (4, 2) and after["large"].theta["theta"].shape == (2, 3)


def test_members_begin_anew_after_horizons_of_their_own_and_are_validated_apart():
    spec = section()
    meta = meta_training(MIXTURE, FAMILY, estimator(spec, MIXTURE, FAMILY, 1), spec)
    phi, data = FAMILY.init(KEY, None), split(MIXTURE, "train")
    state = meta.init(KEY, phi, data)
    seen = []
    for _ in range(4):
        state, _ = meta.advance(KEY, state, data, jnp.int32(1))
        seen.append((int(state.inner["small"].t), int(state.inner["large"].t)))
    assert seen == [(4, 2), (8, 4), (4, 2), (8, 4)]
    found = meta.validate(KEY, phi, data)
    np.testing.assert_allclose(found[""], (3 * found["small"] + found["large"]) / 4, rtol=1e-6)


@pytest.mark.parametrize("horizon", [4, 16])
def test_imitation_and_growing_horizons_end_by_the_steps_of_meta_training_whatever_a_members_are(horizon):
    of_it = SMALL._replace(members={"a": Member(SMALL, 1.0, horizon=horizon, window=4)})
    steps = 4 * 8 // 4  # of meta-training, by `section`
    phi = FAMILY.init(KEY, None)

    def grads(**more):
        spec = section(**more)
        assert spec.meta_steps == steps
        meta = meta_training(of_it, FAMILY, estimator(spec, of_it, FAMILY, 1), spec)
        state, norms = meta.init(KEY, phi, {"a": ()}), []
        for _ in range(steps):
            same = jax.tree.map(jnp.array, phi)  # to be donated
            state, rows = meta.advance(KEY, state._replace(phi=same), {"a": ()}, jnp.int32(1))
            norms.append(float(rows[0, 1]))
        return np.array(norms)

    alone, taught = grads(), grads(imitation={"of": "adam", "until": 0.5, "weight": 100.0})
    differ = ~np.isclose(alone, taught, rtol=1e-6)
    assert differ.tolist() == [True] * (steps // 2) + [False] * (steps // 2)


def test_a_member_whose_window_does_not_divide_its_horizon_is_refused():
    wrong = SMALL._replace(members={"a": Member(SMALL, 1.0, horizon=6)})
    with pytest.raises(ValueError, match=r"problem.members.a: its window of 4 steps does not divide its horizon of 6"):
        estimator(section(), wrong, FAMILY, 1)


@pytest.mark.parametrize(
    ("kind", "family"),
    [("autodiff", FAMILY), ("replay", FAMILY), ("nres", FAMILY), ("replay", ADAM), ("replay", GROUP)],
    ids=["autodiff", "replay", "nres", "replay, moments", "replay, groups"],
)
def test_tasks_stand_at_steps_of_their_own_and_begin_anew_one_by_one(kind, family):
    spec = registry.estimator.specs()[kind](window=2)
    build = lambda: registry.estimator.build(spec, LARGE, family, 16, Objective((1.0,) * 8))
    phi = family.init(KEY, {"theta": jnp.zeros(3)})
    made = staggered(build(), LARGE, family, 16, Horizons(2, 8, 2, 0))
    state = jax.jit(lambda: made.restart(KEY, 0, phi, (), made.init(KEY, phi, ())))()
    inner = state if kind != "nres" else state.inner
    assert len(set(np.asarray(inner.horizon).tolist())) > 2 and len(set(np.asarray(inner.t).tolist())) > 2
    assert (inner.t < inner.horizon).all() and (np.asarray(inner.t) % 2 == 0).all()
    if kind != "nres":  # spread without a gradient: where plain training from the same start would be
        i = int(np.argmax(inner.t))
        one = jax.tree.map(lambda leaf: leaf[i], inner)
        theta, _ = LARGE.init(jax.random.split(jax.random.split(jax.random.split(jax.random.fold_in(KEY, 0))[0], 16)[i])[0], ())
        start = fresh(LARGE, family, phi, jax.random.split(jax.random.split(jax.random.fold_in(KEY, 0))[0], 16)[i], ())
        np.testing.assert_array_equal(start.theta["theta"], theta["theta"])
        end = unroll(LARGE, family, phi, start, (), int(one.t)).end
        np.testing.assert_allclose(one.theta["theta"], end.theta["theta"], rtol=1e-5)
    step = jax.jit(lambda i, state: made.estimate(KEY, phi, (), made.restart(KEY, i, phi, (), state))[1])
    for i in range(1, 6):
        before = state if kind != "nres" else state.inner
        state = step(i, state)
        inner = state if kind != "nres" else state.inner
        over = np.asarray(before.t) >= np.asarray(before.horizon)
        np.testing.assert_array_equal(np.asarray(inner.t), np.where(over, 2, np.asarray(before.t) + 2))


def test_each_task_of_a_staggered_window_has_the_gradient_of_its_own_steps():
    """Replay with weights for the end of each run's own horizon, against autodiff."""
    family, objective = FAMILY, Objective((1.0,) * 8, last=0.5, measure="log")
    found = []
    for kind in ("autodiff", "replay"):
        spec = registry.estimator.specs()[kind](window=2)
        made = registry.estimator.build(spec, LARGE, family, 6, objective)
        made, phi = staggered(made, LARGE, family, 6, Horizons(2, 8, 2, 0)), FAMILY.init(KEY, None)
        state = made.restart(KEY, 0, phi, (), made.init(KEY, phi, ()))
        found.append(jax.jit(made.estimate)(KEY, phi, (), state)[0])
    np.testing.assert_allclose(found[0].grad["log_learning_rate"], found[1].grad["log_learning_rate"], rtol=1e-4)
    np.testing.assert_allclose(found[0].loss, found[1].loss, rtol=1e-5)


def test_the_longest_horizon_grows_over_the_curriculum():
    horizons = Horizons(2, 100, 2, 10)
    drawn = lambda step: np.asarray(horizons.draw(KEY, 500, step))
    assert drawn(0).max() == 2 and 30 < drawn(5).max() <= 51 and drawn(10).max() == 100 and (drawn(10) % 2 == 0).all()


def test_horizons_come_from_the_config():
    made = estimator(section(horizons=HorizonsSpec(shortest=4)), SMALL, FAMILY, 1)
    state = made.init(KEY, FAMILY.init(KEY, None), ())
    assert set(np.asarray(state.horizon).tolist()) <= {4, 8} and state.t.shape == (3,)
