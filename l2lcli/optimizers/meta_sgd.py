"""Meta-SGD: gradient descent from a learned start, with a learned learning rate for every coordinate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import KindSpec, LearnedOptimizer, Replay
from l2lcli.optimizers._start import learning_start


class MetaSgdSpec(KindSpec):
    """Meta-SGD: a learned start and a learned rate per coordinate, of either sign (Li et al. 2017, Section 3.1)."""

    kind: Literal["meta_sgd"] = "meta_sgd"
    learning_rate: float = Field(default=0.01, gt=0)
    """Where every coordinate's rate starts."""
    learn_start: bool = True
    """Learn theta_0; needs a window as long as the horizon."""
    second_order: bool = True
    """Let meta-gradients flow through the gradients of the inner updates, as published."""


@registry.optimizer.register("meta_sgd", MetaSgdSpec)
def meta_sgd(spec: MetaSgdSpec) -> LearnedOptimizer:
    """Build the family; phi: `rate [N]`, and, where it is learned, `start [N]`, both in the order of the raveled theta."""
    import jax
    import jax.numpy as jnp
    import optax
    from jax.flatten_util import ravel_pytree

    from l2lcli.inner.transformation import transformation

    def init(key, theta):
        leaves = jax.tree.leaves(theta)
        return {"rate": jnp.full(sum(leaf.size for leaf in leaves), spec.learning_rate, leaves[0].dtype)}

    def bind(phi):
        def update(grad, state, theta=None, **extra):
            flat, unravel = ravel_pytree(grad)
            return unravel(-phi["rate"] * flat), state

        return transformation(lambda theta: optax.EmptyState(), update)

    replay = None if spec.second_order else Replay(per_coordinate=lambda phi: {"rate": True})
    family = LearnedOptimizer(init, bind, replay=replay, second_order=spec.second_order)
    return learning_start(family) if spec.learn_start else family
