"""Imitation: the distance against sums written out, its gradient against finite differences, and what its weight does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2lcli import registry
from l2lcli.config.specs import ImitationSpec, TrainSpec
from l2lcli.estimators._imitation import imitation
from l2lcli.inner.flat import flat
from l2lcli.meta.estimator import estimator
from l2lcli.meta.loop import meta_training
from l2lcli.optimizers.hand import hand
from l2lcli.optimizers.lstm import LstmSpec, lstm
from l2lcli.problems.quadratic import QuadraticSpec

PROBLEM = registry.problem.build(QuadraticSpec(dimension=3), None)
LSTM = flat(lstm(LstmSpec(layers=1, hidden=3)))
KEY = jax.random.key(0)
RATE = 0.05


def section(kind="replay", **more):
    given = {"episodes": 4, "tasks": 2, "horizon": 4, "validation_seeds": 2} | more
    return TrainSpec(estimator=registry.estimator.specs()[kind](window=2), **given)


def adams(theta, w, y, steps):
    """The gradients and updates of Adam on one quadratic, [T, N] each."""
    m, v, grads, updates = np.zeros(3), np.zeros(3), [], []
    for t in range(1, steps + 1):
        g = 2 * w.T @ (w @ theta - y)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        updates.append(-RATE * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8))
        grads.append(g)
        theta = theta + updates[-1]
    return np.array(grads), np.array(updates)


def test_the_distance_is_that_of_the_formula():
    """Of plain gradient descent, which is fed what Adam meets and says -r g: sums and derivative by log r, window by window."""
    made = imitation(PROBLEM, hand("sgd"), ("adam", RATE), 2, 4, 2)
    phi = {"log_learning_rate": jnp.log(0.1)}
    state, found = made.init(KEY, phi, ()), []
    for _ in range(2):
        result, state = jax.jit(made.estimate)(KEY, phi, (), state)
        found.append([float(result.loss), float(result.grad["log_learning_rate"])])
    expected = np.zeros((2, 2))
    for key in jax.random.split(KEY, 2):
        theta, (w, y) = PROBLEM.init(jax.random.split(key)[0], ())
        grads, updates = adams(*(np.asarray(array, np.float64) for array in (theta["theta"], w, y)), 4)
        apart = (-0.1 * grads - updates) / RATE
        for window in range(2):
            at = slice(2 * window, 2 * window + 2)
            expected[window] += (apart[at] ** 2).sum() / 6 / 2, (apart[at] * -0.1 * grads[at] / RATE).sum() / 3 / 2
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("kind", ["replay", "pes"])
def test_it_adds_the_gradient_of_the_distance_to_any_estimators(kind):
    with jax.enable_x64(True):
        more = ImitationSpec(weight=3.0, until=1.0, learning_rate=RATE)
        plain, both = (estimator(section(kind, imitation=of), PROBLEM, LSTM, 1) for of in (None, more))
        phi = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), LSTM.init(KEY, {"theta": jnp.zeros(3)}))
        state = both.restart(KEY, 2, phi, (), both.init(KEY, phi, ()))  # of 8 meta-steps: 3/4 of the weight is left
        found, after = both.estimate(KEY, phi, (), state)
        alone, _ = plain.estimate(KEY, phi, (), state.learner)
        apart = lambda phi: both.estimate(KEY, phi, (), after)[0].loss - plain.estimate(KEY, phi, (), after.learner)[0].loss
        more, _ = both.estimate(KEY, phi, (), after)
        grad = jax.tree.map(jnp.subtract, more.grad, plain.estimate(KEY, phi, (), after.learner)[0].grad)
        way = jax.tree.map(lambda leaf: jax.random.normal(KEY, leaf.shape, leaf.dtype), phi)
        ends = [apart(jax.tree.map(lambda p, d, e=e: p + e * d, phi, way)) for e in (1e-5, -1e-5)]
        slope = sum(jnp.vdot(*pair) for pair in zip(jax.tree.leaves(grad), jax.tree.leaves(way), strict=True))
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-6)
        of = imitation(PROBLEM, LSTM, ("adam", RATE), 2, 4, 2).estimate(KEY, phi, (), state.watched)[0]
        np.testing.assert_allclose(found.loss - alone.loss, 0.75 * 3 * of.loss, rtol=1e-10)


def test_a_weight_of_zero_leaves_no_trace_and_a_weight_falls_to_zero():
    ends = {}
    for name, of in {"none": None, "zero": ImitationSpec(weight=0.0), "half": ImitationSpec(until=0.5)}.items():
        spec = section(imitation=of)
        meta = meta_training(PROBLEM, LSTM, estimator(spec, PROBLEM, LSTM, 1), spec)
        state = meta.init(KEY, LSTM.init(KEY, {"theta": jnp.zeros(3)}), ())
        state, rows = meta.advance(KEY, state, (), jnp.int32(4))
        first = np.array(rows[:4])
        if name == "half":  # from the fifth meta-step on nobody watches: the optimizees of the teacher stand still
            assert int(state.inner.watched.inner.t) == 4
            state, _ = meta.advance(KEY, state, (), jnp.int32(2))
            assert (int(state.inner.watched.inner.t), int(state.inner.learner.t)) == (0, 4)
        ends[name] = first
    np.testing.assert_array_equal(ends["zero"], ends["none"])
    assert (ends["half"][:, 0] > ends["none"][:, 0]).all()


def test_tile_by_tile_is_the_same_as_whole():
    """150 coordinates are two tiles, the second one filled up."""
    problem = registry.problem.build(QuadraticSpec(dimension=150), None)
    phi, found = LSTM.init(KEY, {"theta": jnp.zeros(150)}), []
    for family in (LSTM, LSTM._replace(replay=None)):
        made = imitation(problem, family, ("adam", RATE), 2, 4, 2)
        state = made.init(KEY, phi, ())
        for _ in range(2):
            result, state = jax.jit(made.estimate)(KEY, phi, (), state)
        found.append((result.loss, result.grad, state.opt))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), *found)
