"""Rows: in the loops of Flax and Equinox, and through a file."""

import pickle
from typing import Any

import equinox as eqx
import flax.linen
import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.training.train_state import TrainState

from tests.compatibility.by_hand import BATCHES, THETA, expected, expected_of_layer, identical, loaded, loop, same


class Network(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x):
        return jnp.tanh(flax.linen.Dense(4)(x))


def as_dense(theta):
    return {"params": {"Dense_0": {"bias": theta["b"], "kernel": theta["w"]}}}


class LossState(TrainState):
    def apply_gradients(self, *, grads, value, **changes):
        updates, opt_state = self.tx.update(grads, self.opt_state, self.params, value=value)
        params = optax.apply_updates(self.params, updates)
        return self.replace(step=self.step + 1, params=params, opt_state=opt_state, **changes)


def train_state(name):
    """Flax's own passes no loss: what reads it says so, and takes the class of four lines above."""
    network, reads_loss = Network(), name == "general"
    kind = LossState if reads_loss else TrainState
    state = kind.create(apply_fn=network.apply, params=as_dense(THETA), tx=loaded(name)[0])

    @jax.jit
    def step(state, batch):
        objective = lambda params: jnp.mean((state.apply_fn(params, batch[0]) - batch[1]) ** 2)
        value, grads = jax.value_and_grad(objective)(state.params)
        return state.apply_gradients(grads=grads, **({"value": value} if reads_loss else {}))

    if reads_loss:
        with pytest.raises(ValueError, match="call update with params and value=loss"):
            TrainState.apply_gradients(state, grads=state.params)
    for batch, wanted in zip(BATCHES, expected_of_layer(name), strict=True):
        state = step(state, batch)
        same(state.params, wanted)


def nnx_optimizer(name):
    class Layer(nnx.Module):
        def __init__(self):
            self.bias, self.kernel = nnx.Param(THETA["b"]), nnx.Param(THETA["w"])
            self.calls = nnx.Variable(jnp.zeros(()))  # no parameter

        def __call__(self, x):
            return jnp.tanh(x @ self.kernel[...] + self.bias[...][None])

    model = Layer()
    optimizer = nnx.Optimizer(model, loaded(name)[0], wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, batch):
        value, grads = nnx.value_and_grad(lambda model: jnp.mean((model(batch[0]) - batch[1]) ** 2))(model)
        optimizer.update(model, grads, value=value)

    for batch, wanted in zip(BATCHES, expected_of_layer(name), strict=True):
        step(model, optimizer, batch)
        same([model.bias[...], model.kernel[...]], wanted)


def equinox(name):
    """Of a module with a function and a number in it, which are None in what `eqx.filter` makes."""

    class Layer(eqx.Module):
        bias: jax.Array
        kernel: jax.Array
        activation: Any
        width: int

        def __call__(self, x):
            return self.activation(x @ self.kernel + self.bias[None])

    tx, _ = loaded(name)
    model = Layer(THETA["b"], THETA["w"], jnp.tanh, 4)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state, batch):
        objective = lambda model: jnp.mean((model(batch[0]) - batch[1]) ** 2)
        value, grads = eqx.filter_value_and_grad(objective)(model)
        updates, state = tx.update(grads, state, eqx.filter(model, eqx.is_inexact_array), value=value)
        return eqx.apply_updates(model, updates), state

    for batch, wanted in zip(BATCHES, expected_of_layer(name), strict=True):
        model, state = step(model, state, batch)
        same([model.bias, model.kernel], wanted)


def gone_on_with(name, restored):
    """Two steps, then what became of the state, then two more: the bits of four."""
    tx, step = loaded(name)
    theta, state = THETA, tx.init(THETA)
    for batch in BATCHES[:2]:
        theta, state = step(theta, state, batch)
    found = restored({"params": theta, "opt_state": state})
    theta, state = found["params"], found["opt_state"]
    for batch in BATCHES[2:]:
        theta, state = step(theta, state, batch)
    identical(theta, loop(tx, step=step)[-1])
    same(theta, expected(name)[-1])


def orbax(name, folder):
    def restored(tree):
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / name, tree)
            checkpointer.wait_until_finished()
            return checkpointer.restore(folder / name, jax.tree.map(ocp.utils.to_shape_dtype_struct, tree))

    gone_on_with(name, restored)


def pickled(name):
    gone_on_with(name, lambda tree: pickle.loads(pickle.dumps(tree)))


ROWS = [train_state, nnx_optimizer, equinox, orbax, pickled]
