"""A little regression, and its training by hand: the family bound to its phi, and not what `load` makes of it.

One update at a time on one device; gradients and updates are changed between, in plain sight.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import l2lcli
from l2lcli import registry
from l2lcli.runs import trained
from l2lcli.tree import nest

STEPS = 4
DRAW = np.random.default_rng(0)
X = jnp.asarray(np.linalg.qr(DRAW.normal(size=(8, 6)))[0] * np.sqrt(8), jnp.float32)  # so that singular values lie together
TARGETS = jnp.asarray(DRAW.normal(size=(STEPS, 8, 4)), jnp.float32)
BATCHES = [(X, y) for y in TARGETS]
THETA = {"b": jnp.zeros(4), "s": jnp.ones(()), "w": jnp.asarray(DRAW.normal(size=(6, 4)) / 2, jnp.float32)}


def loss(theta, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ theta["w"] + theta["b"][None]) * theta["s"] - y) ** 2)


LAYER = {"b": THETA["b"], "w": THETA["w"]}  # the same without the scale


def loss_of_layer(theta, batch):
    return loss(theta | {"s": 1.0}, batch)


gradient = jax.jit(jax.value_and_grad(loss))


@functools.cache
def family(name):
    """The trained family as meta-training runs it: (init, compiled update)."""
    found = trained.read(name)
    tx = registry.optimizer.build(found.optimizer).bind(nest(found.phi))
    return tx.init, jax.jit(lambda grads, state, theta, value: tx.update(grads, state, theta, value=value))


def by_hand(name, theta=THETA, fed=lambda grads: grads, then=lambda updates, theta: updates, batches=BATCHES, own=loss):
    """Parameters after each step; `fed` changes gradients, `then` updates."""
    init, update = family(name)
    state, after = init(theta), []
    own_gradient = gradient if own is loss else jax.jit(jax.value_and_grad(own))
    for batch in batches:
        value, grads = own_gradient(theta, batch)
        updates, state = update(fed(grads), state, theta, value)
        theta = jax.tree.map(lambda p, u: p + u, theta, then(updates, theta))
        after.append(theta)
    return after


@functools.cache
def expected(name):
    return by_hand(name)


@functools.cache
def expected_of_layer(name):
    return by_hand(name, LAYER, own=loss_of_layer)


def stepper(tx, own=loss, **how):
    def step(theta, state, batch):
        value, grads = jax.value_and_grad(own)(theta, batch)
        updates, state = tx.update(grads, state, theta, value=value)
        return optax.apply_updates(theta, updates), state

    return jax.jit(step, **how)


@functools.cache
def loaded(name):
    """What `load` gives, and its step on the dictionary above, compiled once for all rows."""
    tx = l2lcli.load(name)
    return tx, stepper(tx)


def loop(tx, theta=THETA, own=loss, batches=BATCHES, step=None):
    """Parameters after each step of somebody's ordinary loop."""
    step, state, after = step or stepper(tx, own), tx.init(theta), []
    for batch in batches:
        theta, state = step(theta, state, batch)
        after.append(theta)
    return after


def same(found, wanted, rtol=1e-3, atol=2e-4):
    """Equal trees, but for the order of sums, which differs from CPU to CPU; `general` orthogonalises, which amplifies rounding
    a thousand times."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=rtol, atol=atol)


def identical(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
