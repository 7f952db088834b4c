"""What a learned optimizer is shown of a gradient: one number per coordinate becomes one or two of a sane size."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from l2lcli.base import Spec

if TYPE_CHECKING:
    import jax


class Identity(Spec):
    """The gradient as it is."""

    kind: Literal["identity"] = "identity"


class LogSign(Spec):
    """Logarithm and sign (Andrychowicz et al. 2016, App. A)."""

    kind: Literal["log_sign"] = "log_sign"
    p: float = Field(default=10.0, gt=0, le=80)
    """Gradients below e^-p are shown linearly; the logarithm is divided by p."""


class DeepmindLogSign(Spec):
    """LogAndSign of google-deepmind/learning-to-learn, the authors' code."""

    kind: Literal["deepmind_log_sign"] = "deepmind_log_sign"
    k: float = Field(default=5.0, gt=0, le=80)
    """As p of log_sign."""


class Clamp(Spec):
    """The gradient cut to an interval."""

    kind: Literal["clamp"] = "clamp"
    low: float = -1.0
    """Smallest value shown."""
    high: float = 1.0
    """Largest value shown."""

    @model_validator(mode="after")
    def _ordered(self):
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        return self


Preprocess = Annotated[Identity | LogSign | DeepmindLogSign | Clamp, Field(discriminator="kind")]


def features(spec: Preprocess) -> int:
    """How many numbers the optimizer is shown per coordinate."""
    return 2 if isinstance(spec, LogSign | DeepmindLogSign) else 1


def preprocess(spec: Preprocess) -> Callable[[jax.Array], jax.Array]:
    """The function of one coordinate's gradient, () -> [features]."""
    import jax.numpy as jnp

    def log_sign(spec: LogSign, g: jax.Array) -> jax.Array:
        # For |g| >= e^-p this is (log|g|/p, sgn g), below (-1, e^p g): both branches of App. A without a `where`, whose
        # untaken branch would put a NaN into second derivatives at g = 0.
        return jnp.stack([jnp.log(jnp.maximum(jnp.abs(g), jnp.exp(-spec.p))) / spec.p, jnp.clip(g * jnp.exp(spec.p), -1, 1)])

    def deepmind_log_sign(spec: DeepmindLogSign, g: jax.Array) -> jax.Array:
        log = jnp.log(jnp.abs(g) + jnp.finfo(g.dtype).eps)
        return jnp.stack([jnp.maximum(log / spec.k, -1), jnp.clip(g * jnp.exp(spec.k), -1, 1)])

    match spec:
        case LogSign():
            return functools.partial(log_sign, spec)
        case DeepmindLogSign():
            return functools.partial(deepmind_log_sign, spec)
        case Clamp():
            return lambda g: jnp.clip(g, spec.low, spec.high)[None]
        case Identity():
            return lambda g: g[None]
