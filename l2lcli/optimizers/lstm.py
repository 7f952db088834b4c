"""The paper's optimizer: one small LSTM, shared by all coordinates, with a state of its own for each of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from l2lcli import registry
from l2lcli.base import KindSpec, LearnedOptimizer, Replay
from l2lcli.optimizers._averages import Averages, AveragesSpec, averages_shown, see, unseen
from l2lcli.optimizers._averages import shown as shown_of_averages
from l2lcli.optimizers._preprocess import LogSign, Preprocess, features, preprocess
from l2lcli.optimizers._start import learning_start

if TYPE_CHECKING:
    import jax


class LstmSpec(KindSpec):
    """Coordinatewise LSTM (Andrychowicz et al. 2016, Section 2.1)."""

    kind: Literal["lstm"] = "lstm"
    layers: int = Field(default=2, ge=0, le=8)
    """LSTM layers; 0 leaves the linear read-out alone."""
    hidden: int = Field(default=20, ge=1, le=1024)
    """Units per layer."""
    preprocess: Preprocess = LogSign()
    """What the LSTM is shown of a gradient."""
    averages: AveragesSpec | None = None
    """Running averages that it is shown, too; null, as published, leaves all memory to the LSTM."""
    output_scale: float = Field(default=0.1, gt=0)
    """The read-out is multiplied by this to give the update."""
    fan_in: int | None = Field(default=None, ge=1)
    """Updates of a matrix with more rows than this, of a layer with more inputs, are made smaller in proportion."""
    forget_bias: float = 1.0
    """Added to the forget gate's input."""
    memory: float | None = Field(default=None, ge=2)
    """The cells' time scales at the start are drawn between 2 and this many steps, evenly in the logarithm; null: all short."""
    learn_start: bool = False
    """Learn theta_0, too; needs a window as long as the horizon."""


class LstmState(NamedTuple):
    """State of N coordinates, layer by layer; N is the LAST axis, so that no step transposes."""

    h: tuple[jax.Array, ...]  # [H, N] each
    c: tuple[jax.Array, ...]  # [H, N] each
    seen: Averages | None = None  # of `LstmSpec.averages`


@registry.optimizer.register("lstm", LstmSpec)
def lstm(spec: LstmSpec) -> LearnedOptimizer:
    """Build the family.

    phi: `lstm_<i>/{input [4H, inputs], recurrent [4H, H], bias [4H]}` and `readout/{kernel [inputs], bias ()}`, and, with
    `learn_start`, `start [N]`.
    Gates are stacked in the order input, forget, cell, output. The update of a coordinate is `output_scale` times a
    linear read-out of the last layer's h; it is added to the coordinate, so its sign is the LSTM's own affair. With `fan_in`
    it is smaller for a matrix with more inputs.
    """
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    from l2lcli.inner.transformation import transformation
    from l2lcli.optimizers import _native
    from l2lcli.optimizers._lstm_cell import fresh_layer, fuse, uniform

    show = preprocess(spec.preprocess)

    def look(seen, flat):
        """Gradients [N] -> what the LSTM is shown [inputs, N]."""
        shown = jax.vmap(show, out_axes=-1)(flat)
        if spec.averages is None:
            return None, shown
        seen, ratios, root = see(spec.averages, seen, flat)
        return seen, jnp.concatenate([shown, shown_of_averages(ratios, root)])

    def shrunk(updates):
        """As in Yang et al. 2022 (Tensor Programs V, Table 3): a layer's sum over n inputs moves by n of their updates."""
        if (largest := spec.fan_in) is None:
            return updates
        factor = lambda shape: min(1.0, largest / math.prod(shape[:-1])) if len(shape) > 1 else 1.0
        return jax.tree.map(lambda leaf: factor(leaf.shape) * leaf, updates)

    def init(key, theta):
        dtype = jax.tree.leaves(theta)[0].dtype
        phi, inputs = {}, features(spec.preprocess) + (averages_shown(spec.averages) if spec.averages else 0)
        keys = jax.random.split(key, spec.layers + 1)

        def chrono(key, bias, memory):  # Tallec and Ollivier 2018: a cell of time scale T forgets 1/T a step, and takes in 1/T
            scale = jnp.log(memory - 1) * jax.random.uniform(key, (spec.hidden,), dtype)
            return bias.at[: spec.hidden].set(-scale).at[spec.hidden : 2 * spec.hidden].set(scale - spec.forget_bias)

        for i in range(spec.layers):
            phi[f"lstm_{i}"] = fresh_layer(keys[i], inputs, spec.hidden, dtype)
            if spec.memory is not None:
                bias_key = jax.random.split(keys[i], 3)[2]
                phi[f"lstm_{i}"]["bias"] = chrono(bias_key, phi[f"lstm_{i}"]["bias"], spec.memory)
            inputs = spec.hidden
        phi["readout"] = {"kernel": uniform(keys[-1], (inputs,), inputs, dtype), "bias": jnp.zeros((), dtype)}
        return phi

    def bind(phi):
        def start(theta):
            flat, _ = ravel_pytree(theta)
            # One buffer a leaf, not one shared: whoever donates the state would else donate the same buffer twice.
            zeros = lambda: tuple(jnp.zeros((spec.hidden, flat.size), flat.dtype) for _ in range(spec.layers))
            return LstmState(zeros(), zeros(), unseen(spec.averages, flat) if spec.averages else None)

        def update(grad, state, theta=None, **extra):
            flat, unravel = ravel_pytree(grad)
            seen, shown = look(state.seen, flat)
            h, c, updates = _native.step(fuse(phi, spec.forget_bias, spec.output_scale), state.h, state.c, shown)
            return shrunk(unravel(updates)), LstmState(h, c, seen)

        return transformation(start, update)

    def whole_window(phi, state, grads):
        # Without averages nothing is carried from step to step: one operation over the window, not a loop.
        shown = jax.lax.scan(look, state.seen, grads)[1] if spec.averages else jax.vmap(lambda g: look(None, g)[1])(grads)
        return _native.window(fuse(phi, spec.forget_bias, spec.output_scale), state.h, state.c, shown)

    # Replay sees coordinates, which do not tell what matrix they are of.
    replay = Replay(window=whole_window if spec.layers else None, block=_native.block) if spec.fan_in is None else None
    family = LearnedOptimizer(init, bind, replay=replay)
    return learning_start(family) if spec.learn_start else family
