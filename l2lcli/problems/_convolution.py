"""Convolution, batch normalisation and pooling of optimizees, on arrays [C, H, W, B]: the batch is the last axis.

XLA's own convolution is slow on a CPU once it has to be differentiated (2 s a step for three layers of 16 channels on 128
CIFAR-10 images, on two cores), and slower still when `vmap` gives each task a kernel of its own. Written as matrix products
over contiguous runs of images it takes a twentieth of that, and tasks side by side are as quick as one after the other.
Where all shifts of the images side by side are small, one product does (an eighth to a half less time on the 5 to 75 images
of a few-shot episode); where they are large, they would not fit in the cache, and rows are taken one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax

PATCHES = 1 << 22  # numbers in all K x K shifts of a batch, 16 MB of float32, up to which they are laid side by side
EPSILON = 1e-3  # added to a variance: the default of Sonnet, which the authors' code is written with


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride 1, zero padding to the same size: x [C, H, W, B], kernel [K, K, C, D] with K odd -> [D, H, W, B]."""
    import jax

    if jax.default_backend() == "cpu":
        return _products()(x, kernel)
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("CHWN", "HWIO", "CHWN"))


def normalise(x: jax.Array, over_images: bool = True) -> jax.Array:
    """Mean 0 and variance 1 for each entry of the first axis, by the batch's own statistics (Ioffe and Szegedy 2015).

    With `over_images` false for each image instead, the last axis, by its own (Ba, Kiros and Hinton 2016).
    """
    import jax
    import jax.numpy as jnp

    rest = tuple(range(1, x.ndim)) if over_images else tuple(range(x.ndim - 1))
    centred = x - x.mean(rest, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(rest, keepdims=True) + EPSILON)


def pool(x: jax.Array, lowest: float = 0.0) -> jax.Array:
    """Maximum over 2 x 2, stride 2, of what is not below `lowest`: [C, H, W, B] -> [C, ⌈H/2⌉, ⌈W/2⌉, B]."""
    import jax.numpy as jnp

    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)), constant_values=lowest)
    x = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])


def _products():
    """`convolve` as matrix products, with a backward pass of its own."""
    import jax
    import jax.numpy as jnp

    def columns(x, size):
        """The K shifts of every row side by side: [K C, H + K - 1, W, B]."""
        width, p = x.shape[2], size // 2
        padded = jnp.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
        return jnp.concatenate([padded[:, :, j : j + width] for j in range(size)], 0)

    def small(x, size):
        return size * size * x.size <= PATCHES

    def patches(x, size):
        """All K x K shifts side by side: [K K C, H W B]."""
        shifted, height = columns(x, size), x.shape[1]
        return jnp.concatenate([shifted[:, i : i + height] for i in range(size)], 0).reshape(size * size * x.shape[0], -1)

    @jax.custom_vjp
    def convolve(x, kernel):
        size, _, c, d = kernel.shape
        _, height, width, batch = x.shape
        if small(x, size):
            return (kernel.reshape(-1, d).T @ patches(x, size)).reshape(d, height, width, batch)
        # One product for all rows of the kernel; each then belongs to another row of the result.
        flat = kernel.transpose(0, 3, 1, 2).reshape(size * d, size * c) @ columns(x, size).reshape(size * c, -1)
        rows = flat.reshape(size, d, height + size - 1, width, batch)
        return sum(rows[i, :, i : i + height] for i in range(size))

    def forward(x, kernel):
        return convolve(x, kernel), (x, kernel)

    def backward(kept, g):
        x, kernel = kept
        size, _, c, d = kernel.shape
        of_x = convolve(g, jnp.flip(kernel, (0, 1)).swapaxes(2, 3))
        if small(x, size):
            return of_x, (patches(x, size) @ g.reshape(d, -1).T).reshape(kernel.shape)
        height = x.shape[1]
        # Row by row: the K rows of x that a row of g was made from stay in the cache for their one product.
        sources = columns(x, size).transpose(1, 0, 2, 3).reshape(height + size - 1, size * c, -1)
        made = g.transpose(1, 0, 2, 3).reshape(height, d, -1)

        def one(i):
            source = jax.lax.dynamic_slice_in_dim(sources, i, size).reshape(size * size * c, -1)
            return source @ jax.lax.dynamic_index_in_dim(made, i, keepdims=False).T

        return of_x, jax.lax.map(one, jnp.arange(height)).sum(0).reshape(kernel.shape)

    convolve.defvjp(forward, backward)
    return convolve
