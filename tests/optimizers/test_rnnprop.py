"""RNNprop against its formulas in a loop of NumPy, and its replay against autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2lcli import registry
from l2lcli.base import Objective
from l2lcli.inner.flat import flat
from l2lcli.optimizers.rnnprop import RnnpropSpec, rnnprop
from l2lcli.problems.quadratic import QuadraticSpec

SMALL = RnnpropSpec(features=4, hidden=3)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def by_hand(phi, grads):
    """Updates [T, N], one coordinate after the other."""
    out = np.zeros_like(grads)
    for n in range(grads.shape[1]):
        m = v = 0.0
        h, c = [np.zeros(3), np.zeros(3)], [np.zeros(3), np.zeros(3)]
        for t, g in enumerate(grads[:, n]):
            m, v = 0.95 * m + 0.05 * g, 0.95 * v + 0.05 * g**2
            correction = 1 - 0.95 ** (t + 1)
            root = np.sqrt(v / correction) + 1e-8
            x = phi["features"]["kernel"] @ [m / correction / root, g / root] + phi["features"]["bias"]
            x = np.where(x > 0, x, np.exp(x) - 1)
            for i in range(2):
                of = phi[f"lstm_{i}"]
                takes, keeps, cell, gives = np.split(of["input"] @ x + of["recurrent"] @ h[i] + of["bias"], 4)
                c[i] = sigmoid(keeps + 1) * c[i] + sigmoid(takes) * np.tanh(cell)
                x = h[i] = sigmoid(gives) * np.tanh(c[i])
            out[t, n] = 0.1 * np.tanh(phi["readout"]["kernel"] @ x + phi["readout"]["bias"])
    return out


def test_updates_are_those_of_the_formulas():
    family = rnnprop(SMALL)
    grads = np.random.default_rng(0).normal(size=(7, 3)) * [1.0, 1e-9, 1e4]  # one of a size that epsilon is not small beside
    grads[:2, 0] = 0
    phi = family.init(jax.random.key(0), jnp.zeros(3))
    assert {name: leaf.shape for name, leaf in phi["features"].items()} == {"kernel": (4, 2), "bias": (4,)}
    phi["readout"]["kernel"] *= 5  # so that the tanh is not the identity
    tx, found = family.bind(phi), []
    state = tx.init(jnp.zeros(3))
    for g in grads.astype(np.float32):
        update, state = tx.update(jnp.asarray(g), state)
        found.append(update)
    expected = by_hand(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), phi), grads)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-7)
    assert np.abs(found).max() <= 0.1 < 2 * np.abs(found).max()


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.float64, 1e-12)])
def test_replay_equals_autodiff(dtype, tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        problem, family = registry.problem.build(QuadraticSpec(dimension=5), None), flat(rnnprop(SMALL))
        cast = lambda tree: jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)
        phi, found = cast(family.init(jax.random.key(1), jnp.zeros(5, dtype))), {}
        for kind, more in {"autodiff": {}, "replay": {"block": 3}}.items():
            spec = registry.estimator.specs()[kind](window=3, **more)
            made = registry.estimator.build(spec, problem, family, 2, Objective((0.5, 1.0, 2.0, 1.0, 1.0, 3.0)))
            state, grads = cast(made.init(jax.random.key(2), phi, ())), []
            for _ in range(2):
                result, state = jax.jit(made.estimate)(jax.random.key(3), phi, (), state)
                grads.append(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(result.grad)]))
            found[kind] = np.stack(grads)
        size = np.abs(found["autodiff"]).max(1)
        assert (size > 0).all()
        assert (np.abs(found["replay"] - found["autodiff"]).max(1) / size < tolerance).all()


def test_second_derivatives_are_finite_where_no_gradient_was_seen():
    family = rnnprop(SMALL)
    phi = family.init(jax.random.key(0), jnp.zeros(2))

    def said(g):
        tx = family.bind(phi)
        return tx.update(g, tx.init(g))[0].sum()

    assert np.isfinite(jax.jacfwd(jax.grad(said))(jnp.zeros(2))).all()
