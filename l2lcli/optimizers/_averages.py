"""Running averages of the gradient, which an optimizer can be shown beside the gradient itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field

from l2lcli.base import Spec

if TYPE_CHECKING:
    import jax

SMALLEST = 1e-12  # added to the root, as Adam's epsilon
P = 10.0  # the logarithm of the root is cut at -P and divided by it, as `log_sign` does with the gradient's

Decay = Annotated[float, Field(gt=0, lt=1)]


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
    seen: jax.Array  # [N] gradients seen; an array, so that a block of coordinates is a state, too


def averages_shown(spec: AveragesSpec) -> int:
    """How many numbers `see` shows per coordinate."""
    return len(spec.decays) + 2


def unseen(spec: AveragesSpec, flat: jax.Array) -> Averages:
    """The state before the first gradient, of coordinates such as [N]."""
    import jax.numpy as jnp

    zero = jnp.zeros_like(flat)
    return Averages(jnp.zeros((len(spec.decays), flat.size), flat.dtype), zero, jnp.zeros_like(flat))


def see(spec: AveragesSpec, state: Averages, g: jax.Array) -> tuple[Averages, jax.Array]:
    """Take gradients [N] in.

    Returns:
      The new state, and [K + 2, N]: the averages and the gradient, divided by the root r of the averaged square, and
      log(r) / 10, at least -1. Averages are corrected for their start at 0 (Kingma and Ba 2015, Section 3).
    """
    import jax.numpy as jnp

    decays = jnp.array(spec.decays, g.dtype)[:, None]
    count = state.seen + 1
    mean = decays * state.mean + (1 - decays) * g[None]
    square = spec.square_decay * state.square + (1 - spec.square_decay) * g * g
    # The maximum is for second derivatives, which are then finite where no gradient was seen.
    root = jnp.sqrt(jnp.maximum(square / (1 - spec.square_decay**count), SMALLEST**2)) + SMALLEST
    log = jnp.log(jnp.maximum(root, jnp.exp(-P))) / P
    shown = jnp.concatenate([mean / (1 - decays ** count[None]), g[None]]) / root[None]
    return Averages(mean, square, count), jnp.concatenate([shown, log[None]])
