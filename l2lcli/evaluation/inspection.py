"""What an update rule does, step by step: a short unroll recorded, and other optimizers' updates on the same gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from l2lcli.base import Data, Key, LearnedOptimizer, Phi, Problem
from l2lcli.inner.unroll import fresh, unroll

STEPS = 100  # at most
FLOATS = 20_000_000  # of gradients held at most: a large theta gets fewer steps
RANKS = (1.0, 0.9, 0.5)  # the coordinates shown, by their rank in mean absolute gradient
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the effective step sizes over coordinates
LEAVES, UNITS = 4, 10  # of the state shown at most


class Inspection(NamedTuple):
    """A recorded unroll of W steps; K coordinates of N.

    Attributes:
      arrays: "gradient" [W, K]; for each optimizer "update/<name>" [W, K], "step_size/<name>" [W, Q], quantiles over the N
        coordinates of |update / gradient|, and "uphill/<name>" [W], the share of coordinates whose update has the sign of
        the gradient (both without those of gradient 0); "state/<leaf>" [W, U, K], float16, of the first optimizer. In a run's
        inspection.npz besides what `response.respond` found, under "response/".
      meta: {"optimizers": names, the one that trained first, "coordinates": [K] names, "quantiles": [Q]}.
    """

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


def inspect(problem: Problem, optimizers: dict[str, tuple[LearnedOptimizer, Phi]], key: Key, steps: int) -> Inspection:
    """Record one optimizee in training by the first of the optimizers, and the others' updates on its gradients.

    Args:
      problem: f.
      optimizers: name -> family and phi. The others see the gradients and losses that the first one met.
      key: of the optimizee; consumed.
      steps: W; fewer of a large theta, and never more than STEPS.
    """
    families = {name: family for name, (family, _) in optimizers.items()}
    first = next(iter(families))
    theta = jax.eval_shape(lambda key, data: problem.init(key, data)[0], key, problem.data["train"])
    size = sum(leaf.size for leaf in jax.tree.leaves(theta))
    horizon, steps = steps, max(1, min(steps, STEPS, FLOATS // size))
    places = sorted({round(rank * (size - 1)) for rank in RANKS}, reverse=True)

    @jax.jit
    def run(phis: dict[str, Phi], key: Key, data: Data) -> tuple[jax.Array, dict[str, jax.Array]]:
        inner = fresh(problem, families[first], phis[first], key, data, horizon)
        fed = lambda inner: (inner.value, inner.grad)
        values, grads = unroll(problem, families[first], phis[first], inner, data, steps, record=fed).recorded
        flat = jax.vmap(lambda grad: ravel_pytree(grad)[0])(grads)
        shown = jnp.argsort(jnp.abs(flat).mean(0))[jnp.array(places)]
        found = {"gradient": flat[:, shown]}
        for name, family in families.items():
            tx = family.bind(phis[name])
            replayed = _replay(tx, inner.theta, values, grads, shown, horizon)
            kinds = ("update", "step_size", "uphill")
            found |= {f"{kind}/{name}": array for kind, array in zip(kinds, replayed[:3], strict=True)}
            found |= replayed[3] if name == first else {}
        return shown, found

    shown, found = run({name: phi for name, (_, phi) in optimizers.items()}, key, problem.data["train"])
    meta = {"optimizers": list(families), "coordinates": [_name(theta, int(i)) for i in shown], "quantiles": list(QUANTILES)}
    return Inspection({key: np.asarray(array) for key, array in found.items()}, meta)


def _replay(tx: Any, theta: Any, values: jax.Array, grads: Any, shown: jax.Array, horizon: int) -> tuple[Any, ...]:
    """(updates [W, K], quantiles [W, Q], uphill [W], states) of an optimizer that is fed what was recorded."""

    def step(carry, fed):
        theta, opt = carry
        value, grad = fed
        update, opt = tx.update(grad, opt, theta, value=value, horizon=horizon)
        u, g = ravel_pytree(update)[0], ravel_pytree(grad)[0]
        moved = g != 0
        sizes = jnp.nanquantile(jnp.where(moved, jnp.abs(u / g), jnp.nan), jnp.array(QUANTILES))
        uphill = (u * g > 0).sum() / jnp.maximum(moved.sum(), 1)
        return (optax.apply_updates(theta, update), opt), (u[shown], sizes, uphill, _states(opt, g.size, shown))

    return jax.lax.scan(step, (theta, tx.init(theta)), (values, grads))[1]


def _states(opt: Any, size: int, shown: jax.Array) -> dict[str, jax.Array]:
    """Under "state/<leaf>", [U, K], what holds several numbers a coordinate, [U, N]: an LSTM's h and c, layer by layer."""
    leaves = [(jax.tree_util.keystr(path, simple=True, separator="/"), x) for path, x in jax.tree.leaves_with_path(opt)]
    held = [(name, x) for name, x in leaves if x.ndim == 2 and x.shape[0] > 1 and x.shape[1] == size]
    few = sorted({round(i) for i in np.linspace(0, len(held) - 1, LEAVES)}) if held else []
    return {f"state/{held[i][0]}": held[i][1][:UNITS, shown].astype(jnp.float16) for i in few}


def _name(theta: Any, index: int) -> str:
    """The coordinate's leaf and its place in it: "layers_0/kernel[12, 3]"."""
    for path, leaf in jax.tree.leaves_with_path(theta):
        if index < leaf.size:
            place = ", ".join(str(int(i)) for i in np.unravel_index(index, leaf.shape))
            name = jax.tree_util.keystr(path, simple=True, separator="/") or "theta"
            return f"{name}[{place}]" if place else name
        index -= leaf.size
    raise ValueError(f"theta has no coordinate {index} further")
