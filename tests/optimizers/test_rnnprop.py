"""RNNprop against its formulas in a loop of NumPy, and its replay against autodiff."""

import jax
import jax.numpy as jnp
import numpy as np

from l2lcli import registry
from l2lcli.base import Objective
from l2lcli.inner.flat import flat
from l2lcli.optimizers.rnnprop import RnnpropSpec, rnnprop
from l2lcli.problems.quadratic import QuadraticSpec

SMALL = RnnpropSpec(features=4, hidden=3, decays=[0.9, 0.99])


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def by_hand(phi, grads):
    """Updates [T, N], one coordinate after the other."""
    out = np.zeros_like(grads)
    for n in range(grads.shape[1]):
        m = v = 0.0
        h, c = [np.zeros(3), np.zeros(3)], [np.zeros(3), np.zeros(3)]
        for t, g in enumerate(grads[:, n]):
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
            root = np.sqrt(v / (1 - 0.99 ** (t + 1))) + 1e-8
            x = phi["features"]["kernel"] @ [m / (1 - 0.9 ** (t + 1)) / root, g / root] + phi["features"]["bias"]
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
    rng = np.random.default_rng(1)  # no bias at 0, where it begins
    phi = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), phi)
    phi["readout"]["kernel"] *= 5  # so that the tanh is not the identity
    tx = family.bind(phi)
    run = jax.jit(lambda grads: jax.lax.scan(lambda state, g: tx.update(g, state)[::-1], tx.init(grads[0]), grads)[1])
    found = run(jnp.asarray(grads, jnp.float32))
    expected = by_hand(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), phi), grads)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-7)
    assert np.abs(found).max() <= 0.1 < 2 * np.abs(found).max()


def test_replay_equals_autodiff():
    with jax.enable_x64(True):
        family = flat(rnnprop(RnnpropSpec(features=4, layers=1, hidden=3)))
        problem = registry.problem.build(QuadraticSpec(dimension=5), None)
        wide = lambda tree: jax.tree.map(lambda x: x.astype(float) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)
        phi, found = wide(family.init(jax.random.key(1), jnp.zeros(5))), []
        for kind, more in {"autodiff": {"checkpoint": False}, "replay": {"block": 3}}.items():
            spec = registry.estimator.specs()[kind](window=3, **more)
            made = registry.estimator.build(spec, problem, family, 2, Objective((0.5, 1.0, 2.0, 1.0, 1.0, 3.0)))
            state, estimate = wide(jax.jit(made.init)(jax.random.key(2), phi, ())), jax.jit(made.estimate)
            of = []
            for _ in range(2):
                result, state = estimate(jax.random.key(3), phi, (), state)
                of.append(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(result.grad)]))
            found.append(np.stack(of))
        size = np.abs(found[0]).max(1)
        assert (size > 0).all() and (np.abs(found[1] - found[0]).max(1) / size < 1e-12).all()


def test_second_derivatives_are_finite_where_no_gradient_was_seen():
    family = rnnprop(RnnpropSpec(features=2, layers=1, hidden=2))
    phi = family.init(jax.random.key(0), jnp.zeros(1))

    def said(g):
        tx = family.bind(phi)
        return tx.update(g, tx.init(g))[0].sum()

    assert np.isfinite(jax.jit(jax.jacfwd(jax.grad(said)))(jnp.zeros(1))).all()
