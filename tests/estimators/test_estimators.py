"""Every registered estimator's meta-gradient against finite differences in float64, and across windows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from l2lcli import registry
from l2lcli.base import Objective
from l2lcli.inner.unroll import fresh
from l2lcli.optimizers._preprocess import Identity
from l2lcli.optimizers.lstm import LstmSpec, lstm
from l2lcli.problems.quadratic import QuadraticSpec

T, W, M = 6, 3, 2
FAMILY = lstm(LstmSpec(layers=2, hidden=3, preprocess=Identity()))
PROBLEM = registry.problem.build(QuadraticSpec(dimension=3), None)
WEIGHTS = tuple(0.5 + 0.1 * t for t in range(T))
PERTURBED = {"es", "pes", "nres"}  # right in expectation alone: test_perturbed.py
KINDS = sorted({*registry.estimator.specs()} - {"auto", *PERTURBED})  # auto builds one of the others


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def estimator(kind, window=W, tasks=M, **more):
    return registry.estimator.build(
        registry.estimator.specs()[kind](window=window, **more), PROBLEM, FAMILY, tasks, Objective(WEIGHTS)
    )


def as_float64(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree)


def phi64():
    return as_float64(FAMILY.init(jax.random.key(1), {"theta": jnp.zeros(3)}))


def losses_by_hand(phi, inner, steps, fed=None):
    """f at steps 1 … of one optimizee, by a plain loop; `fed` replaces the gradients that the optimizer is shown."""
    tx, theta, state, out, shown = FAMILY.bind(phi), inner.theta, inner.opt, [], []
    for t in range(steps):
        grad = jax.grad(PROBLEM.loss)(theta, inner.task) if fed is None else fed[t]
        shown.append(grad)
        update, state = tx.update(grad, state, theta)
        theta = optax.apply_updates(theta, update)
        out.append(PROBLEM.loss(theta, inner.task))
    return jnp.stack(out), shown


def central_differences(f, phi, h=1e-6):
    flat, unravel = ravel_pytree(phi)
    steps = [(h * jnp.eye(flat.size)[i]) for i in range(flat.size)]
    f = jax.jit(f)
    return np.array([(f(unravel(flat + e)) - f(unravel(flat - e))) / (2 * h) for e in steps])


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_meta_gradient_equals_finite_differences(kind, second_order, float64):
    if second_order and "second_order" not in registry.estimator.specs()[kind].model_fields:
        pytest.skip(f"{kind} has no second order")
    phi = phi64()
    made = estimator(kind, window=T, **({"second_order": True} if second_order else {}))
    state = as_float64(jax.jit(made.init)(jax.random.key(2), phi, ()))
    found, _ = jax.jit(made.estimate)(jax.random.key(3), phi, (), state)
    inners = [jax.tree.map(lambda x, m=m: x[m] if x.ndim else x, state) for m in range(M)]
    # The paper's gradient is that of training runs in which what the optimizer is fed stays what it was.
    fed = [None if second_order else losses_by_hand(phi, inner, T)[1] for inner in inners]
    weights = jnp.asarray(WEIGHTS)

    def objective(phi):
        return sum(weights @ losses_by_hand(phi, inner, T, g)[0] for inner, g in zip(inners, fed, strict=True)) / M

    np.testing.assert_allclose(found.loss, objective(phi), rtol=1e-9)
    np.testing.assert_allclose(ravel_pytree(found.grad)[0], central_differences(objective, phi), rtol=1e-5, atol=1e-7)


def by_forward_mode(phi, direction, inner, discount, second_order):
    """The derivative of Σ w_t f_t along `direction`, carried forward step by step, and what is passed on cut down by hand."""

    def step(phi, theta, state, grad):
        update, state = FAMILY.bind(phi).update(grad, state, theta)
        return optax.apply_updates(theta, update), state

    zeros = lambda tree: jax.tree.map(jnp.zeros_like, tree)
    slope = jax.grad(PROBLEM.loss)
    now = inner.theta, inner.opt, slope(inner.theta, inner.task)
    moving, total = zeros(now), 0.0
    for t in range(T):
        (theta, state), (theta_dot, state_dot) = jax.jvp(step, (phi, *now), (direction, *moving))
        loss_dot = jax.jvp(lambda theta: PROBLEM.loss(theta, inner.task), (theta,), (theta_dot,))[1]
        grad, grad_dot = jax.jvp(lambda theta: slope(theta, inner.task), (theta,), (theta_dot,))
        total += WEIGHTS[t] * loss_dot
        cut = lambda tree: jax.tree.map(lambda x: discount * x, tree)
        now, moving = (theta, state, grad), (cut(theta_dot), state_dot, cut(grad_dot) if second_order else zeros(grad_dot))
    return total


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("kind", ["autodiff", "auto"])
def test_a_discount_cuts_down_what_each_step_passes_on(kind, second_order, float64):
    phi = phi64()
    direction = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape, x.dtype), phi)
    whole, cut = (estimator(kind, window=T, second_order=second_order, discount=discount) for discount in (1.0, 0.7))
    state = as_float64(jax.jit(whole.init)(jax.random.key(2), phi, ()))
    key = jax.random.key(3)
    (full, after), (found, same) = (jax.jit(made.estimate)(key, phi, (), state) for made in (whole, cut))
    jax.tree.map(np.testing.assert_array_equal, (full.losses, after.theta, after.opt), (found.losses, same.theta, same.opt))
    inners = [jax.tree.map(lambda x, m=m: x[m] if x.ndim else x, state) for m in range(M)]
    for discount, estimate in ((1.0, full), (0.7, found)):
        slope = sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (estimate.grad, direction)), strict=True))
        expected = sum(by_forward_mode(phi, direction, inner, discount, second_order) for inner in inners) / M
        np.testing.assert_allclose(slope, expected, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_windows_carry_the_optimizees_on_and_take_their_own_weights(kind):
    phi = FAMILY.init(jax.random.key(1), {"theta": jnp.zeros(3)})
    made, key = estimator(kind), jax.random.key(4)
    state, estimate = jax.jit(made.init)(key, phi, ()), jax.jit(made.estimate)
    inner = [fresh(PROBLEM, FAMILY, phi, k, ()) for k in jax.random.split(key, M)]
    expected = np.stack([losses_by_hand(phi, one, T)[0] for one in inner])
    for start in (0, W):
        found, state = estimate(key, phi, (), state)
        part = expected[:, start : start + W]
        np.testing.assert_allclose(found.losses, part.mean(0), rtol=1e-4)
        np.testing.assert_allclose(found.loss, (part @ np.array(WEIGHTS[start : start + W])).mean(), rtol=1e-4)
        assert state.t == start + W


@pytest.mark.parametrize("kind", KINDS)
def test_m_tasks_give_the_mean_of_their_gradients(kind):
    phi = FAMILY.init(jax.random.key(1), {"theta": jnp.zeros(3)})
    many, one = estimator(kind, tasks=3), estimator(kind, tasks=1)
    state = jax.jit(many.init)(jax.random.key(5), phi, ())
    together = jax.jit(many.estimate)(jax.random.key(6), phi, (), state)[0].grad
    estimate = jax.jit(one.estimate)
    alone = [
        estimate(jax.random.key(6), phi, (), jax.tree.map(lambda x, m=m: x[m : m + 1] if x.ndim else x, state))[0].grad
        for m in range(3)
    ]
    mean = jax.tree.map(lambda *g: sum(g) / 3, *alone)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), together, mean)
