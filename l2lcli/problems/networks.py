"""Flax networks that serve as optimizees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from flax import linen

Activation = Literal["sigmoid", "tanh", "relu", "elu", "gelu"]


def mlp(hidden: tuple[int, ...], outputs: int, activation: Activation, init_scale: float | None) -> linen.Module:
    """A multilayer perceptron over flattened inputs, [B, ...] -> [B, outputs] logits.

    Every kernel and every bias starts as N(0, init_scale²), as in Andrychowicz et al. 2016, Section 3.2; with None, kernels
    start as LeCun normal and biases as 0.
    """
    from flax import linen

    def dense(width):
        if init_scale is None:
            return linen.Dense(width)
        normal = linen.initializers.normal(init_scale)
        return linen.Dense(width, kernel_init=normal, bias_init=normal)

    layers = [lambda x: x.reshape(x.shape[0], -1)]
    for width in hidden:
        layers += [dense(width), getattr(linen, activation)]
    return linen.Sequential([*layers, dense(outputs)])


def convnet(channels: tuple[int, ...], kernel: int, hidden: tuple[int, ...], outputs: int, batch_norm: bool) -> linen.Module:
    """Convolutions with ReLU and 2 x 2 max-pooling, then a perceptron with ReLU: [B, H, W, C] or [B, H, W] -> [B, outputs].

    Andrychowicz et al. 2016, Section 3.3. Parameters are `conv_<i>/{kernel [K, K, in, out], bias [out]}`, then
    `fc_<i>/{kernel [in, out], bias [out]}`, all zero: whoever uses the network draws them. With `batch_norm` every layer but
    the last is normalised by the batch's own statistics before its bias is added, which is then what is called beta; there is
    no gamma. A bias before the normalisation would have no effect, so there is none.
    """
    from flax import linen

    from l2lcli.problems._convolution import convolve, normalise, pool

    class Layer(linen.Module):
        """[in, ..., B] -> [out, ..., B]: the batch is the last axis here."""

        width: int
        size: int | None = None
        normalised: bool = True

        @linen.compact
        def __call__(self, x):
            zeros = linen.initializers.zeros_init()
            window = () if self.size is None else (self.size, self.size)
            weights = self.param("kernel", zeros, (*window, x.shape[0], self.width))
            x = weights.T @ x if self.size is None else convolve(x, weights)
            if self.normalised:
                x = normalise(x)
            return x + self.param("bias", zeros, (self.width,)).reshape(-1, *[1] * (x.ndim - 1))

    class Convnet(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = (x if x.ndim == 4 else x[..., None]).transpose(3, 1, 2, 0)
            for i, width in enumerate(channels):
                x = pool(linen.relu(Layer(width, kernel, batch_norm, name=f"conv_{i}")(x)))
            x = x.reshape(-1, x.shape[-1])
            for i, width in enumerate(hidden):
                x = linen.relu(Layer(width, None, batch_norm, name=f"fc_{i}")(x))
            return Layer(outputs, None, False, name=f"fc_{len(hidden)}")(x).T

    return Convnet()
