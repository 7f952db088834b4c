"""Meta-gradients of a loss on a query, and through a learned start: replay, autodiff, closed forms and finite differences."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from l2lcli import registry
from l2lcli.base import Objective
from l2lcli.config import ConfigError, config_class, load
from l2lcli.estimators import _sharding
from l2lcli.inner.flat import flat
from l2lcli.inner.unroll import namespace
from l2lcli.meta.steps import meta_training
from tests.support import ROOT

T, M = 4, 2
PROBLEM = registry.problem.build(
    registry.problem.specs()["sinusoid"](shots=5, queries=3, hidden=[4], activation="tanh"), None
)  # 13 coordinates
START = jax.jit(PROBLEM.init)
LAST = (0.0,) * (T - 1) + (1.0,)
SOME = (0.5, 0.0, 0.3, 1.0)


def family(kind, **spec):
    return registry.optimizer.build(registry.optimizer.specs()[kind](**spec))


FAMILIES = {
    "maml_first_order": family("maml_first_order", learning_rate=0.1),
    "meta_sgd": family("meta_sgd", learning_rate=0.1, second_order=False),
    "lstm_gd_v1": family("lstm_gd_v1"),
    "lstm_gd_v2": family("lstm_gd_v2", hidden=3),
    "lstm": family("lstm", hidden=3, learn_start=True),
    "no start": family("lstm_gd_v2", hidden=3, learn_start=False),
}


def as_dtype(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def phi_of(optimizer, dtype, seed=0):
    """phi from a random start, all of it moved away from round numbers."""
    theta = as_dtype(START(jax.random.key(seed), ())[0], dtype)
    phi, unravel = ravel_pytree(as_dtype(jax.jit(optimizer.init)(jax.random.key(1), theta), dtype))
    return unravel(phi + 0.05 * jnp.sin(jnp.arange(phi.size, dtype=dtype)))


def estimate(kind, optimizer, dtype, w=LAST, window=T, phi=None, **more):
    """The meta-gradients of an episode's windows."""
    spec = registry.estimator.specs()[kind](window=window, **more)
    made = registry.estimator.build(spec, PROBLEM, flat(optimizer), M, Objective(w))
    phi = phi_of(optimizer, dtype) if phi is None else phi
    state, found = as_dtype(jax.jit(made.init)(jax.random.key(2), phi, ()), dtype), []
    step = jax.jit(made.estimate)
    for _ in range(T // window):
        result, state = step(jax.random.key(3), phi, (), state)
        found.append(result)
    return found


def assert_close(a, b, tolerance):
    a, b = ravel_pytree(a)[0], ravel_pytree(b)[0]
    assert np.abs(b).max() > 0
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("name", FAMILIES)
def test_replay_equals_autodiff(name):
    """Learned starts, rates per coordinate, and steps without a weight; blocks of 5 do not divide 13, 128 are more than all."""
    window = 2 if name == "no start" else T
    single, double = (jnp.float32, 1e-5, LAST), (jnp.float64, 1e-12, SOME)
    for dtype, tolerance, ws in (single, double) if name == "lstm_gd_v2" else (double,):
        with jax.enable_x64(dtype == jnp.float64):
            plain, replayed = (
                estimate(kind, FAMILIES[name], dtype, ws, window, **more)
                for kind, more in (("autodiff", {}), ("replay", {"block": 128 if name == "lstm" else 5}))
            )
            for ours, theirs, part in zip(replayed, plain, np.reshape(ws, (-1, window)), strict=True):
                np.testing.assert_allclose(ours.loss, theirs.loss, rtol=tolerance)
                np.testing.assert_allclose(ours.losses, theirs.losses, rtol=tolerance)
                if part.any():
                    assert_close(ours.grad, theirs.grad, tolerance)


def loss_by_hand(optimizer, phi, ws):
    """The outer loss of the estimators' M tasks, by a plain loop."""
    total = 0.0
    for key in jax.random.split(jax.random.key(2), M):
        theta, task = jax.tree.map(lambda x: x.astype(jnp.float64), PROBLEM.init(jax.random.split(key)[0], ()))
        theta = optimizer.start(phi, theta)
        tx = optimizer.bind(phi)
        state = tx.init(theta)
        for w in ws:
            value, grad = jax.value_and_grad(PROBLEM.loss)(theta, task["support"])
            update, state = tx.update(grad, state, theta, value=value)
            theta = optax.apply_updates(theta, update)
            total += w * PROBLEM.loss(theta, task["query"]) / M
    return total


@pytest.mark.parametrize("kind", ["maml", "meta_sgd"])
def test_second_derivatives_are_those_of_finite_differences(kind):
    with jax.enable_x64(True):
        optimizer = family(kind, learning_rate=0.1)
        phi = phi_of(optimizer, jnp.float64)
        (found,) = estimate("auto", optimizer, jnp.float64, SOME, phi=phi)
        vector, unravel = ravel_pytree(phi)
        f = jax.jit(jax.vmap(lambda x: loss_by_hand(optimizer, unravel(x), SOME)))
        h = 1e-5
        near = jnp.stack([vector + h * sign * e for sign in (1, -1) for e in jnp.eye(vector.size)])
        np.testing.assert_allclose(found.loss, f(vector[None])[0], rtol=1e-10)
        want = jnp.subtract(*jnp.split(f(near), 2)) / (2 * h)
        np.testing.assert_allclose(ravel_pytree(found.grad)[0], want, rtol=1e-6, atol=1e-8)
        first = ravel_pytree(estimate("autodiff", family("maml_first_order", learning_rate=0.1), jnp.float64, SOME)[0].grad)[0]
        assert kind != "maml" or np.abs(first - want).max() > 0.01 * np.abs(want).max()  # second derivatives do matter here


def test_first_order_maml_moves_the_start_by_the_gradient_where_it_ends():
    """Finn, Abbeel and Levine 2017, Section 5.2: without second derivatives dtheta_T/dtheta_0 is the identity."""
    with jax.enable_x64(True):
        optimizer = family("maml_first_order", learning_rate=0.1, learn_rate=False)
        phi = phi_of(optimizer, jnp.float64)
        want = jnp.zeros_like(phi["start"])
        for key in jax.random.split(jax.random.key(2), M):
            theta, task = jax.tree.map(lambda x: x.astype(jnp.float64), PROBLEM.init(jax.random.split(key)[0], ()))
            theta = optimizer.start(phi, theta)
            for _ in range(T):
                grad = jax.grad(PROBLEM.loss)(theta, task["support"])
                theta = jax.tree.map(lambda x, g: x - 0.1 * g, theta, grad)
            want += ravel_pytree(jax.grad(PROBLEM.loss)(theta, task["query"]))[0] / M
        (found,) = estimate("auto", optimizer, jnp.float64, phi=phi)
        np.testing.assert_allclose(found.grad["start"], want, rtol=1e-10)


def two_devices():
    """Assert that two devices give the gradient of one: of two tasks, one each; of one task, half of its coordinates each."""
    for name, tasks in (("meta_sgd", 1), ("maml", 2)):
        optimizer, found = FAMILIES.get(name) or family(name), []
        spec = registry.estimator.specs()["auto"](window=T)
        phi = phi_of(optimizer, jnp.float32)
        for devices in (1, 2):
            build = lambda *n: registry.estimator.build(spec, PROBLEM, optimizer, n[0], Objective(LAST), n[1])  # noqa: B023
            made = _sharding.over_tasks(build, tasks, devices)
            state = jax.jit(made.init)(jax.random.key(2), phi, ())
            found.append(jax.tree.map(np.asarray, jax.jit(made.estimate)(jax.random.key(3), phi, (), state)[0]))
        assert_close(found[1].grad, found[0].grad, 1e-5)
        np.testing.assert_allclose(found[1].loss, found[0].loss, rtol=1e-5)


def test_two_devices_give_the_gradient_of_one():
    code = "import jax; jax.config.update('jax_num_cpu_devices', 2); from tests.inner import test_query as t; t.two_devices()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_validation_measures_what_is_trained_for():
    """The mean over fresh tasks of the weighted losses on the query."""
    optimizer = family("maml", learning_rate=0.1)
    phi = phi_of(optimizer, jnp.float32)
    spec = config_class()().train.model_copy(
        update={"horizon": T, "weights": list(SOME), "validation_seeds": 3, "episodes": 1, "tasks": M}
    )
    assert spec.step_weights == SOME and spec.model_copy(update={"weights": "last"}).step_weights == LAST
    spec = spec.model_copy(update={"estimator": registry.estimator.specs()["auto"](window=T)})
    made = registry.estimator.build(spec.estimator, PROBLEM, optimizer, M, Objective(SOME))
    found = meta_training(PROBLEM, optimizer, made, spec).validate(jax.random.key(0), phi, ())
    total = 0.0
    for key in jax.random.split(namespace(jax.random.key(0), "validation"), 3):
        theta, task = PROBLEM.init(jax.random.split(key)[0], ())
        theta = optimizer.start(phi, theta)
        for w in SOME:
            grad = jax.grad(PROBLEM.loss)(theta, task["support"])
            theta = jax.tree.map(lambda x, g: x - jnp.exp(phi["log_learning_rate"]) * g, theta, grad)
            total += w * PROBLEM.loss(theta, task["query"]) / 3
    np.testing.assert_allclose(found[""], total, rtol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["train.weights=[1, 2]"], "2 weights for the 100 steps of the horizon"),
        (["train.weights=[1, x]"], "expected a number, got 'x'"),
        (["train.weights=lst"], "did you mean 'last'"),
        ([f"train.weights={[0] * 40 + [1] * 60}"], "no step of the window from 1 to 20 has a weight"),
        (["optimizer={kind: maml}"], "a learned start needs window = horizon, but these are 20 and 100"),
    ],
)
def test_weights_and_starts_that_do_not_fit_are_refused_in_one_line(tmp_path, overrides, complaint):
    (tmp_path / "c.yaml").write_text("train: {horizon: 100}\n")
    with pytest.raises(ConfigError, match=complaint) as error:
        load(tmp_path / "c.yaml", overrides)
    assert len(error.value.faults) == 1


def test_a_start_of_another_size_is_refused():
    with pytest.raises(ValueError, match="the learned start has 13 parameters, and this optimizee 3"):
        FAMILIES["meta_sgd"].start(phi_of(FAMILIES["meta_sgd"], jnp.float32), jnp.zeros(3))
