"""Averaging cells: the LSTM with them equals a loop written by hand, hears other coordinates, and has its meta-gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from pydantic import ValidationError

from l2lcli import registry
from l2lcli.base import Objective
from l2lcli.optimizers._preprocess import Identity
from l2lcli.optimizers.lstm import LstmSpec, lstm
from l2lcli.optimizers.lstm_gac import LstmGacSpec, lstm_gac
from l2lcli.problems.quadratic import QuadraticSpec

THETA = {"a": jnp.zeros((2, 2)), "b": jnp.zeros(3), "c": jnp.zeros(())}
TENSORS = [range(4), range(4, 7), range(7, 8)]  # of the raveled theta
T = 3


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def updates(family, phi, grads):
    """[T, N] of flat gradients [T, N] of THETA."""
    tx, out = family.bind(phi), []
    _, unravel = ravel_pytree(THETA)
    state, step = tx.init(THETA), jax.jit(tx.update)
    for grad in grads:
        update, state = step(unravel(grad), state)
        out.append(ravel_pytree(update)[0])
    return np.stack(out)


GRADS = 0.3 * jax.random.normal(jax.random.key(0), (T, 8))


@pytest.mark.parametrize("over", ["all", "tensor"])
def test_it_equals_a_loop_over_coordinates_written_by_hand(over):
    family = lstm_gac(LstmGacSpec(hidden=5, averaged=2, over=over, output_scale=0.3, forget_bias=0.5, preprocess=Identity()))
    rng = np.random.default_rng(5)  # no bias at 0, where it begins
    shaken = lambda leaf: leaf + 0.3 * jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype)
    phi = jax.tree.map(shaken, family.init(jax.random.key(3), THETA))
    found, w = updates(family, phi, GRADS), jax.tree.map(lambda x: np.asarray(x, np.float64), phi)
    h, c = np.zeros((2, 8, 5)), np.zeros((2, 8, 5))
    for t in range(T):
        x = np.asarray(GRADS[t], np.float64)[:, None]
        for i in range(2):
            cell = w[f"lstm_{i}"]
            for n in range(8):
                a, f, u, o = np.split(cell["input"] @ x[n] + cell["recurrent"] @ h[i, n] + cell["bias"], 4)
                c[i, n] = sigmoid(f + 0.5) * c[i, n] + sigmoid(a) * np.tanh(u)
                h[i, n] = sigmoid(o) * np.tanh(c[i, n])
            for group in [range(8)] if over == "all" else TENSORS:
                for unit in range(2):
                    h[i, list(group), unit] = np.mean([h[i, n, unit] for n in group])
            x = h[i]
        np.testing.assert_allclose(found[t], 0.3 * (x @ w["readout"]["kernel"] + w["readout"]["bias"]), rtol=2e-5, atol=1e-7)


def test_without_averaged_units_it_is_the_lstm():
    plain, none = lstm(LstmSpec(hidden=4)), lstm_gac(LstmGacSpec(hidden=4, averaged=0))
    phi = plain.init(jax.random.key(1), THETA)
    jax.tree.map(np.testing.assert_array_equal, phi, none.init(jax.random.key(1), THETA))
    np.testing.assert_allclose(updates(none, phi, GRADS), updates(plain, phi, GRADS), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("over", "hears"), [("all", range(8)), ("tensor", range(4))])
def test_who_hears_of_a_gradient(over, hears):
    """At once, through the averages of the same step."""
    family = lstm_gac(LstmGacSpec(hidden=4, averaged=1, over=over))
    phi = family.init(jax.random.key(1), THETA)
    before, after = (updates(family, phi, grads)[0] for grads in (GRADS, GRADS.at[0, 0].set(5.0)))
    assert {n for n in range(8) if before[n] != after[n]} == set(hears)


def test_it_takes_running_averages_as_the_lstm_does():
    averages = {"decays": [0.9]}
    family = lstm_gac(LstmGacSpec.model_validate({"hidden": 3, "averaged": 0, "averages": averages}))
    plain = lstm(LstmSpec.model_validate({"hidden": 3, "averages": averages}))
    phi = plain.init(jax.random.key(1), THETA)
    np.testing.assert_allclose(updates(family, phi, GRADS), updates(plain, phi, GRADS), rtol=1e-5, atol=1e-8)


def test_more_averaged_units_than_there_are_is_an_error():
    with pytest.raises(ValidationError, match="averaged 6 is more than the 5 units of a layer"):
        LstmGacSpec(hidden=5, averaged=6)


FAMILY = lstm_gac(LstmGacSpec(layers=1, hidden=3, averaged=1, preprocess=Identity()))
PROBLEM = registry.problem.build(QuadraticSpec(dimension=3), None)


def estimator(kind, **more):
    return registry.estimator.build(
        registry.estimator.specs()[kind](window=T, **more), PROBLEM, FAMILY, 1, Objective((1.0,) * T)
    )


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("second_order", [False, True])
def test_its_meta_gradient_equals_finite_differences(second_order, float64):
    wide = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree)
    phi = wide(FAMILY.init(jax.random.key(1), {"theta": jnp.zeros(3)}))
    made = estimator("auto", second_order=second_order)
    state = wide(made.init(jax.random.key(2), phi, ()))
    found = jax.jit(made.estimate)(jax.random.key(3), phi, (), state)[0]
    task, flat, unravel = jax.tree.map(lambda x: x[0], state.task), *ravel_pytree(phi)

    @jax.jit
    def run(flat, fed=None):
        """The sum of losses; the gradients that the optimizer was fed, which are `fed` where that is given."""
        tx, theta, total, shown = FAMILY.bind(unravel(flat)), {"theta": state.theta["theta"][0]}, 0.0, []
        opt = tx.init(theta)
        for t in range(T):
            shown.append(jax.grad(PROBLEM.loss)(theta, task) if fed is None else fed[t])
            update, opt = tx.update(shown[-1], opt)
            theta = optax.apply_updates(theta, update)
            total += PROBLEM.loss(theta, task)
        return total, shown

    fed = None if second_order else run(flat)[1]
    moves = 1e-6 * np.eye(flat.size)
    slopes = [(run(flat + move, fed)[0] - run(flat - move, fed)[0]) / 2e-6 for move in moves]
    np.testing.assert_allclose(ravel_pytree(found.grad)[0], np.array(slopes), rtol=1e-5, atol=1e-7)


def test_it_is_perturbed_as_any_other():
    made, phi = estimator("pes"), FAMILY.init(jax.random.key(1), {"theta": jnp.zeros(3)})
    state = jax.jit(made.init)(jax.random.key(2), phi, ())
    found, after = jax.jit(made.estimate)(jax.random.key(3), phi, (), state)
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(found.grad))
    assert np.isfinite(found.losses).all() and found.losses.shape == (T,)
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_it_is_not_replayed():
    with pytest.raises(ValueError, match="cannot be replayed"):
        estimator("replay")
