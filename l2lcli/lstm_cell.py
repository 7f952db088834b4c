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


def fuse(phi: Any, forget_bias: float, output_scale: float) -> Fused:
    """phi with the halves, the forget-gate bias and the output scale multiplied in."""
    layers = []
    for name in sorted(name for name in phi if name.startswith("lstm_")):
        weights = phi[name]
        hidden = weights["recurrent"].shape[1]
        half = jnp.full((hidden, 1), 0.5, weights["bias"].dtype)
        scale = jnp.concatenate([half, half, 2 * half, half])
        bias = weights["bias"].at[hidden : 2 * hidden].add(forget_bias)
        layers.append(scale * jnp.concatenate([weights["input"], weights["recurrent"], bias[:, None]], 1))
    return Fused(tuple(layers), output_scale * phi["readout"]["kernel"], output_scale * phi["readout"]["bias"])


class Kept(NamedTuple):
    """What the backward pass needs of one layer's step, for a block of B coordinates."""

    inputs: jax.Array  # [inputs + H + 1, B] (x, h, 1)
    gates: jax.Array  # [4H, B] the tanh
    tanh_c: jax.Array  # [H, B] of the new c
    c: jax.Array  # [H, B] the old one


def cell(weights: jax.Array, x: jax.Array, h: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array, Kept]:
    """One step of one layer (Hochreiter and Schmidhuber 1997, with a forget gate).

    Args:
      weights: [4H, inputs + H + 1].
      x: [inputs] of one coordinate, or [inputs, B] of a block.
      h: [H], or [H, B].
      c: like h.

    Returns:
      The new h and c, and what the backward pass needs.
    """
    inputs = jnp.concatenate([x, h, jnp.ones_like(x[:1])])
    gates = jnp.tanh(weights @ inputs)
    i, f, z, o = _parts(gates)
    new_c = (0.5 * f + 0.5) * c + (0.5 * i + 0.5) * z
    tanh_c = jnp.tanh(new_c)
    return (0.5 * o + 0.5) * tanh_c, new_c, Kept(inputs, gates, tanh_c, c)


def _parts(gates: jax.Array) -> tuple[jax.Array, ...]:
    hidden = gates.shape[0] // 4
    return tuple(gates[k * hidden : (k + 1) * hidden] for k in range(4))


@jax.custom_vjp
def window(weights: Fused, h: tuple[jax.Array, ...], c: tuple[jax.Array, ...], x: jax.Array) -> jax.Array:
    """Updates [W, B] of W steps from x [W, inputs, B] and the layers' h, c [H, B]; differentiable in the weights alone."""
    return _forward(weights, h, c, x)[0]


def _forward(weights, h, c, x):
    def step(state, x):
        h, c = state
        new_h, new_c, kept = [], [], []
        for layer, h_layer, c_layer in zip(weights.layers, h, c, strict=True):
            x, c_after, keep = cell(layer, x, h_layer, c_layer)
            new_h.append(x)
            new_c.append(c_after)
            kept.append(keep)
        return (tuple(new_h), tuple(new_c)), (weights.kernel @ x + weights.bias, tuple(kept), x)

    _, (updates, kept, read) = jax.lax.scan(step, (h, c), x)
    return updates, (weights, kept, read)


def _backward(residuals, d_updates):
    weights, kept, read = residuals
    hidden = read.shape[1]
    # Transposed once, not at every step; the bias takes no cotangent back.
    back = [layer[:, :-1].T for layer in weights.layers]

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
    """Cotangents of a layer's gate inputs [4H, B] and of its old c, from those of its new h and c, [H, B] each."""
    i, f, z, o = _parts(kept.gates)
    d_c = d_c + d_h * (0.5 * o + 0.5) * (1 - kept.tanh_c**2)
    d_gates = jnp.concatenate([
        d_c * z * (0.5 - 0.5 * i * i),
        d_c * kept.c * (0.5 - 0.5 * f * f),
        d_c * (0.5 * i + 0.5) * (1 - z * z),
        d_h * kept.tanh_c * (0.5 - 0.5 * o * o),
    ])  # fmt: skip
    return d_gates, d_c * (0.5 * f + 0.5)


window.defvjp(_forward, _backward)
