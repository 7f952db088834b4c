"""Values that are drawn anew for every task, as a config writes them: a number, a range, a choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeAlias

from pydantic import Field, model_validator

from l2lcli.base import Spec

if TYPE_CHECKING:
    import jax

Ends = Annotated[list[float], Field(min_length=2, max_length=2)]


class Range(Spec):
    """Evenly between two numbers, or evenly in the logarithm."""

    uniform: Ends | None = None
    """Lowest and highest."""
    log_uniform: Ends | None = None
    """Lowest and highest, both positive; evenly in the logarithm."""

    @model_validator(mode="after")
    def _one(self):
        if (self.uniform is None) == (self.log_uniform is None):
            raise ValueError("give one of uniform and log_uniform")
        low, high = self.ends
        if low > high:
            raise ValueError(f"the lowest, {low:g}, is above the highest, {high:g}")
        if self.log_uniform is not None and low <= 0:
            raise ValueError(f"{low:g} has no logarithm: log_uniform is between positive numbers")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest."""
        low, high = self.uniform or self.log_uniform or (0.0, 0.0)
        return low, high


Draw: TypeAlias = float | Range


def highest(draw: Draw) -> float:
    """The largest number that can be drawn."""
    return draw.ends[1] if isinstance(draw, Range) else draw


def lowest(draw: Draw) -> float:
    """The smallest number that can be drawn."""
    return draw.ends[0] if isinstance(draw, Range) else draw


def number(draw: Draw) -> Callable[[jax.Array], jax.Array]:
    """key -> (), the key consumed."""
    import jax
    import jax.numpy as jnp

    if not isinstance(draw, Range):
        return lambda key: jnp.float32(draw)
    low, high = draw.ends
    if draw.uniform is not None:
        return lambda key: jax.random.uniform(key, (), minval=low, maxval=high)
    return lambda key: jnp.exp(jax.random.uniform(key, (), minval=jnp.log(low), maxval=jnp.log(high)))


def whole(draw: Draw, shape: tuple[int, ...] = ()) -> Callable[[jax.Array], jax.Array]:
    """The same for whole numbers, both ends among them; int32 of that shape."""
    import jax
    import jax.numpy as jnp

    if not isinstance(draw, Range):
        return lambda key: jnp.full(shape, round(draw), jnp.int32)
    low, high = draw.ends
    even = jnp.log if draw.log_uniform is not None else lambda x: x
    back = jnp.exp if draw.log_uniform is not None else lambda x: x

    def one(key):
        # Half a step wider on both sides, so that the ends are as likely as their neighbours.
        found = back(jax.random.uniform(key, shape, minval=even(jnp.float32(low - 0.5)), maxval=even(jnp.float32(high + 0.5))))
        return jnp.clip(jnp.round(found), low, high).astype(jnp.int32)

    return one
