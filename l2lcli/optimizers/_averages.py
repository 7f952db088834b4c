"""Running averages of the gradient, which an optimizer can be shown beside the gradient itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field

from l2lcli.base import Spec

if TYPE_CHECKING:
    import jax

SMALLEST = 1e-12  # added to the root, as Adam's epsilon
P = 10.0  # the logarithm of the root is cut at -P and divided by it, as `log_sign` does with the gradient's

Decay = Annotated[float, Field(gt=0, le=0.99999)]  # nearer 1 a float32 cannot be told from it


class AveragesSpec(Spec):
    """What RNNprop is shown (Lv, Jiang and Li 2017), at several time scales (Metz et al. 2020).

    Logarithm and sign say little of a gradient's exact size, and what is not shown cannot be averaged: a cell would have to
    learn the exponential first. The averages are linear in the gradients, as momentum is.
    """

    decays: list[Decay] = Field(default=[0.5, 0.9, 0.99], min_length=1, max_length=8)
    """Of the averages of the gradient, one feature each."""
    square_decay: Decay = 0.99
    """Of the average of its square, by whose root the gradient and its averages are divided."""


class Averages(NamedTuple):
    """State of N coordinates."""

    mean: jax.Array  # [K, N] averages of the gradient, not yet corrected for their start at 0
    square: jax.Array  # [N] of its square
    rest: tuple[jax.Array, ...]  # K + 1 numbers (): the weight of the start at 0 in each average, and in that of the square
    seen: jax.Array  # () gradients seen


def averages_shown(spec: AveragesSpec) -> int:
    """How many numbers `shown` has per coordinate."""
    return len(spec.decays) + 2


def unseen(spec: AveragesSpec, flat: jax.Array) -> Averages:
    """The state before the first gradient, of coordinates such as [N]."""
    import jax.numpy as jnp

    rest = tuple(jnp.ones((), flat.dtype) for _ in range(len(spec.decays) + 1))  # a buffer each
    return Averages(jnp.zeros((len(spec.decays), flat.size), flat.dtype), jnp.zeros_like(flat), rest, jnp.zeros((), flat.dtype))


def see(spec: AveragesSpec, state: Averages, g: jax.Array) -> tuple[Averages, jax.Array, jax.Array]:
    """Take gradients [N] in. The numbers () of the state may also be [N], where coordinates of several tasks are one vector.

    Returns:
      The new state; ratios [K + 1, N], the averages and the gradient, divided by the root of the averaged square; and the root
      [N]. Averages are corrected for their start at 0 (Kingma and Ba 2015, Section 3).
    """
    import jax.numpy as jnp

    decays = *spec.decays, spec.square_decay
    rest = tuple(decay * weight for decay, weight in zip(decays, state.rest, strict=True))
    mean = [decay * row + (1 - decay) * g for decay, row in zip(spec.decays, state.mean, strict=True)]
    square = spec.square_decay * state.square + (1 - spec.square_decay) * g * g
    # The maximum is for second derivatives, which are then finite where no gradient was seen.
    root = jnp.sqrt(jnp.maximum(square / (1 - rest[-1]), SMALLEST**2)) + SMALLEST
    corrected = [row / (1 - weight) for row, weight in zip(mean, rest[:-1], strict=True)]
    ratios = jnp.stack([row / root for row in [*corrected, g]])
    return Averages(jnp.stack(mean), square, rest, state.seen + 1), ratios, root


def bounded(root: jax.Array) -> jax.Array:
    """The root of the averaged square, where it is not too small to be told from 0: at least e^-10."""
    import jax.numpy as jnp

    return jnp.maximum(root, jnp.exp(-P))


def shown(ratios: jax.Array, root: jax.Array) -> jax.Array:
    """What `see` found as features [K + 2, N]: the ratios, and log(root) / 10, at least -1."""
    import jax.numpy as jnp

    return jnp.concatenate([ratios, jnp.log(bounded(root))[None] / P])
