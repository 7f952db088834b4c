"""Few-shot regression of sinusoids (Finn, Abbeel and Levine 2017, Section 5.1)."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Joint, Problem, ProblemSpec
from l2lcli.problems._learners import features
from l2lcli.problems._networks import Activation, mlp

AMPLITUDE, PHASE, X = (0.1, 5.0), (0.0, math.pi), (-5.0, 5.0)  # intervals that are drawn from, evenly
JOINT_BATCH = 256  # points per step, each of another sinusoid, of training on all of them together


class SinusoidSpec(ProblemSpec):
    """f(theta) = mean squared error of a multilayer perceptron on a few points of A sin(x − φ)."""

    few_shot: ClassVar[bool] = True
    kind: Literal["sinusoid"] = "sinusoid"
    shots: int = Field(default=10, ge=1, le=100_000)
    """Points to learn from, drawn once per task."""
    queries: int = Field(default=10, ge=1, le=100_000)
    """Other points, that the trained network is judged on."""
    hidden: list[Annotated[int, Field(ge=1, le=10_000)]] = Field(default=[40, 40], max_length=16)
    """Units of each hidden layer."""
    activation: Activation = "relu"
    """After each hidden layer."""


@registry.problem.register("sinusoid", SinusoidSpec)
def sinusoid(spec: SinusoidSpec, raw_dir: str | None = None) -> Problem:
    """Build the distribution: A ~ U[.1, 5], φ ~ U[0, π], x ~ U[−5, 5]; no noise.

    theta: the Flax parameters, kernels LeCun normal and biases 0 at first; batch and query: {"x" and "y": [n, 1]}; task:
    {"support": a batch, "query": another}. f and the metric `mse` are mean squared errors. Splits differ in nothing but the
    keys that tasks are drawn with.
    """
    import jax
    import jax.numpy as jnp

    build = lambda outputs: mlp(tuple(spec.hidden), outputs, spec.activation)
    network = build(1)

    def draw(key, *sizes):
        """Points of one sinusoid, so many in each part."""
        amplitude_key, phase_key, *keys = jax.random.split(key, 2 + len(sizes))
        amplitude = jax.random.uniform(amplitude_key, minval=AMPLITUDE[0], maxval=AMPLITUDE[1])
        phase = jax.random.uniform(phase_key, minval=PHASE[0], maxval=PHASE[1])
        x = [jax.random.uniform(key, (n, 1), minval=X[0], maxval=X[1]) for key, n in zip(keys, sizes, strict=True)]
        return [{"x": x, "y": amplitude * jnp.sin(x - phase)} for x in x]

    def start(key):
        return network.init(key, jnp.zeros((1, 1)))["params"]

    def init(key, data):
        task_key, theta_key = jax.random.split(key)
        support, query = draw(task_key, spec.shots, spec.queries)
        return start(theta_key), {"support": support, "query": query}

    def loss(theta, batch):
        return jnp.mean((network.apply({"params": theta}, batch["x"]) - batch["y"]) ** 2)

    def points(key, task, data):
        of_many = jax.vmap(lambda key: draw(key, 1)[0])(jax.random.split(key, JOINT_BATCH))
        return jax.tree.map(lambda leaf: leaf.reshape(-1, 1), of_many)

    joint = Joint(
        Problem(lambda key, data: (start(key), ()), points, loss, {"train": ()}, minibatch=True),
        start=lambda trained, theta: trained,
        features=lambda theta, batch: batch["x"] if theta is None else features(build, theta, batch["x"]),
        copied=lambda support, query, nearest: {"mse": jnp.mean((support["y"][nearest] - query["y"]) ** 2)},
    )
    return Problem(
        init,
        batch=lambda key, task, data: task["support"],
        loss=loss,
        data={"train": (), "validation": (), "test": ()},
        query=lambda key, task, data: task["query"],
        metrics=lambda theta, batch: {"mse": loss(theta, batch)},
        joint=joint,
    )
