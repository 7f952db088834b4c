"""The inner loop against loops written out, and its promises on randomness and windows, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2lcli import registry
from l2lcli.inner.unroll import fresh, namespace, trajectory_axes, unroll
from l2lcli.optimizers.hand import hand
from l2lcli.optimizers.lstm import LstmSpec, lstm
from l2lcli.problems.classification import ClassificationSpec
from l2lcli.problems.quadratic import QuadraticSpec

LSTM = lstm(LstmSpec(hidden=4))


@pytest.fixture(scope="module", params=[QuadraticSpec(dimension=5), ClassificationSpec(hidden=[3], batch_size=16)])
def problem(request):
    return registry.problem.build(request.param, None)


def phi_of(family, problem):
    theta = jax.eval_shape(problem.init, jax.random.key(0), problem.data["train"])[0]
    return family.init(jax.random.key(1), theta)


def test_unroll_equals_an_ordinary_optax_loop(problem):
    data, key, tx = problem.data["train"], jax.random.key(3), optax.adam(0.05)
    init_key, step_key = jax.random.split(key)
    theta, task = jax.jit(problem.init)(init_key, data)
    state, expected = tx.init(theta), []
    slope = jax.jit(lambda theta, key: jax.value_and_grad(problem.loss)(theta, problem.batch(key, task, data)))
    for t in range(8):
        value, grad = slope(theta, jax.random.fold_in(step_key, t))
        expected.append(value)
        update, state = tx.update(grad, state, theta)
        theta = optax.apply_updates(theta, update)
    phi = {"log_learning_rate": jnp.log(0.05)}
    inner = jax.jit(lambda key: fresh(problem, hand("adam"), phi, key, data))(key)
    after, losses, *_ = unroll(problem, hand("adam"), phi, inner, data, 8)
    np.testing.assert_allclose([inner.value, *losses[:-1]], expected, rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), after.theta, theta)
    assert after.t == 8 and after.value == losses[-1]


def test_20_steps_are_13_and_then_7_bit_for_bit(problem):
    data, phi = problem.data["train"], phi_of(LSTM, problem)
    run = jax.jit(lambda inner, steps: unroll(problem, LSTM, phi, inner, data, steps), static_argnums=1)
    start = jax.jit(lambda: fresh(problem, LSTM, phi, jax.random.key(4), data))()
    whole, losses, *_ = run(start, 20)
    middle, first, *_ = run(start, 13)
    end, second, *_ = run(middle, 7)
    assert (np.concatenate([first, second]) == losses).all()
    raw = lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(raw(a), raw(b)), whole, end)


def test_every_optimizer_gets_the_same_start_and_the_same_batches(problem):
    data, key = problem.data["train"], jax.random.key(5)
    start = lambda family, phi: jax.jit(lambda key: fresh(problem, family, phi, key, data))(key)
    started = [start(family, phi_of(family, problem)) for family in (LSTM, hand("sgd"))]
    jax.tree.map(np.testing.assert_array_equal, started[0].theta, started[1].theta)
    still = {"log_learning_rate": jnp.float32(-np.inf)}  # a rate of 0: the losses differ by their batches alone
    families = hand("sgd"), hand("adam")
    losses = [unroll(problem, family, still, start(family, still), data, 4).losses for family in families]
    np.testing.assert_array_equal(*losses)
    assert (np.ptp(losses[0]) > 0) == problem.minibatch  # a fresh minibatch at every step


def test_vmap_with_axes_equals_one_after_the_other(problem):
    data, phi, keys = problem.data["train"], phi_of(LSTM, problem), jax.random.split(jax.random.key(6), 3)

    @jax.jit
    def one(key):
        return unroll(problem, LSTM, phi, fresh(problem, LSTM, phi, key, data), data, 5)

    together, losses, *_ = jax.vmap(one, out_axes=trajectory_axes())(keys)
    assert together.t.shape == ()
    np.testing.assert_allclose(losses, [one(key).losses for key in keys], rtol=1e-4)


def test_namespaces_do_not_meet():
    root = jax.random.key(0)
    keys = [jax.random.key_data(namespace(root, name)).tolist() for name in ("train", "validation", "tuning", "evaluation")]
    assert len({tuple(key) for key in keys}) == 4
