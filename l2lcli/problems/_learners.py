"""Few-shot learners: the networks that an episode trains, [B, H, W] or [B, H, W, C] images -> [B, ways] logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from l2lcli.base import Spec, Theta
from l2lcli.problems._networks import Activation, mlp

if TYPE_CHECKING:
    import jax
    from flax import linen

Width = Annotated[int, Field(ge=1, le=10_000)]


class ConvLearner(Spec):
    """Blocks of 3 x 3 convolution, batch norm, ReLU and 2 x 2 max-pooling, then one linear layer (Vinyals et al. 2016)."""

    kind: Literal["conv"] = "conv"
    filters: Width = 32
    """Output channels of each convolution."""
    blocks: int = Field(default=4, ge=1, le=8)
    """How many; each halves the height and width, rounded down."""


class MlpLearner(Spec):
    """A multilayer perceptron on the pixels."""

    kind: Literal["mlp"] = "mlp"
    hidden: list[Width] = Field(default=[64], max_length=16)
    """Units of each hidden layer."""
    activation: Activation = "relu"
    """After each hidden layer."""


Learner = Annotated[ConvLearner | MlpLearner, Field(discriminator="kind")]


def network(spec: Learner, ways: int) -> linen.Module:
    """Build a learner.

    Parameters of the convolutional one: `conv_<i>/{kernel [3, 3, in, out], bias, scale, shift [out]}` and
    `fc/{kernel [in, ways], bias [ways]}`; batch norm uses the batch's own statistics, and has scale and shift. Kernels start
    as LeCun normal, scales as 1, all else as 0. With 32 filters on 84 x 84 colour images and 5 ways it has 32,901 (Ravi and
    Larochelle 2017, Section 5.1).
    """
    if isinstance(spec, MlpLearner):
        return mlp(tuple(spec.hidden), ways, spec.activation)
    return _convolutional(spec.filters, spec.blocks, ways)


def head(theta: Theta) -> str:
    """The name of a learner's last layer, the linear one; a multilayer perceptron's layers are numbered."""
    return max(theta, key=lambda name: (name == "fc", int(name.rpartition("_")[2]) if name != "fc" else 0))


def trunk(trained: Theta, theta: Theta) -> Theta:
    """A learner that begins as another one, which has other outputs: all layers but the last."""
    return trained | {head(theta): theta[head(theta)]}


def features(learner: Callable[[int], linen.Module], theta: Theta, x: jax.Array) -> jax.Array:
    """What a learner's last layer reads, [B, F]; `learner` builds it for a number of outputs."""
    import jax.numpy as jnp

    width = theta[head(theta)]["kernel"].shape[0]
    through = {"kernel": jnp.eye(width), "bias": jnp.zeros(width)}
    read: Any = learner(width).apply({"params": theta | {head(theta): through}}, x)
    return read


def _convolutional(filters: int, blocks: int, ways: int) -> linen.Module:
    from flax import linen

    from l2lcli.problems._convolution import convolve, normalise, pool

    class Block(linen.Module):
        """[in, H, W, B] -> [filters, H / 2, W / 2, B]: the batch is the last axis here."""

        @linen.compact
        def __call__(self, x):
            def each(name, start):
                return self.param(name, start, (filters,))[:, None, None, None]

            x = convolve(x, self.param("kernel", linen.initializers.lecun_normal(), (3, 3, x.shape[0], filters)))
            # The bias has no effect before a normalisation; it is there because the published learner has it.
            x = normalise(x + each("bias", linen.initializers.zeros))
            x = linen.relu(x * each("scale", linen.initializers.ones) + each("shift", linen.initializers.zeros))
            return pool(x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2])

    class Convolutional(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = (x if x.ndim == 4 else x[..., None]).transpose(3, 1, 2, 0)
            for i in range(blocks):
                x = Block(name=f"conv_{i}")(x)
            return linen.Dense(ways, name="fc")(x.reshape(-1, x.shape[-1]).T)

    return Convolutional()
