"""The LSTM step that meta-training spends its time in, and one window of it with a backward pass derived by hand.

Three things make it fast. The weights of a layer are one matrix [4H, inputs + H + 1] that multiplies (x, h, 1), so that a
step is one product and its three parts of the gradient are one product too. All four gates are one tanh, by
sigmoid(a) = (tanh(a / 2) + 1) / 2, whose halves are in that matrix. And coordinates are the last axis, so that nothing is
transposed; a bias beside the matrix would make `vmap` transpose.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Fused(NamedTuple):
    """phi of the LSTM as the step reads it."""

    layers: tuple[jax.Array, ...]  # [4H, inputs + H + 1] each; gates in the order input, forget, cell, output
    kernel: jax.Array  # [H] read-out, output scale included
    bias: jax.Array  # ()


def uniform(key: jax.Array, shape: tuple[int, ...], fan: int, dtype: Any) -> jax.Array:
    """As torch.nn.LSTMCell and torch.nn.Linear start: U(-1/√fan, 1/√fan). The key is consumed."""
    return jax.random.uniform(key, shape, dtype, -(fan**-0.5), fan**-0.5)


def fresh_layer(key: jax.Array, inputs: int, hidden: int, dtype: Any) -> dict[str, jax.Array]:
    """One layer's {"input" [4H, inputs], "recurrent" [4H, H], "bias" [4H]} to start from. The key is consumed."""
    shapes = {"input": (4 * hidden, inputs), "recurrent": (4 * hidden, hidden), "bias": (4 * hidden,)}
    keys = jax.random.split(key, 3)
    return {name: uniform(part, shape, hidden, dtype) for (name, shape), part in zip(shapes.items(), keys, strict=True)}


def fuse(phi: Any, forget_bias: float, output_scale: float) -> Fused:
    """phi with the halves, the forget-gate bias and the output scale multiplied in."""
    layers = tuple(fuse_layer(phi[name], forget_bias) for name in sorted(name for name in phi if name.startswith("lstm_")))
    return Fused(layers, output_scale * phi["readout"]["kernel"], output_scale * phi["readout"]["bias"])


def fuse_layer(weights: Any, forget_bias: float) -> jax.Array:
    """One layer's {"input", "recurrent", "bias"} as the matrix [4H, inputs + H + 1] that `cell` takes."""
    hidden = weights["recurrent"].shape[1]
    half = jnp.full((hidden, 1), 0.5, weights["bias"].dtype)
    scale = jnp.concatenate([half, half, 2 * half, half])
    bias = jnp.asarray(weights["bias"]).at[hidden : 2 * hidden].add(forget_bias)
    return scale * jnp.concatenate([weights["input"], weights["recurrent"], bias[:, None]], 1)


class Kept(NamedTuple):
    """What the backward pass needs of one layer's step, for a block of B coordinates."""

    inputs: jax.Array  # [inputs + H + 1, B] (x, h, 1)
    slopes: jax.Array  # [4, H, B] derivative of the new c (output gate: of the new h) by each gate's pre-activation
    through: jax.Array  # [H, B] derivative of the new h by the new c
    forget: jax.Array  # [H, B] derivative of the new c by the old one


def cell(weights: jax.Array, x: jax.Array, h: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array, Kept]:
    """One step of one layer (Hochreiter and Schmidhuber 1997, with a forget gate).

    Args:
      weights: [4H, inputs + H + 1].
      x: [inputs, B] of a block of B coordinates.
      h: [H, B].
      c: like h.

    Returns:
      The new h and c, and what the backward pass needs.
    """
    inputs = jnp.concatenate([x, h, jnp.ones_like(x[:1])])
    gates = jnp.tanh(weights @ inputs).reshape(4, *h.shape)
    i, f, z, o = 0.5 * gates[0] + 0.5, 0.5 * gates[1] + 0.5, gates[2], 0.5 * gates[3] + 0.5
    new_c = f * c + i * z
    tanh_c = jnp.tanh(new_c)
    # By selecting, not by concatenating: XLA's concatenations of computed parts are not vectorised on CPUs.
    gate = jnp.arange(4).reshape(4, 1, 1)
    part = [x[None] for x in (z, c, i, tanh_c)]
    partner = jnp.where(gate == 0, part[0], jnp.where(gate == 1, part[1], jnp.where(gate == 2, part[2], part[3])))
    slopes = partner * jnp.where(gate == 2, 1.0, 0.5) * (1 - gates * gates)
    return o * tanh_c, new_c, Kept(inputs, slopes, o * (1 - tanh_c * tanh_c), f)


def step(weights: Fused, h: tuple[jax.Array, ...], c: tuple[jax.Array, ...], x: jax.Array) -> tuple[Any, ...]:
    """One step of all layers for a block of B coordinates.

    Written for the block, not for one coordinate under `vmap`, whose rule for reshapes puts coordinates first and so
    transposes every array twice.

    Args:
      weights: phi, fused.
      h: [H, B] of each layer.
      c: the same.
      x: [inputs, B].

    Returns:
      The new h and c, the updates [B], what the backward pass needs of each layer, and what the read-out reads [H, B].
    """
    new_h, new_c, kept = [], [], []
    for layer, h_layer, c_layer in zip(weights.layers, h, c, strict=True):
        x, c_after, keep = cell(layer, x, h_layer, c_layer)
        new_h.append(x)
        new_c.append(c_after)
        kept.append(keep)
    return tuple(new_h), tuple(new_c), weights.kernel @ x + weights.bias, tuple(kept), x


@jax.custom_vjp
def window(weights: Fused, h: tuple[jax.Array, ...], c: tuple[jax.Array, ...], x: jax.Array) -> jax.Array:
    """Updates [W, B] of W steps from x [W, inputs, B] and the layers' h, c [H, B]; differentiable in the weights alone."""
    return _forward(weights, h, c, x)[0]


def _forward(weights, h, c, x):
    def one(state, x):
        h, c, *kept = step(weights, state[0], state[1], x)
        return (h, c), kept

    _, (updates, kept, read) = jax.lax.scan(one, (h, c), x)
    return updates, (weights, kept, read)


def _backward(residuals, d_updates):
    weights, kept, read = residuals
    hidden = read.shape[1]
    # Transposed once, not at every step; the bias takes no cotangent back.
    back = [jax.lax.optimization_barrier(layer[:, :-1].T) for layer in weights.layers]

    def step(carry, now):
        d_h, d_c, grads = carry
        d_update, kept, read = now
        new_h, new_c, layers = [], [], []
        d_below = weights.kernel[:, None] * d_update[None, :]
        for k in reversed(range(len(back))):
            d_gates, d_c_before = _cell_backward(kept[k], d_h[k] + d_below, d_c[k])
            d_inputs = back[k] @ d_gates
            below = d_inputs.shape[0] - hidden
            d_below = d_inputs[:below]
            new_h.append(d_inputs[below:])
            new_c.append(d_c_before)
            layers.append(grads.layers[k] + d_gates @ kept[k].inputs.T)
        grads = Fused(tuple(layers[::-1]), grads.kernel + read @ d_update, grads.bias)
        return (tuple(new_h[::-1]), tuple(new_c[::-1]), grads), None

    zeros = tuple(jnp.zeros_like(read[0]) for _ in back)
    start = zeros, zeros, jax.tree.map(jnp.zeros_like, weights)
    (_, _, grads), _ = jax.lax.scan(step, start, (d_updates, kept, read), reverse=True)
    return grads._replace(bias=d_updates.sum()), None, None, None


def _cell_backward(kept: Kept, d_h: jax.Array, d_c: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cotangents of a layer's pre-activations [4H, B] and of its old c, from those of its new h and c, [H, B] each."""
    d_c = d_c + d_h * kept.through
    d_gates = kept.slopes * jnp.where(jnp.arange(4).reshape(4, 1, 1) == 3, d_h[None], d_c[None])
    return d_gates.reshape(-1, d_h.shape[-1]), d_c * kept.forget


window.defvjp(_forward, _backward)
