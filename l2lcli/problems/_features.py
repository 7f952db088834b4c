"""What a small convolutional network makes of images: the measure of neural art (Gatys, Ecker and Bethge 2016)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from l2lcli.problems._convolution import convolve

if TYPE_CHECKING:
    import jax
    import numpy as np

CHANNELS = (16, 32, 48, 64)  # of the network with random kernels


def random_layers() -> list[tuple[np.ndarray, np.ndarray]]:
    """(kernel [3, 3, in, out], bias [out]) of each convolution, drawn as He et al. 2015 have it, always the same ones.

    Such features do for art, too (He, Wang and Hopcroft 2016, "A powerful generative model using random weights").
    """
    import numpy as np

    draw = np.random.RandomState(0)  # whose stream is frozen
    found, inputs = [], 3
    for outputs in CHANNELS:
        kernel = draw.standard_normal((3, 3, inputs, outputs)) * (2 / (9 * inputs)) ** 0.5
        found.append((kernel.astype(np.float32), np.zeros(outputs, np.float32)))
        inputs = outputs
    return found


def activations(layers: Any, images: jax.Array) -> list[jax.Array]:
    """Each convolution's output after its ReLU, [C, h, w, B]; images [3, H, W, B]. Between two, 2 x 2 average pooling.

    H and W are multiples of 2 to the number of layers less one.
    """
    import jax

    convolve, found, x = _fixed(), [], images
    for i, (kernel, bias) in enumerate(layers):
        if i:
            channels, height, width, count = x.shape
            x = x.reshape(channels, height // 2, 2, width // 2, 2, count).mean((2, 4))
        x = jax.nn.relu(convolve(x, kernel) + bias[:, None, None, None])
        found.append(x)
    return found


def gram(x: jax.Array) -> jax.Array:
    """Mean products of channels over the places of one image: [C, h, w, 1] -> [C, C]."""
    flat = x.reshape(x.shape[0], -1)
    return flat @ flat.T / flat.shape[1]


def _fixed():
    """`convolve` with a kernel that is not trained: nothing is computed of its gradient, and there need be none.

    Where tasks are split over devices, `convolve`'s own backward pass would give the kernel, of which there is one for all, a
    gradient for each task, and JAX refuses that.
    """
    import jax
    import jax.numpy as jnp

    @jax.custom_vjp
    def fixed(x, kernel):
        return convolve(x, kernel)

    def backward(kernel, g):
        return fixed(g, jnp.flip(kernel, (0, 1)).swapaxes(2, 3)), None

    # Through `fixed` again, for second derivatives go through this forward pass.
    fixed.defvjp(lambda x, kernel: (fixed(x, kernel), kernel), backward)
    return fixed
