"""What meta-training is judged by on the way: the loss of tasks that it is not trained on, always the same ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from l2lcli import processes
from l2lcli.base import Data, Key, LearnedOptimizer, Member, Objective, Phi, Problem
from l2lcli.config.specs import TrainSpec
from l2lcli.inner.objective import of_window
from l2lcli.inner.query import score_on_query
from l2lcli.inner.unroll import fresh, namespace, unroll
from l2lcli.meta.estimator import members, of_member

Validate = Callable[[Key, Phi, Data], dict[str, Any]]


def validation(problem: Problem, optimizer: LearnedOptimizer, spec: TrainSpec) -> Validate:
    """Build (root key, phi, data) -> {"": the mean over the validation seeds of Σ_{t=0}^{T-1} f(theta_t)}, () each.

    Where the config weighs steps or measures losses, or the problem has a query, it is of what meta-training minimises. Of a
    mixture the weighted mean over its members, whose own are there by their names. Several processes have a part of the
    seeds each; all of them have to call it, and get the same.
    """
    plain = spec.objective._replace(weights=()) == Objective(()) and spec.weights == "all"
    parts = members(problem)
    weights = jnp.array([member.weight for member in parts.values()])

    def of(member: Member, name: str, root: Key, phi: Phi, data: Data, mine: Any) -> jax.Array:
        """[n] of the seeds `mine`, None for all of them."""
        problem, own = member.problem.plain or member.problem, of_member(spec, name, member)

        def one(key):
            inner = fresh(problem, optimizer, phi, key, data, own.horizon)
            score = score_on_query(problem, own.step_weights, data, problem.loss)
            found = unroll(problem, optimizer, phi, inner, data, own.horizon, score=score)
            if score is None and plain:
                return inner.value + found.losses[:-1].sum()
            return of_window(own.objective, found.scores, inner)

        keys = jax.random.split(namespace(root, "validation"), spec.validation_seeds)
        return jax.vmap(one)(keys if mine is None else keys[mine])

    def all_of(root, phi, data, mine=None) -> dict[str, jax.Array]:
        return {name: of(member, name, root, phi, data[name] if name else data, mine) for name, member in parts.items()}

    def together(found):
        return found if "" in found else found | {"": jnp.vdot(weights, jnp.stack(list(found.values()))) / weights.sum()}

    if processes.count() == 1:
        return jax.jit(lambda root, phi, data: together({name: of.mean() for name, of in all_of(root, phi, data).items()}))
    compiled = jax.jit(all_of)

    def validate(root, phi, data):
        rows = processes.rows(spec.validation_seeds)
        found = rows.whole(compiled(root, jax.tree.map(np.asarray, phi), data, rows.mine))
        return together({name: jnp.asarray(of.mean()) for name, of in found.items()})

    return validate
