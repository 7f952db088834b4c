"""Imitation: the distance against sums written out, its gradient against finite differences, and what its weight does."""

import jax
import jax.numpy as jnp
import numpy as np

from l2lcli import registry
from l2lcli.config.specs import ImitationSpec, TrainSpec
from l2lcli.estimators._imitation import imitation
from l2lcli.inner.flat import flat
from l2lcli.meta.estimator import estimator
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
    state, found, estimate = made.init(KEY, phi, ()), [], jax.jit(made.estimate)
    for _ in range(2):
        result, state = estimate(KEY, phi, (), state)
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


def test_it_adds_the_gradient_of_the_distance():
    with jax.enable_x64(True):
        of = ImitationSpec(weight=3.0, until=1.0, learning_rate=RATE)
        plain, both = (estimator(section(imitation=imitated), PROBLEM, LSTM, 1) for imitated in (None, of))
        phi = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), LSTM.init(KEY, {"theta": jnp.zeros(3)}))

        @jax.jit
        def added(phi, state):
            """What imitation adds to the loss and its gradient, and the states after."""
            (found, after), (alone, _) = (
                each.estimate(KEY, phi, (), of) for each, of in ((both, state), (plain, state.learner))
            )
            return found.loss - alone.loss, jax.tree.map(jnp.subtract, found.grad, alone.grad), after

        begin = jax.jit(lambda phi: both.restart(KEY, 2, phi, (), both.init(KEY, phi, ())))(
            phi
        )  # of 8 meta-steps: 3/4 of the weight is left
        more, _, state = added(phi, begin)
        alone = jax.jit(imitation(PROBLEM, LSTM, ("adam", RATE), 2, 4, 2).estimate)(KEY, phi, (), begin.watched)[0]
        np.testing.assert_allclose(more, 0.75 * 3 * alone.loss, rtol=1e-10)
        way = jax.tree.map(lambda leaf: jax.random.normal(KEY, leaf.shape, leaf.dtype), phi)
        high, low = (added(jax.tree.map(lambda p, d, e=e: p + e * d, phi, way), state)[0] for e in (1e-5, -1e-5))
        slope = sum(jnp.vdot(*pair) for pair in zip(*map(jax.tree.leaves, (added(phi, state)[1], way)), strict=True))
        np.testing.assert_allclose(slope, (high - low) / 2e-5, rtol=1e-6)
        # At the end of its time nothing is added, and the teacher's optimizees stand still.
        more, grad, after = added(phi, state._replace(step=jnp.int32(8)))
        assert more == 0 and not any(leaf.any() for leaf in jax.tree.leaves(grad))
        assert int(after.watched.inner.t) == int(state.watched.inner.t)


def test_a_weight_of_zero_is_no_imitation():
    made = [estimator(section(imitation=of), PROBLEM, LSTM, 1) for of in (None, ImitationSpec(weight=0.0))]
    phi = LSTM.init(KEY, {"theta": jnp.zeros(3)})
    (plain, state), (zero, same) = ((each, jax.jit(each.init)(KEY, phi, ())) for each in made)
    assert jax.tree.structure(state) == jax.tree.structure(same)
    texts = [jax.jit(each.estimate).lower(KEY, phi, (), state).as_text() for each in (plain, zero)]
    assert texts[0] == texts[1]  # one program: the same bits


def test_tile_by_tile_is_the_same_as_whole():
    """150 coordinates are two tiles, the second one filled up."""
    problem = registry.problem.build(QuadraticSpec(dimension=150), None)
    phi, found = LSTM.init(KEY, {"theta": jnp.zeros(150)}), []
    for family in (LSTM, LSTM._replace(replay=None)):
        made = imitation(problem, family, ("adam", RATE), 2, 4, 2)
        state, estimate = jax.jit(made.init)(KEY, phi, ()), jax.jit(made.estimate)
        for _ in range(2):
            result, state = estimate(KEY, phi, (), state)
        found.append((result.loss, result.grad, state.opt))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), *found)


def test_a_teacher_that_diverged_adds_nothing():
    of = ImitationSpec(of="sgd", weight=1.0, until=1.0, learning_rate=1e25)
    plain, both = (estimator(section(imitation=imitated), PROBLEM, LSTM, 1) for imitated in (None, of))
    phi = LSTM.init(KEY, {"theta": jnp.zeros(3)})
    states = [jax.jit(each.init)(KEY, phi, ()) for each in (plain, both)]
    for _ in range(2):
        found = []
        for i, each in enumerate((plain, both)):
            result, states[i] = jax.jit(each.estimate)(KEY, phi, (), states[i])
            found.append((result.loss, result.grad))
    assert not np.isfinite(states[1].watched.inner.value).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found[1]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *found)
