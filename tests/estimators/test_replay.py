"""Replay equals plain autodiff in which what the optimizer is fed is stopped, whatever the block, family and problem."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2lcli import registry
from l2lcli.base import LearnedOptimizer, Objective, Replay
from l2lcli.estimators._blocks import together
from l2lcli.inner.flat import flat, ravel
from l2lcli.optimizers._averages import AveragesSpec
from l2lcli.optimizers._lstm_cell import fuse, window
from l2lcli.optimizers._preprocess import Identity
from l2lcli.optimizers.hand import hand
from l2lcli.optimizers.lstm import LstmSpec, lstm
from l2lcli.problems.classification import ClassificationSpec
from l2lcli.problems.quadratic import QuadraticSpec

T, M = 6, 2
WEIGHTS = tuple(0.3 + 0.2 * t for t in range(T))


def nosy():
    """A family whose update reads theta and the loss, and whose state has a scalar and a vector."""

    def bind(phi):
        def init(theta):
            return jnp.zeros(()), jnp.zeros_like(ravel(theta))

        def update(grad, state, theta=None, *, value, **extra):
            total, mean = state
            mean = jax.nn.sigmoid(phi["decay"]) * mean + grad
            step = -jnp.exp(phi["rate"]) * mean / (1 + value) - jnp.exp(phi["shrink"]) * theta * jnp.tanh(total)
            return step, (total + value, mean)

        return optax.GradientTransformationExtraArgs(init, update)

    phi = {"rate": -4.0, "decay": 0.3, "shrink": -3.0}
    return LearnedOptimizer(
        lambda key, theta: jax.tree.map(lambda x: jnp.asarray(x, ravel(theta).dtype), phi), bind, replay=Replay()
    )


FAMILIES = {
    "lstm": lstm(LstmSpec(layers=2, hidden=3)),
    "one layer": lstm(LstmSpec(layers=1, hidden=4, preprocess=Identity(), output_scale=1.0)),
    "averages": lstm(LstmSpec(layers=2, hidden=3, averages=AveragesSpec(decays=[0.5, 0.9]))),
    "no layer": lstm(LstmSpec(layers=0)),
    "adam": hand("adam", 0.01),
    "nag": hand("nag", 0.01),
    "nosy": nosy(),
}
PROBLEMS = {
    "quadratic": registry.problem.build(QuadraticSpec(dimension=6), None),  # as many coordinates as steps in the longest window
    "digits": registry.problem.build(ClassificationSpec(hidden=[2], batch_size=8), None),
}


def as_dtype(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def gradients(kind, family, problem, dtype, window, **more):
    """The meta-gradients of an episode's windows, and phi."""
    spec = registry.estimator.specs()[kind](window=window, **more)
    made = registry.estimator.build(spec, PROBLEMS[problem], flat(FAMILIES[family]), M, Objective(WEIGHTS))
    data = PROBLEMS[problem].data["train"]
    theta = as_dtype(jax.jit(PROBLEMS[problem].init)(jax.random.key(0), data)[0], dtype)
    phi = as_dtype(jax.jit(FAMILIES[family].init)(jax.random.key(1), theta), dtype)
    state, found = as_dtype(jax.jit(made.init)(jax.random.key(2), phi, data), dtype), []
    estimate = jax.jit(made.estimate)
    for _ in range(T // window):
        result, state = estimate(jax.random.key(3), phi, data, state)
        found.append(jax.tree.map(np.asarray, result))
    return found, state


def relative(a, b):
    """Largest difference, relative to the largest entry of the whole gradient."""
    a, b = (np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]) for tree in (a, b))
    assert np.abs(b).max() > 0
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize(
    ("family", "problem"), [*((family, "quadratic") for family in FAMILIES), ("lstm", "digits"), ("nosy", "digits")]
)
def test_replay_equals_autodiff(family, problem):
    """To 1e-5 in float32, 1e-12 in float64; blocks that do not divide N, windows that carry state on, unequal weights."""
    small = problem == "quadratic"
    cases = {jnp.float32: [(2, 7)], jnp.float64: [(6, 5), (2, 10_000)] if small else []}
    for dtype, sizes in cases.items():
        tolerance = 1e-5 if dtype == jnp.float32 else 1e-12
        with jax.enable_x64(dtype == jnp.float64):
            for length, block in sizes:
                plain, after = gradients("autodiff", family, problem, dtype, length, checkpoint=False)
                replayed, end = gradients("replay", family, problem, dtype, length, block=block)
                for ours, theirs in zip(replayed, plain, strict=True):
                    assert relative(ours.grad, theirs.grad) < tolerance, (dtype, length, block)
                    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=tolerance)
                assert relative(end.theta, after.theta) < tolerance


@pytest.mark.parametrize("family", ["lstm", "averages", "nosy"])
def test_what_is_laid_out_for_a_gpu_is_the_same(family, monkeypatch):
    """There all tasks run side by side, and blocks are as wide as the window lets them be."""
    with jax.enable_x64(True):
        here = gradients("replay", family, "digits", jnp.float64, 3, block=40)[0]
        with monkeypatch.context() as patch:
            patch.setattr(jax, "default_backend", lambda: "gpu")
            assert together(40, 3) > 100_000
            there = gradients("replay", family, "digits", jnp.float64, 3, block=40)[0]
    for ours, theirs in zip(there, here, strict=True):
        assert relative(ours.grad, theirs.grad) < 1e-12
        np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-12)


def test_chained_windows_end_in_one_long_windows_states_bit_for_bit():
    short, long = (gradients("replay", "lstm", "digits", jnp.float32, length)[1] for length in (2, 6))
    raw = lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(raw(a), raw(b)), short, long)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_hand_derived_backward_pass_is_that_of_autodiff(layers):
    with jax.enable_x64(True):
        family = lstm(LstmSpec(layers=layers, hidden=3))
        phi = as_dtype(family.init(jax.random.key(0), jnp.zeros(5)), jnp.float64)
        keys = jax.random.split(jax.random.key(1), 4)
        h, c = (tuple(jax.random.normal(jax.random.fold_in(key, i), (3, 5)) for i in range(layers)) for key in keys[:2])
        x, cotangent = jax.random.normal(keys[2], (7, 2, 5)), jax.random.normal(keys[3], (7, 5))
        ours, theirs = (
            jax.grad(lambda phi, f=f: jnp.vdot(cotangent, f(fuse(phi, 1.0, 0.1), h, c, x)))(phi) for f in (window, window.fun)
        )
        assert relative(ours, theirs) < 1e-13


def test_what_cannot_be_replayed_is_refused():
    whole = FAMILIES["adam"]._replace(replay=None)
    spec = registry.estimator.specs()["replay"]()
    with pytest.raises(ValueError, match="cannot be replayed block by block"):
        registry.estimator.build(spec, PROBLEMS["quadratic"], whole, M, Objective(WEIGHTS))


def test_memory_is_a_blocks_not_the_windows():
    """XLA's own figure of temporaries: replay needs a fraction of what differentiating the unroll does."""
    problem = registry.problem.build(ClassificationSpec(hidden=[64], batch_size=8), None)
    family, data = lstm(LstmSpec()), problem.data["train"]
    phi = jax.jit(lambda data: family.init(jax.random.key(1), problem.init(jax.random.key(0), data)[0]))(data)
    needed = {}
    for kind, more in {"replay": {}, "autodiff": {"checkpoint": False}}.items():
        made = registry.estimator.build(
            registry.estimator.specs()[kind](window=20, **more), problem, family, 1, Objective((1.0,) * 20)
        )
        state = jax.eval_shape(made.init, jax.random.key(2), phi, data)
        compiled = jax.jit(made.estimate).lower(jax.random.key(3), phi, data, state).compile()
        needed[kind] = compiled.memory_analysis().temp_size_in_bytes
    assert needed["replay"] < needed["autodiff"] / 5
