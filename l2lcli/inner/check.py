"""What is wrong with a problem, in words, from one task of it: before meta-training meets it inside a compiled loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from l2lcli.base import Key, Problem


def check_problem(problem: Problem, key: Key) -> tuple[list[str], list[str]]:
    """One task is drawn, its loss and gradient computed at the start.

    Args:
      problem: f, on its split "train".
      key: consumed.

    Returns:
      What is wrong, after which nothing else could work; and what is odd, but may be meant so. A line each.
    """
    if (said := malformed(problem)) is not None:
        return [said], []
    data = problem.data["train"]
    init_key, step_key, other_key = jax.random.split(key, 3)
    try:
        wrong = _shapes(problem, init_key, step_key, data)
    except _Failed as failed:
        return [str(failed)], []
    if wrong:
        return wrong, []

    @jax.jit
    def run(init_key: Key, data: Any) -> Any:
        theta, task = problem.init(init_key, data)
        batch = problem.batch(step_key, task, data)
        return theta, task, *jax.value_and_grad(problem.loss)(theta, batch)

    theta, task, value, grad = run(init_key, data)
    if not np.isfinite(value):
        return [f"the loss is {value} at the start: theta_0, a logarithm or a division there"], []
    lost = [name for name, leaf in _named(grad) if not np.isfinite(leaf).all()]
    if lost:
        return [
            f"the gradient is not finite at the start, in {', '.join(lost)}: a root or logarithm of 0, or a `where` around one"
        ], []
    odd = []
    if not any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(grad)):
        odd.append("the gradient is 0 at the start: the loss does not depend on theta there")
    again = run(other_key, data)
    if not problem.minibatch and _same((theta, task), again[:2]):
        odd.append("init gives the same theta_0 and task for every key: every task, and every seed, is the same run")
    return [], odd


def malformed(problem: Any) -> str | None:
    """What is wrong with what a builder returned, before any of it is used; None if nothing is."""
    if not isinstance(problem, Problem):
        return f"its builder must return an l2lcli.Problem, and returned {type(problem).__name__}"
    if not isinstance(problem.data, Mapping) or "train" not in problem.data:
        there = ", ".join(map(str, problem.data)) if isinstance(problem.data, Mapping) else ""
        return f"data has no split 'train' (it has {there or 'none'}); {{'train': ()}} where nothing is needed"
    return None


class _Failed(Exception):  # noqa: N818  (caught where it is raised)
    """A part of the problem raised something."""


def _shapes(problem: Problem, init_key: Key, step_key: Key, data: Any) -> list[str]:
    """What can be said without computing anything. Raises _Failed where a part of the problem cannot be traced."""
    pair = _traced("init", lambda: jax.eval_shape(problem.init, init_key, data))
    if not (isinstance(pair, tuple) and len(pair) == 2):
        return ["init must return a pair, (theta_0, task); the task is () where nothing distinguishes one f from another"]
    theta, task = pair
    leaves = _named(theta)
    if not leaves:
        return ["theta_0 has no arrays: nothing is to be optimized"]
    if whole := [name for name, leaf in leaves if not jnp.issubdtype(leaf.dtype, jnp.floating)]:
        found = f"{', '.join(whole)} is {dict(leaves)[whole[0]].dtype}"
        return [f"theta_0 must be arrays of floats; {found}: put what is fixed into the task"]
    anew = lambda: lambda *given: problem.batch(*given)  # JAX remembers the trace of a function it has seen
    drawn = [_traced("batch", lambda: jax.eval_shape(anew(), step_key, task, data)) for _ in range(2)]
    batch, shapes = drawn[0], [[(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(each)] for each in drawn]
    if shapes[0] != shapes[1]:
        return ["batch gives arrays of other shapes each time: what one step is fed must have the shape of every other step's"]
    value = _traced("loss", lambda: jax.eval_shape(problem.loss, theta, batch))
    if not hasattr(value, "shape"):
        return [f"the loss must be a number, and is {type(value).__name__}"]
    if value.shape != ():
        return [f"the loss must be a scalar, and has shape {list(value.shape)}: take the mean"]
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return [f"the loss must be a float, and is {value.dtype}"]
    return []


def _traced(part: str, trace: Callable[[], Any]) -> Any:
    try:
        return trace()
    except Exception as error:
        if isinstance(error, jax.errors.ConcretizationTypeError) or "concrete values" in str(error):
            why = "it branches, or chooses a shape, by a value that is known only when it runs (the key, theta or the data)"
            raise _Failed(f"{part} cannot be compiled: {why}; a batch must have the same shape at every step") from None
        said = (str(error).strip().splitlines() or [""])[0]
        raise _Failed(f"{part} fails: {type(error).__name__}: {said}") from None


def _named(tree: Any) -> list[tuple[str, Any]]:
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/") or "theta", leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    ]


def _same(one: Any, other: Any) -> bool:
    raw = lambda leaf: jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(raw(a), raw(b)) for a, b in pairs)
