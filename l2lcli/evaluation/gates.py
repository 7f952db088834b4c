"""What the gates of a family that has some do in training: their distribution over each layer's coordinates, step by step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from l2lcli.base import Key, LearnedOptimizer, Phi, Problem
from l2lcli.inner.unroll import fresh, unroll

EPISODES = 5
STEPS = 100  # at most
QUANTILES = (0.05, 0.95)


def record(problem: Problem, optimizer: LearnedOptimizer, phi: Phi, key: Key, steps: int, split: str) -> list[tuple[Any, ...]]:
    """Rows (layer, gate, episode, update 1 … `steps`, mean, 5 % quantile, 95 % quantile over the layer's coordinates).

    A layer is what the parameters' paths have in common but for their last name. The key is consumed. Raises ValueError of a
    family that has no gates.
    """
    gates_of = optimizer.gates
    if gates_of is None:
        raise ValueError("the family has no gates")
    layers = places(jax.eval_shape(lambda key, data: problem.init(key, data)[0], key, problem.data[split]))

    def shown(values: jax.Array) -> jax.Array:
        return jnp.stack([values.mean(), *jnp.quantile(values, jnp.array(QUANTILES))])

    def look(inner):
        found = gates_of(inner.opt)
        return {layer: {gate: shown(values[at]) for gate, values in found.items()} for layer, at in layers.items()}

    @jax.jit
    def run(phi, keys, data):
        def one(key):
            inner = fresh(problem, optimizer, phi, key, data, steps)
            return unroll(problem, optimizer, phi, inner, data, steps, score=look).scores

        return jax.lax.map(one, keys)

    found = jax.tree.map(np.asarray, run(phi, jax.random.split(key, EPISODES), problem.data[split]))
    return [
        (layer, gate, episode, update + 1, *values[episode, update].tolist())
        for layer, of_layer in found.items()
        for gate, values in of_layer.items()
        for episode in range(EPISODES)
        for update in range(steps)
    ]


def places(theta: Any) -> dict[str, np.ndarray]:
    """Layer -> places of its coordinates in the raveled theta, which may be abstract."""
    found: dict[str, list[np.ndarray]] = {}
    start = 0
    for path, leaf in jax.tree.leaves_with_path(theta):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        found.setdefault(name.rpartition("/")[0] or name or "theta", []).append(np.arange(start, start + leaf.size))
        start += leaf.size
    return {layer: np.concatenate(parts) for layer, parts in found.items()}
