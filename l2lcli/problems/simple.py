"""Squares of a few numbers: the smallest problems of the authors' code (google-deepmind/learning-to-learn)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Batch, Problem, ProblemSpec, Theta


class SimpleSpec(ProblemSpec):
    """f(x) = x², from x = 1; or f(x) = a x², each task with an a of its own."""

    kind: Literal["simple"] = "simple"
    spread: float = Field(default=1.0, ge=1, le=1e6)
    """a is drawn from 1 / spread to spread, evenly in the logarithm; 1: a = 1."""


class SimpleMultiSpec(ProblemSpec):
    """f(x) = Σ_i x_i², from x_i = 1, each x_i a parameter of its own."""

    kind: Literal["simple_multi"] = "simple_multi"
    dimension: int = Field(default=2, ge=1, le=100)
    """Parameters x_0, x_1 …"""


@registry.problem.register("simple", SimpleSpec)
def simple(spec: SimpleSpec, raw_dir: str | None = None) -> Problem:
    """Build the problem. theta: {"x": ()}; task and batch: a, (), or () where it is 1 in all tasks; f is unitless."""
    if spec.spread == 1:
        return _squares(["x"])

    import jax
    import jax.numpy as jnp

    def init(key, data):
        return {"x": jnp.ones(())}, spec.spread ** jax.random.uniform(key, (), minval=-1.0, maxval=1.0)

    def loss(theta, batch):
        return batch * theta["x"] ** 2

    return Problem(init, lambda key, task, data: task, loss, {"train": ()}, describe=lambda task: {"a": task})


@registry.problem.register("simple_multi", SimpleMultiSpec)
def simple_multi(spec: SimpleMultiSpec, raw_dir: str | None = None) -> Problem:
    """Build the one problem there is. theta: {"x_0": (), "x_1": () …}; task and batch: (); f is unitless."""
    return _squares([f"x_{i}" for i in range(spec.dimension)])


def _squares(names: list[str]) -> Problem:
    import jax.numpy as jnp

    def init(key, data):
        return {name: jnp.ones(()) for name in names}, ()

    def loss(theta: Theta, batch: Batch) -> Any:
        return sum(x**2 for x in theta.values())

    return Problem(init, lambda key, task, data: task, loss, {"train": ()})
