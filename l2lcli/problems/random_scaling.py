"""Another problem in random units, beside a convex function: what RNNprop is meta-trained on (Lv, Jiang and Li 2017)."""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Problem, ProblemSpec, Spec

Kind = TypeVar("Kind", bound=Spec)
CUT = 10.0  # a square of the convex function counts as at most this


class RandomScalingSpec(ProblemSpec, Generic[Kind]):
    """A problem whose every parameter has a unit of its own, drawn for each task, beside a convex function.

    Meta-training alone is on it: validations and evaluations are of the problem as it is.
    """

    kind: Literal["random_scaling"] = "random_scaling"
    of: Kind = Field({"kind": "classification"}, validate_default=True)
    """The problem."""
    scale: float = Field(default=3.0, ge=0, le=10)
    """It computes with theta times e^U(-scale, scale), a factor for each parameter; it starts where it always does."""
    convex: int = Field(default=20, ge=0, le=10_000)
    """Parameters of the convex function, whose value is added; 0 for none."""
    convex_scale: float = Field(default=1.0, ge=0, le=10)
    """As scale, of the convex function's parameters."""


@registry.problem.register("random_scaling", RandomScalingSpec)
def random_scaling(spec: RandomScalingSpec, raw_dir: str | None = None) -> Problem:
    """Build the distribution f(theta, x) = f_of(c theta) + mean_i min((d_i x_i - a_i)², 10), after the authors' code.

    c and d are e^U(-scale, scale) entry by entry, a is U(-1, 1); theta_0 is the problem's divided by c, x_0 is 0. theta:
    {"of": that of the problem, "convex": [convex]}, without the latter where it is 0; task: (the problem's, factors like theta,
    a). f is in the unit of the problem. Raises DataError as the problem does, ValueError for a few-shot problem.
    """
    import jax
    import jax.numpy as jnp

    plain = registry.problem.build(spec.of, raw_dir)
    if plain.query is not None:
        raise ValueError("problem.of: a few-shot problem cannot be rescaled")
    times = lambda theta, factors: jax.tree.map(lambda leaf, factor: leaf * factor.astype(leaf.dtype), theta, factors)

    def drawn(key, theta, scale):
        """Factors like theta. The key is consumed."""
        leaves, structure = jax.tree.flatten(theta)
        keys = jax.random.split(key, len(leaves))
        draw = lambda key, leaf: jnp.exp(jax.random.uniform(key, leaf.shape, minval=-scale, maxval=scale))
        return structure.unflatten([draw(*pair) for pair in zip(keys, leaves, strict=True)])

    def init(key, data):
        init_key, of_key, convex_key, target_key = jax.random.split(key, 4)
        theta, task = plain.init(init_key, data)
        factors = {"of": drawn(of_key, theta, spec.scale)}
        begin = {"of": jax.tree.map(jnp.divide, theta, factors["of"])}
        if spec.convex:
            begin["convex"] = jnp.zeros(spec.convex)
            factors["convex"] = drawn(convex_key, begin["convex"], spec.convex_scale)
        return begin, (task, factors, jax.random.uniform(target_key, (spec.convex,), minval=-1, maxval=1))

    def batch(key, task, data):
        return plain.batch(key, task[0], data), *task[1:]

    def loss(theta, batch):
        of, factors, target = batch
        theta = times(theta, factors)
        beside = jnp.minimum((theta["convex"] - target) ** 2, CUT).mean() if spec.convex else 0
        return plain.loss(theta["of"], of) + beside

    return plain._replace(init=init, batch=batch, loss=loss, metrics=None, units=None, describe=None, plain=plain)
