"""Rows: under JAX's transformations."""

import functools

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.compatibility.by_hand import (
    BATCHES,
    LAYER,
    STEPS,
    TARGETS,
    THETA,
    X,
    by_hand,
    expected,
    expected_of_layer,
    loaded,
    loop,
    loss,
    loss_of_layer,
    same,
    stepper,
)  # fmt: skip


def jit_donated(name):
    tx, _ = loaded(name)
    theta = jax.tree.map(jnp.copy, THETA)
    state, step = tx.init(theta), stepper(tx, donate_argnums=(0, 1))
    for batch, wanted in zip(BATCHES, expected(name), strict=True):
        given = jax.tree.leaves((theta, state))
        theta, state = step(theta, state, batch)
        assert all(leaf.is_deleted() for leaf in given)
        same(theta, wanted)


def scan(name):
    tx, _ = loaded(name)

    def step(carry, y):
        value, grads = jax.value_and_grad(loss)(carry[0], (X, y))
        updates, state = tx.update(grads, carry[1], carry[0], value=value)
        theta = optax.apply_updates(carry[0], updates)
        return (theta, state), theta

    found = jax.jit(lambda theta: jax.lax.scan(step, (theta, tx.init(theta)), TARGETS)[1])(THETA)
    same([jax.tree.map(lambda leaf, t=t: leaf[t], found) for t in range(STEPS)], expected(name))


def vmap(name):
    tx, _ = loaded(name)
    starts = [jax.tree.map(lambda leaf, k=k: leaf + 0.1 * k, THETA) for k in range(3)]
    theta = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    state = jax.vmap(tx.init)(theta)
    step = jax.jit(jax.vmap(stepper(tx), in_axes=(0, 0, None)))
    for batch in BATCHES:
        theta, state = step(theta, state, batch)
    for k, start in enumerate(starts):
        same(jax.tree.map(lambda leaf, k=k: leaf[k], theta), by_hand(name, start)[-1])


def mesh(kind=AxisType.Auto):
    return jax.make_mesh((2,), ("device",), axis_types=(kind,))


def shard_map(name):
    tx, _ = loaded(name)

    @jax.jit
    @functools.partial(jax.shard_map, mesh=mesh(), in_specs=(P(), P(), P("device")), out_specs=P())
    def step(theta, state, batch):
        # Each device's gradient is that of its half of the batch.
        local = jax.tree.map(lambda leaf: jax.lax.pcast(leaf, "device", to="varying"), theta)
        value, grads = jax.lax.pmean(jax.value_and_grad(loss)(local, batch), "device")
        updates, state = tx.update(grads, state, theta, value=value)
        return optax.apply_updates(theta, updates), state

    same(loop(tx, step=step), expected(name))


def sharded(name):
    """Rows of the matrix and the vector lie on two devices; so do the state's arrays of coordinates, or those like them."""
    tx, _ = loaded(name)
    of = functools.partial(NamedSharding, mesh())
    of_theta = {"b": of(P("device")), "w": of(P("device"))}
    placed = jax.device_put(LAYER, of_theta)
    n = sum(leaf.size for leaf in jax.tree.leaves(LAYER))

    def place(path, leaf):
        if leaf.shape[-1:] == (n,):
            return of(P(*[None] * (leaf.ndim - 1), "device"))
        like = [sharding for key, sharding in of_theta.items() if jax.tree_util.keystr(path).endswith(f"['{key}']")]
        return like[0] if like else of(P())

    of_state = jax.tree.map_with_path(place, jax.eval_shape(tx.init, LAYER))
    assert sum(not s.is_fully_replicated for s in jax.tree.leaves(of_state)) >= 4
    step = stepper(tx, loss_of_layer, out_shardings=(of_theta, of_state))
    state = jax.jit(tx.init, out_shardings=of_state)(placed)
    for batch, wanted in zip(BATCHES, expected_of_layer(name), strict=True):
        placed, state = step(placed, state, batch)
        same(placed, wanted)
    kept = jax.tree.map(lambda leaf, sharding: leaf.sharding.is_equivalent_to(sharding, leaf.ndim), state, of_state)
    assert all(jax.tree.leaves(kept))
    # Nobody says where the state is to be: it is somewhere, and the numbers are the same.
    same(loop(tx, jax.device_put(LAYER, of_theta), loss_of_layer), expected_of_layer(name))


def explicit_axes(name):
    """A mesh whose axes are in the arrays' types, which no concatenation of them bears: inside, they are not."""
    tx, _ = loaded(name)  # before the mesh is set: phi is of no mesh's type
    of_theta, wanted = {"b": P("device"), "w": P("device")}, expected_of_layer(name)
    of_state = jax.tree.map(lambda leaf: P(), jax.eval_shape(tx.init, LAYER))
    explicit = mesh(AxisType.Explicit)
    with jax.set_mesh(explicit):
        placed = jax.device_put(LAYER, jax.tree.map(lambda spec: NamedSharding(explicit, spec), of_theta))
        state = jax.jit(jax.sharding.auto_axes(tx.init, out_sharding=of_state))(placed)
        updated = lambda grads, state, theta, value: tx.update(grads, state, theta, value=value)
        update = jax.jit(jax.sharding.auto_axes(updated, out_sharding=(of_theta, of_state)))
        of_batch = jax.jit(jax.sharding.auto_axes(jax.value_and_grad(loss_of_layer), out_sharding=(P(), of_theta)))
        for batch, after in zip(BATCHES, wanted, strict=True):
            value, grads = of_batch(placed, batch)
            updates, state = update(grads, state, placed, value)
            placed = optax.apply_updates(placed, updates)
            assert jax.tree.map(lambda leaf: leaf.sharding.spec, placed) == {"b": P("device"), "w": P("device", None)}
            same(placed, after)


ROWS = [jit_donated, scan, vmap, shard_map, sharded, explicit_axes]
