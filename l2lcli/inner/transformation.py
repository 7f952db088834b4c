"""Optax transformations made of two functions, whatever these call their arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax


def transformation(init: Callable[..., Any], update: Callable[..., Any]) -> optax.GradientTransformationExtraArgs:
    """An Optax transformation whose update takes extra arguments.

    Args:
      init: theta -> state.
      update: (gradients like theta, state, theta or None, **extra) -> (updates like theta, state).
    """
    # Optax's protocols name their arguments params and updates, and this project theta and grad, as papers do.
    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]
