"""The outer loss of a problem with a query, at those steps alone whose weight is not zero: a query may cost many steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from l2lcli.base import Batch, Data, Inner, Problem, Theta
from l2lcli.inner.unroll import namespace


def query_batch(problem: Problem, inner: Inner, data: Data) -> Batch:
    """The evidence of the outer loss at the step that an optimizee is at. Raises ValueError of a problem without a query."""
    if problem.query is None:
        raise ValueError("the problem has no query")
    return problem.query(jax.random.fold_in(namespace(inner.key, "query"), inner.t), inner.task, data)


def score_on_query(
    problem: Problem, weights: tuple[float, ...], data: Data, judge: Callable[[Theta, Batch], Any]
) -> Callable[[Inner], Any] | None:
    """`unroll`'s `score`: what `judge` says of theta on the query; zeros at a step whose weight is zero.

    Args:
      problem: f; None is returned where it has no query, and so f itself is the outer loss.
      weights: w_1 … w_T.
      data: one split.
      judge: (theta, query) -> arrays.
    """
    if problem.query is None:
        return None

    def score(inner: Inner) -> Any:
        judged = lambda: judge(inner.theta, query_batch(problem, inner, data))
        if all(weights):
            return judged()
        counts = jnp.asarray([w != 0 for w in weights])[inner.t - 1]
        # Zeros that vary over devices as f does: under `shard_map` both branches have to.
        zero = jnp.where(True, jnp.zeros_like(inner.value), inner.value)
        nothing = lambda: jax.tree.map(lambda x: jnp.full(x.shape, zero, x.dtype), jax.eval_shape(judged))
        return jax.lax.cond(counts, judged, nothing)

    return score


def averaged(problem: Problem, batches: int) -> Problem:
    """The problem whose outer loss is the mean of f over so many fresh minibatches; itself for one.

    The optimizer is fed one minibatch's gradient as before, so the expectation of the outer loss is unchanged. But late in
    training a minibatch's gradient is mostly noise, and that of the outer loss is what a meta-gradient is made of.

    Raises ValueError if f has no minibatches, or a query already.
    """
    if batches == 1:
        return problem
    if not problem.minibatch or problem.query is not None:
        raise ValueError("this problem has no minibatches to average its loss over: leave out estimator.batches")

    def draw(key, task, data):
        return jax.vmap(lambda key: problem.batch(key, task, data))(jax.random.split(key, batches))

    def loss(theta, many):
        return jax.vmap(problem.loss, (None, 0))(theta, many).mean()

    return problem._replace(query=draw, loss=loss)
