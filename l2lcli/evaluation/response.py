"""How large updates are beside gradients, early and late in a run: does an optimizer still answer to small gradients?"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from l2lcli.base import Data, Key, LearnedOptimizer, Phi, Problem
from l2lcli.inner.transformation import transformation
from l2lcli.inner.unroll import fresh, unroll

LOOKS = 7  # at most, evenly in the logarithm of the step, the last step among them
EDGES = np.arange(-8.0, 2.01, 0.5)  # of the bins of log10 |gradient|
RUNS = 4  # optimizees


class _Passengers(NamedTuple):
    """The state of the first optimizer, and what others make of the same gradients."""

    first: Any
    others: Any  # name -> its state
    grad: jax.Array  # [N] what they were last fed
    updates: Any  # name -> [N] what they last said


def respond(
    problem: Problem, optimizers: dict[str, tuple[LearnedOptimizer, Phi]], key: Key, steps: int
) -> dict[str, np.ndarray]:
    """Train a few optimizees by the first of the optimizers, and look at all updates at a few steps.

    Args:
      problem: f.
      optimizers: name -> family and phi. The others are fed the gradients and losses that the first one meets.
      key: consumed.
      steps: T.

    Returns:
      "steps" [K], which were looked at; "edges" [B + 1] of bins of log10 |gradient|; "count" [K, B] coordinates in each, of all
      optimizees together, those outside the bins left out;
      "size/<name>" [K, B] the mean of |update| over these, not a number where there are none; "opposed/<name>" [K] of all but
      the first: the share of coordinates that the first moves the other way, of those that both move.
    """
    families, phis = {n: family for n, (family, _) in optimizers.items()}, {n: phi for n, (_, phi) in optimizers.items()}
    first = next(iter(families))
    looks = np.unique(np.geomspace(1, steps, LOOKS).round().astype(int))

    def bind(phis):
        txs = {name: family.bind(phis[name]) for name, family in families.items()}

        def init(theta):
            flat = ravel_pytree(theta)[0]
            others = {name: tx.init(theta) for name, tx in txs.items() if name != first}
            return _Passengers(txs[first].init(theta), others, jnp.zeros_like(flat), dict.fromkeys(txs, jnp.zeros_like(flat)))

        def update(grad, state, theta=None, **extra):
            said, own = txs[first].update(grad, state.first, theta, **extra)
            updates, others = {first: ravel_pytree(said)[0]}, {}
            for name in state.others:
                beside, others[name] = txs[name].update(grad, state.others[name], theta, **extra)
                updates[name] = ravel_pytree(beside)[0]
            return said, _Passengers(own, others, ravel_pytree(grad)[0], updates)

        return transformation(init, update)

    together = LearnedOptimizer(families[first].init, bind)
    if (begins := families[first].start) is not None:
        together = together._replace(start=lambda phis, theta: begins(phis[first], theta))

    def look(state: _Passengers) -> dict[str, jax.Array]:
        size = jnp.where(state.grad == 0, -jnp.inf, jnp.log10(jnp.abs(state.grad)))
        inside = (size[None] >= EDGES[:-1, None]) & (size[None] < EDGES[1:, None])  # [B, N]
        found = {"count": inside.sum(1).astype(jnp.float32)}
        for name, update in state.updates.items():
            found[f"size/{name}"] = inside.astype(update.dtype) @ jnp.abs(update)
            if name != first:
                sides = jnp.sign(update) * jnp.sign(state.updates[first])  # a product of small updates would be 0
                found[f"opposed/{name}"] = (sides < 0).sum() / jnp.maximum((sides != 0).sum(), 1)
        return found

    @jax.jit
    def run(phis: dict[str, Phi], keys: Key, data: Data):
        def one(key):
            inner, found, at = fresh(problem, together, phis, key, data, steps), [], 0
            for step in looks.tolist():
                inner, at = unroll(problem, together, phis, inner, data, step - at).end, step
                found.append(look(inner.opt))
            return jax.tree.map(lambda *rows: jnp.stack(rows), *found)

        return jax.lax.map(one, keys)

    found = jax.tree.map(np.asarray, run(phis, jax.random.split(key, RUNS), problem.data["train"]))
    count = found.pop("count").sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        sizes = {name: found.pop(name).sum(0) / count for name in list(found) if name.startswith("size/")}
    shares = {name: values.mean(0) for name, values in found.items()}
    return {"steps": looks, "edges": EDGES, "count": count, **sizes, **shares}
