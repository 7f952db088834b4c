"""The meta-optimizer: which Optax transformation turns meta-gradients into steps of phi, and its learning rate."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import optax

from l2lcli.base import Phi
from l2lcli.config.specs import MetaOptimizerSpec
from l2lcli.optimizers.hand import hand
from l2lcli.tree import named


def learning_rate(spec: MetaOptimizerSpec, total: int) -> optax.Schedule:
    """The schedule of a meta-optimizer's config over `total` meta-steps, as a function of the meta-step.

    Cosine and linear end at 0, exponential at 1 %.
    """
    return {
        "constant": lambda: optax.constant_schedule(spec.learning_rate),
        "cosine": lambda: optax.cosine_decay_schedule(spec.learning_rate, total),
        "linear": lambda: optax.linear_schedule(spec.learning_rate, 0.0, total),
        "exponential": lambda: optax.exponential_decay(spec.learning_rate, total, 0.01),
    }[spec.schedule]()


def factors(patterns: dict[str, float] | None, phi: Phi) -> Phi:
    """The factor of the meta-learning rate for each leaf of phi: that of the first glob its path matches, else 1.

    Raises ValueError at a glob that matches none.
    """
    patterns, paths = patterns or {}, [path for path, _ in named(phi)]
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise ValueError(f"{pattern!r} matches nothing in phi; there are {', '.join(paths)}")
    found = [next((factor for pattern, factor in patterns.items() if fnmatchcase(path, pattern)), 1.0) for path in paths]
    return jax.tree.unflatten(jax.tree.structure(phi), found)


def transformation(spec: MetaOptimizerSpec) -> Callable[[Any], optax.GradientTransformationExtraArgs]:
    """Learning rate () -> the transformation of a config's `train.meta_optimizer` at it, clipped."""
    family = hand(spec.name)

    def at(rate: Any) -> optax.GradientTransformationExtraArgs:
        tx = family.bind({"log_learning_rate": jnp.log(rate)})
        if spec.clip is not None:
            tx = optax.chain(optax.clip_by_global_norm(spec.clip), tx)
        return optax.with_extra_args_support(tx)

    return at
