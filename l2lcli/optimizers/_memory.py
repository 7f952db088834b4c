"""A memory that all coordinates share, an N x N matrix with low-rank writes, and who reads and writes it.

M_0 = I. A read of a key k [N] is M k; a write of two vectors is M + a bᵀ (Andrychowicz et al. 2016, supplement on NTM-BFGS).
In a step the controller names its keys, hears their reads, and then says its update and what is written:

    k = keys(∇_t, state)     r = M_t k     (u, a, b, state) = act(∇_t, r, state)     M_{t+1} = M_t + Σ_k a_k b_kᵀ

So it can be BFGS. Let d_t = H_t ∇_t with M_t = H_t, let s = -α_t d_t be the step, and let the next key be ∇_{t+1}: the one read
is r = H_t ∇_{t+1}. With y = ∇_{t+1} - ∇_t, H_t y = r - d_t: of both vectors a coordinate has its own entry. Then

    H_{t+1} = H_t - ρ s (H_t y)ᵀ - ρ (H_t y) sᵀ + (ρ² yᵀH_t y + ρ) s sᵀ,   ρ = 1 / yᵀs

(Nocedal and Wright 2006, eq. 6.17, multiplied out) is three writes, each a scalar times vectors that are known coordinate by
coordinate (two, if those with s on the left are added). The next direction needs no second read:

    H_{t+1} ∇_{t+1} = r - ρ (yᵀr) s - ρ (sᵀ∇_{t+1}) H_t y + (ρ² yᵀH_t y + ρ) (sᵀ∇_{t+1}) s

is made of known vectors and of scalars that follow from two sums over coordinates, A = sᵀ∇_{t+1} and B = yᵀr, and from one that
is remembered, D = d_tᵀ∇_t: yᵀs = A + α_t D, yᵀH_t y = B + yᵀs / α_t, and the next D is
B - A / α_t - 2 ρ A B + (ρ² yᵀH_t y + ρ) A². So one read head, three write heads and two averaging cells do, as the paper counts
them. It feeds a read back at the *following* step; here the controller hears it in the same one, or u_t could not depend on
H_t ∇_t.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from l2lcli.inner.transformation import transformation


class Memory(NamedTuple):
    """M as functions of its state."""

    init: Callable[[jax.Array], Any]  # theta [N] -> the state of M = I
    read: Callable[[Any, jax.Array], jax.Array]  # (state, keys [R, N]) -> [R, N], M times each
    write: Callable[[Any, jax.Array, jax.Array], Any]  # (state, a [K, N], b [K, N]) -> the state of M + Σ_k a_k b_kᵀ


class Window(NamedTuple):
    """The latest writes, the oldest first; zeros where nothing was written yet."""

    left: jax.Array  # [K, N]
    right: jax.Array  # [K, N]


LARGEST = 4096  # coordinates, of which M itself has 64 MiB for every task


def whole() -> Memory:
    """M itself, [N, N]: N² numbers. Its init raises ValueError for more than LARGEST coordinates."""

    def identity(theta):
        if theta.size > LARGEST:
            size = f"N x N numbers, and N = {theta.size} is above {LARGEST}"
            raise ValueError(f"ntm_bfgs remembers {size}: ntm_lbfgs is for that")
        return jnp.eye(theta.size, dtype=theta.dtype)

    return Memory(
        identity,
        lambda matrix, keys: keys @ matrix.T,
        lambda matrix, left, right: matrix + left.T @ right,
    )


def latest(writes: int) -> Memory:
    """M = I + Σ a bᵀ over the latest K = `writes` writes: 2KN numbers, and as many products a read."""

    def slid(old, new):
        return jnp.concatenate([old, new])[-writes:]

    return Memory(
        lambda theta: Window(*(jnp.zeros((writes, theta.size), theta.dtype) for _ in range(2))),
        lambda window, keys: keys + (keys @ window.right.T) @ window.left,
        lambda window, left, right: Window(slid(window.left, left), slid(window.right, right)),
    )


class Act(NamedTuple):
    """What a controller says, having heard the reads."""

    update: jax.Array  # [N], added to theta
    left: jax.Array  # [K, N]
    right: jax.Array  # [K, N]


class Controller(NamedTuple):
    """Who reads and writes, as functions of the raveled gradients; coordinates hear of each other through reads and averages.

    Attributes:
      init: theta [N] -> state.
      keys: (gradients [N], state) -> [R, N].
      act: (gradients [N], reads [R, N], state) -> (Act, new state).
    """

    init: Callable[[jax.Array], Any]
    keys: Callable[[jax.Array, Any], jax.Array]
    act: Callable[[jax.Array, jax.Array, Any], tuple[Act, Any]]


class MemoryState(NamedTuple):
    """State of the transformation."""

    memory: Any  # that of `Memory`
    controller: Any  # that of `Controller`


def remembering(controller: Controller, memory: Memory) -> optax.GradientTransformationExtraArgs:
    """The transformation of a controller with a memory."""

    def init(theta):
        flat, _ = ravel_pytree(theta)
        return MemoryState(memory.init(flat), controller.init(flat))

    def update(grad, state, theta=None, **extra):
        flat, unravel = ravel_pytree(grad)
        reads = memory.read(state.memory, controller.keys(flat, state.controller))
        act, after = controller.act(flat, reads, state.controller)
        return unravel(act.update), MemoryState(memory.write(state.memory, act.left, act.right), after)

    return transformation(init, update)
