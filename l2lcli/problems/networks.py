"""Flax networks that serve as optimizees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from flax import linen

Activation = Literal["sigmoid", "tanh", "relu", "elu", "gelu"]


def mlp(hidden: tuple[int, ...], outputs: int, activation: Activation, init_scale: float) -> linen.Module:
    """A multilayer perceptron over flattened inputs, [B, ...] -> [B, outputs] logits.

    Every kernel and every bias starts as N(0, init_scale²), as in Andrychowicz et al. 2016, Section 3.2.
    """
    from flax import linen

    def dense(width):
        normal = linen.initializers.normal(init_scale)
        return linen.Dense(width, kernel_init=normal, bias_init=normal)

    layers = [lambda x: x.reshape(x.shape[0], -1)]
    for width in hidden:
        layers += [dense(width), getattr(linen, activation)]
    return linen.Sequential([*layers, dense(outputs)])
