"""RNNprop: an LSTM that is shown what Adam and RMSprop would do, and says a bounded step (Lv, Jiang and Li 2017)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from l2lcli import registry
from l2lcli.base import KindSpec, LearnedOptimizer, Replay
from l2lcli.optimizers._averages import Decay

if TYPE_CHECKING:
    import jax


class RnnpropSpec(KindSpec):
    """RNNprop (Lv, Jiang and Li 2017): moments of the gradient, a layer of ELU, LSTMs, a step bounded by a tanh."""

    kind: Literal["rnnprop"] = "rnnprop"
    decays: list[Decay] = Field(default=[0.95, 0.95], min_length=2, max_length=2)
    """Of the averages of the gradient and of its square."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the root of the averaged square."""
    features: int = Field(default=20, ge=1, le=1024)
    """Units of the layer below the LSTM."""
    layers: int = Field(default=2, ge=1, le=8)
    """LSTM layers."""
    hidden: int = Field(default=20, ge=1, le=1024)
    """Units per layer."""
    output_scale: float = Field(default=0.1, gt=0)
    """The longest step of a coordinate."""


class RnnpropState(NamedTuple):
    """State of N coordinates."""

    h: tuple[jax.Array, ...]  # [H, N] of each layer
    c: tuple[jax.Array, ...]  # [H, N] each
    mean: jax.Array  # [N] average of the gradient, not yet corrected for its start at 0
    square: jax.Array  # [N] of its square
    rest: tuple[jax.Array, jax.Array]  # () each: the weight of the start at 0 in these two


@registry.optimizer.register("rnnprop", RnnpropSpec)
def rnnprop(spec: RnnpropSpec) -> LearnedOptimizer:
    """Build the family.

    With m the average of the gradient g and v that of its square, both corrected for their start at 0 as Adam's are, a
    coordinate's update is output_scale · tanh(w · h + b), h the last LSTM layer's on ELU(A (m/r, g/r) + a), r = √v + epsilon.
    Gradients far above epsilon give the same update at any scale (above 1e19 their squares are no float32), and no update is
    longer than output_scale.

    phi: `features/{kernel [F, 2], bias [F]}`, `lstm_<i>/{input [4H, inputs], recurrent [4H, H], bias [4H]}` as of `lstm`, and
    `readout/{kernel [H], bias ()}`. Memory: 2 · layers · H + 2 numbers per coordinate.
    """
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    from l2lcli.inner.transformation import transformation
    from l2lcli.optimizers import _native
    from l2lcli.optimizers._lstm_cell import fresh_layer, fuse, uniform

    def init(key, theta):
        dtype = jax.tree.leaves(theta)[0].dtype
        features_key, readout_key, *keys = jax.random.split(key, spec.layers + 2)
        phi, inputs = {}, spec.features
        phi["features"] = {
            "kernel": uniform(features_key, (spec.features, 2), 2, dtype),
            "bias": jnp.zeros(spec.features, dtype),
        }
        for i, of_layer in enumerate(keys):
            phi[f"lstm_{i}"] = fresh_layer(jax.random.split(of_layer, 3), inputs, spec.hidden, dtype)
            inputs = spec.hidden
        phi["readout"] = {"kernel": uniform(readout_key, (inputs,), inputs, dtype), "bias": jnp.zeros((), dtype)}
        return phi

    def look(state, g):
        """Gradients [N] -> (m/√v, g/√v) [2, N], and the new averages."""
        of_mean, of_square = spec.decays
        mean = of_mean * state.mean + (1 - of_mean) * g
        square = of_square * state.square + (1 - of_square) * g * g
        rest = of_mean * state.rest[0], of_square * state.rest[1]
        corrected = square / (1 - rest[1])
        seen = corrected > 0  # a root has no second derivative at 0
        root = jnp.where(seen, jnp.sqrt(jnp.where(seen, corrected, 1)), 0) + spec.epsilon
        return jnp.stack([mean / (1 - rest[0]) / root, g / root]), (mean, square, rest)

    def bind(phi):
        def start(theta):
            flat, _ = ravel_pytree(theta)
            # One buffer a leaf, not one shared: whoever donates the state would else donate the same buffer twice.
            zeros = lambda: tuple(jnp.zeros((spec.hidden, flat.size), flat.dtype) for _ in range(spec.layers))
            rest = jnp.ones((), flat.dtype), jnp.ones((), flat.dtype)
            return RnnpropState(zeros(), zeros(), jnp.zeros_like(flat), jnp.zeros_like(flat), rest)

        def update(grad, state, theta=None, **extra):
            flat, unravel = ravel_pytree(grad)
            shown, averages = look(state, flat)
            features = jax.nn.elu(phi["features"]["kernel"] @ shown + phi["features"]["bias"][:, None])
            h, c, said = _native.step(fuse(phi, 1.0, 1.0), state.h, state.c, features)
            return unravel(spec.output_scale * jnp.tanh(said)), RnnpropState(h, c, *averages)

        return transformation(start, update)

    return LearnedOptimizer(init, bind, replay=Replay())
