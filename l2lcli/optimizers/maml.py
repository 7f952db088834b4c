"""Model-agnostic meta-learning: gradient descent from a learned start, with one learned or fixed learning rate."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import KindSpec, LearnedOptimizer, Replay
from l2lcli.optimizers._start import learning_start


class DescentSpec(KindSpec):
    """What MAML and its first-order version say."""

    learning_rate: float = Field(default=0.01, gt=0)
    """Of the inner updates; where it starts, if it is learned."""
    learn_rate: bool = True
    """Learn the inner learning rate; else it stays, as published."""
    learn_start: bool = True
    """Learn theta_0; needs a window as long as the horizon."""


class MamlSpec(DescentSpec):
    """MAML: a learned start and gradient descent, meta-trained through the gradients (Finn, Abbeel and Levine 2017)."""

    kind: Literal["maml"] = "maml"


class MamlFirstOrderSpec(DescentSpec):
    """First-order MAML: the same without second derivatives (Finn, Abbeel and Levine 2017, Section 5.2)."""

    kind: Literal["maml_first_order"] = "maml_first_order"


@registry.optimizer.register("maml_first_order", MamlFirstOrderSpec)
def maml_first_order(spec: DescentSpec) -> LearnedOptimizer:
    """Build the family; phi: `start [N]` and `log_learning_rate ()`, as far as they are learned.

    Raises ValueError if nothing is.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from l2lcli.inner.transformation import transformation

    if not (spec.learn_rate or spec.learn_start):
        raise ValueError("nothing of it is learned: learn_start and learn_rate are both false")

    def init(key, theta):
        dtype = jax.tree.leaves(theta)[0].dtype
        return {"log_learning_rate": jnp.asarray(math.log(spec.learning_rate), dtype)} if spec.learn_rate else {}

    def bind(phi):
        rate = jnp.exp(phi["log_learning_rate"]) if spec.learn_rate else spec.learning_rate

        def update(grad, state, theta=None, **extra):
            return jax.tree.map(lambda g: -rate * g, grad), state

        return transformation(lambda theta: optax.EmptyState(), update)

    family = LearnedOptimizer(init, bind, replay=Replay())
    return learning_start(family) if spec.learn_start else family


@registry.optimizer.register("maml", MamlSpec)
def maml(spec: MamlSpec) -> LearnedOptimizer:
    """Build the family, as `maml_first_order`; its meta-gradients flow through the gradients of the inner updates."""
    return maml_first_order(spec)._replace(replay=None, second_order=True)
