"""Flax networks that serve as optimizees."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from flax import linen

Activation = Literal["sigmoid", "tanh", "relu", "elu", "gelu", "silu", "softplus", "leaky_relu"]
Init = Literal["normal", "lecun", "he", "glorot"]


def initializers(init: Init, scale: float) -> tuple[Any, Any]:
    """How kernels and biases start.

    normal: N(0, scale²) both, as in Andrychowicz et al. 2016, Section 3.2. The others: kernels as LeCun et al. 1998 (variance
    1 / inputs), He et al. 2015 (2 / inputs) or Glorot and Bengio 2010 (2 / (inputs + outputs)) have them, normally distributed
    (cut at two standard deviations), and biases 0.
    """
    from flax.linen import initializers as of

    if init == "normal":
        return of.normal(scale), of.normal(scale)
    return {"lecun": of.lecun_normal, "he": of.he_normal, "glorot": of.glorot_normal}[init](), of.zeros_init()


def mlp(
    hidden: tuple[int, ...],
    outputs: int,
    activation: Activation,
    init: Init = "lecun",
    init_scale: float = 0.0,
    layer_norm: bool = False,
) -> linen.Module:
    """A multilayer perceptron over flattened inputs, [B, ...] -> [B, outputs] logits.

    Parameters are `layers_<i>/{kernel, bias}`; with `layer_norm` each hidden layer is normalised before its activation (Ba,
    Kiros and Hinton 2016), by `layers_<i>/{scale, bias}` of its own.
    """
    from flax import linen

    kernels, biases = initializers(init, init_scale)
    dense = lambda width: linen.Dense(width, kernel_init=kernels, bias_init=biases)
    layers = [lambda x: x.reshape(x.shape[0], -1)]
    for width in hidden:
        layers += [dense(width), *([linen.LayerNorm()] if layer_norm else []), getattr(linen, activation)]
    return linen.Sequential([*layers, dense(outputs)])


def convnet(
    channels: tuple[int, ...],
    kernel: int,
    hidden: tuple[int, ...],
    outputs: int,
    norm: Literal["batch", "layer"] | None,
    activation: Activation = "relu",
) -> linen.Module:
    """Convolutions with activation and 2 x 2 max-pooling, then a perceptron: [B, H, W, C] or [B, H, W] -> [B, outputs].

    Andrychowicz et al. 2016, Section 3.3. Parameters are `conv_<i>/{kernel [K, K, in, out], bias [out]}`, then
    `fc_<i>/{kernel [in, out], bias [out]}`, all zero: whoever uses the network draws them. With a `norm` every layer but the
    last is normalised before its bias is added, which is then what is called beta; there is no gamma: by the batch's own
    statistics for each channel, or by each image's own (layer). A bias before the normalisation would have no effect, or
    little, so there is none.
    """
    from flax import linen

    from l2lcli.problems._convolution import convolve, normalise, pool

    act = getattr(linen, activation)
    lowest = 0.0 if activation in ("relu", "sigmoid", "softplus") else -math.inf  # what an image of odd size is filled up with

    class Layer(linen.Module):
        """[in, ..., B] -> [out, ..., B]: the batch is the last axis here."""

        width: int
        size: int | None = None
        norm: str | None = None

        @linen.compact
        def __call__(self, x):
            zeros = linen.initializers.zeros_init()
            window = () if self.size is None else (self.size, self.size)
            weights = self.param("kernel", zeros, (*window, x.shape[0], self.width))
            x = weights.T @ x if self.size is None else convolve(x, weights)
            if self.norm is not None:
                x = normalise(x, over_images=self.norm == "batch")
            return x + self.param("bias", zeros, (self.width,)).reshape(-1, *[1] * (x.ndim - 1))

    class Convnet(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = (x if x.ndim == 4 else x[..., None]).transpose(3, 1, 2, 0)
            for i, width in enumerate(channels):
                x = pool(act(Layer(width, kernel, norm, name=f"conv_{i}")(x)), lowest)
            x = x.reshape(-1, x.shape[-1])
            for i, width in enumerate(hidden):
                x = act(Layer(width, None, norm, name=f"fc_{i}")(x))
            return Layer(outputs, None, None, name=f"fc_{len(hidden)}")(x).T

    return Convnet()
