"""Rows: within Optax's own transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import l2lcli
from tests.compatibility.by_hand import (
    BATCHES,
    STEPS,
    TARGETS,
    THETA,
    X,
    by_hand,
    expected,
    family,
    gradient,
    identical,
    loop,
    same,
)  # fmt: skip


def chain(name):
    def clipped(grads):
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
        assert norm > 0.3
        return jax.tree.map(lambda g: g * np.float32(0.3 / norm), grads)

    count = iter(range(STEPS))

    def then(updates, theta):
        share = 0.5 ** next(count)
        return jax.tree.map(lambda u, p: share * (u - 0.01 * p), updates, theta)

    tx = optax.chain(
        optax.clip_by_global_norm(0.3),
        l2lcli.load(name),
        optax.add_decayed_weights(-0.01),
        optax.contrib.reduce_on_plateau(factor=0.5, patience=1, atol=1e9),  # reads the loss, which is never good enough
    )
    same(loop(optax.with_extra_args_support(tx)), by_hand(name, fed=clipped, then=then))


def partition(name):
    tx = optax.partition(
        {"learned": l2lcli.load(name), "sgd": optax.sgd(0.1), "nothing": l2lcli.load(name)},
        {"b": "sgd", "s": "sgd", "w": "learned"},
    )
    found = loop(tx)
    init, update = family(name)
    theta, state = THETA, init({"w": THETA["w"]})
    for batch, after in zip(BATCHES, found, strict=True):
        value, grads = gradient(theta, batch)
        updates, state = update({"w": grads["w"]}, state, {"w": theta["w"]}, value)
        theta = {key: theta[key] + (updates["w"] if key == "w" else -0.1 * grads[key]) for key in theta}
        same(after, theta)


def masked(name):
    """`masked` hands what it hides through as it is; `freeze` makes nothing of it."""
    mask = {"b": False, "s": False, "w": True}
    tx = optax.chain(optax.masked(l2lcli.load(name), mask), optax.transforms.freeze({"b": True, "s": False, "w": False}))
    init, update = family(name)
    theta, state = THETA, init({"w": THETA["w"]})
    for batch, after in zip(BATCHES, loop(tx), strict=True):
        value, grads = gradient(theta, batch)
        updates, state = update({"w": grads["w"]}, state, {"w": theta["w"]}, value)
        theta = theta | {"w": theta["w"] + updates["w"], "s": theta["s"] + grads["s"]}
        same(after, theta)


def multi_steps(name):
    """Two gradients are averaged; what it reads of the loss is that of the second."""
    tx = optax.MultiSteps(l2lcli.load(name), 2)
    found = loop(tx)
    init, update = family(name)
    theta, state = THETA, init(THETA)
    identical(found[0], THETA)
    identical(found[2], found[1])
    for t in range(0, STEPS, 2):
        (_, first), (value, second) = gradient(theta, BATCHES[t]), gradient(theta, BATCHES[t + 1])
        mean = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
        updates, state = update(mean, state, theta, value)
        theta = jax.tree.map(lambda p, u: p + u, theta, updates)
        same(found[t + 1], theta)


def apply_if_finite(name):
    """A batch whose gradient is not finite leaves parameters and state where they were."""
    tx = optax.apply_if_finite(l2lcli.load(name), max_consecutive_errors=3)
    broken = X, jnp.full_like(TARGETS[0], jnp.nan)
    found = loop(tx, batches=[*BATCHES[:2], broken, *BATCHES[2:]])
    identical(found[1], found[2])
    same([*found[:2], *found[3:]], expected(name))


def inject_hyperparams(name):
    """`scale` by a schedule of the step, as numbers that are traced."""
    tx = optax.inject_hyperparams(l2lcli.load)(name, scale=lambda t: 1 / (1 + t), weight_decay=0.01)
    count = iter(range(STEPS))

    def then(updates, theta):
        share = 1 / (1 + next(count))
        return jax.tree.map(lambda u, p: share * u - 0.01 * p, updates, theta)

    same(loop(tx), by_hand(name, then=then))


ROWS = [chain, partition, masked, multi_steps, apply_if_finite, inject_hyperparams]
