"""Optax transformations made of two functions, whatever these call their arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax


def transformation(init: Callable[..., Any], update: Callable[..., Any]) -> optax.GradientTransformationExtraArgs:
    """An Optax transformation whose update takes extra arguments.

    Args:
      init: theta -> state.
      update: (gradients like theta, state, theta or None, **extra) -> (updates like theta, state).
    """
    # Optax's protocols name their arguments params and updates, and this project theta and grad, as papers do.
    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def called(name: str, tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The same transformation, whose operations bear that name in profiles and in `l2l inspect --graph`."""
    return transformation(tx.init, jax.named_scope(name)(optax.with_extra_args_support(tx).update))
