"""Meta-gradients without the few directions that make up most of their noise.

A meta-gradient through a long unroll differs from task to task mostly along one or a few directions of phi: on the paper's
MNIST network with W = T = 100, three quarters of its variance are along one, a drift that all coordinates have in common. Adam
makes it worse, since it brings every parameter's step to the same size, and those along such a direction have their signs in
common: phi moves to and fro along it. So the component along these directions is made small before Adam sees it. It is not
made 0: the mean still moves phi along them, slowly. On that network it has not made the end of meta-training better (README).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

KEEP = 0.15  # share of the component that is left: less, and phi does not return along a direction as fast as the rest moves
RATE = 0.3  # of the subspace rule: it has found a dominant direction after some 20 gradients


def deflate(directions: int) -> optax.GradientTransformationExtraArgs:
    """Shrink gradients to `KEEP` along the `directions` in which their second moment is largest.

    The subspace B [n, directions] is tracked by the subspace rule of Oja and Karhunen (1985), B <- orth(B + RATE u uᵀB), u
    being the normalised gradient; a gradient is deflated by what was known before it. State: B.
    """

    def init(phi):
        flat, _ = ravel_pytree(phi)
        count = min(directions, flat.size)
        return jnp.linalg.qr(jax.random.normal(jax.random.key(0), (flat.size, count), flat.dtype))[0]

    def update(grad, basis, phi=None, **extra):
        flat, unravel = ravel_pytree(grad)
        norm = jnp.linalg.norm(flat)
        unit = flat / jnp.where(norm > 0, norm, 1)
        along = unit @ basis
        deflated = flat - (1 - KEEP) * norm * (basis @ along)
        return unravel(deflated), jnp.linalg.qr(basis + RATE * jnp.outer(unit, along))[0]

    return optax.GradientTransformationExtraArgs(init, update)
