"""Rows: parameters of any types, shapes and containers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import l2lcli
from tests.compatibility.by_hand import BATCHES, THETA, by_hand, expected, family, gradient, identical, loaded, loop, loss, same


def half_precision(name):
    """bfloat16, float16 and float32 beside each other: each moves by the float32 update, rounded to its own type."""
    in_types(name, {"b": jnp.float16, "s": jnp.float32, "w": jnp.bfloat16})


def bfloat16(name):
    """Throughout."""
    in_types(name, dict.fromkeys(THETA, jnp.bfloat16))


def in_types(name, types):
    half = lambda tree: {key: leaf.astype(types[key]) for key, leaf in tree.items()}
    wide = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)
    of_leaves = lambda tree: [leaf.dtype for leaf in jax.tree.leaves(tree)]
    tx = l2lcli.load(name)
    init, update = family(name)
    theta, state, own_state = half(THETA), tx.init(half(THETA)), init(THETA)
    step = jax.jit(tx.update)
    for batch in BATCHES:
        value, grads = gradient(theta, batch)
        updates, new = step(grads, state, theta, value=value)
        assert {key: leaf.dtype for key, leaf in updates.items()} == types
        assert of_leaves(new) == of_leaves(state)  # or no scan would take it
        own, own_state = update(wide(grads), own_state, wide(theta), value.astype(jnp.float32))
        identical(updates, half(own))
        theta, state = optax.apply_updates(theta, updates), new
    if name != "general":  # without parameters, an update is of its gradient's type
        assert {key: leaf.dtype for key, leaf in jax.jit(tx.update)(grads, state)[0].items()} == types


class Pair(NamedTuple):
    first: Any
    second: Any


@jax.tree_util.register_pytree_node_class
class Own:
    def __init__(self, *parts):
        self.parts = parts

    def tree_flatten(self):
        return self.parts, None

    @classmethod
    def tree_unflatten(cls, _, parts):
        return cls(*parts)


def containers(name):
    """Tuples in lists in a class of one's own, with None between and leaves without numbers: as if these were not there."""
    empty = jnp.zeros((0, 3))
    theta = Own(Pair([THETA["b"], None], jnp.zeros(0)), (THETA["s"], {"empty": empty, "w": THETA["w"]}))

    def plain(theta):
        pair, (s, rest) = theta.parts
        return {"b": pair.first[0], "s": s, "w": rest["w"]}

    found = loop(loaded(name)[0], theta, lambda theta, batch: loss(plain(theta), batch))
    assert jax.tree.structure(found[-1]) == jax.tree.structure(theta)
    assert found[-1].parts[1][1]["empty"].shape == (0, 3)
    same([plain(theta) for theta in found], expected(name))


def bare(name):
    """One array, and one number, that are no tree."""
    for theta, own in (
        (THETA["w"], lambda w, batch: loss({"b": THETA["b"], "s": 1.0, "w": w}, batch)),
        (THETA["s"], lambda s, batch: loss(THETA | {"s": s}, batch)),
    ):
        same(loop(loaded(name)[0], theta, own), by_hand(name, theta, own=own))


ROWS = [half_precision, bfloat16, containers, bare]
