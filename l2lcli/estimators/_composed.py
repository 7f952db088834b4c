"""Replay of a family whose updates are a function of whole tensors: u_t = output(d_t), of what a coordinatewise rule says, d_t.

Where no later state depends on u, theta_t = theta_0 + Σ_{s<t} u_s, and the cotangent of u_t is the weighted suffix sum
C_t = Σ_{s>t} w_s ∇f_s. One product of C_t with the derivative of `output` at the recorded d_t makes of it the cotangent c̃_t of
d_t (for u = d / r, r the root of the mean square over a tensor, (C − u · mean(C u)) / r) and the gradient by the parameters of
`output`. The rule alone is then replayed, block by block, with the surrogate Σ_t ⟨c̃_t, d_t(phi)⟩. With the single-step w_t ∇f_t
in place of C_t it would be wrong: normalising does not commute with the sum.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from l2lcli.base import Composed, ComposedState, Data, Inner, Key, Phi
from l2lcli.estimators._blocks import member_gradient
from l2lcli.estimators._recording import Job, Window, over_tasks, suffix_sums
from l2lcli.inner.flat import flat, ravel
from l2lcli.inner.objective import slopes
from l2lcli.inner.query import score_on_query
from l2lcli.inner.unroll import unroll


def composed_gradient(
    job: Job, composed: Composed, key: Key, phi: Phi, data: Data, state: Inner, block: int, sample: int | None
) -> tuple[Phi, Inner, Window]:
    """The meta-gradient of a composed family by this device's coordinates; arguments as `member_gradient`.

    Returns:
      (like phi, the optimizees W steps further, what the rule was fed and with which cotangents).
    """
    rule = flat(composed.rule)
    theta = jax.tree.map(lambda leaf: leaf[0], state.theta)
    vector, unravel = ravel_pytree(theta)
    mine = job.split(vector.size)

    def judge(theta, query):
        value, grad = jax.value_and_grad(job.judged.loss)(theta, query)
        return value, ravel(grad)

    def spoken(inner: Inner) -> tuple[Any, ...]:
        """What the rule is fed and what it says; the optimizer computes the same, and XLA computes it once."""
        opt: ComposedState = inner.opt
        x, context, _ = composed.feed(inner.grad, opt.fed, inner.theta, inner.value, inner.horizon)
        d, _ = rule.bind(phi["rule"]).update(x, opt.rule, value=inner.value, horizon=inner.horizon)
        return inner.value, ravel(inner.grad), ravel(x), ravel(d), context

    score = score_on_query(job.judged, job.objective.weights, data, judge)

    def one(inner: Inner) -> tuple[Inner, tuple[Any, ...]]:
        found = unroll(job.problem, job.whole, phi, inner, data, job.steps, record=spoken, score=score)
        values, grads, x, d, contexts = found.recorded
        scores, later = (found.losses, ravel(found.end.grad)) if score is None else found.scores
        later = later if later.ndim == 2 else jnp.concatenate([grads[1:], later[None]])
        of_updates = suffix_sums(slopes(job.objective, scores, inner)[:, None] * later)

        def back(_, now):
            d, context, cotangent = now
            _, pull = jax.vjp(lambda output, d: composed.output(output, unravel(d), context), phi["output"], d)
            return None, pull(unravel(cotangent))

        by_output, of_rule = jax.lax.scan(back, None, (d, contexts, of_updates))[1]
        by_output = jax.tree.map(lambda leaf: leaf.sum(0), by_output)
        # `member_gradient` takes cotangents of theta, whose suffix sums are those of updates.
        differences = of_rule - jnp.concatenate([of_rule[1:], jnp.zeros_like(of_rule[:1])])
        cut = jax.vmap(mine.cut)
        own = lambda leaf: leaf if leaf.ndim == 0 else mine.cut(leaf) if leaf.ndim == 1 else cut(leaf)
        opt = jax.tree.map(own, inner.opt.rule)
        kept = Window(
            found.losses, scores, values, inner.horizon, opt, mine.cut(jnp.zeros_like(d[0])), cut(x), cut(differences)
        )
        return found.end, (kept, by_output)

    after, (window, by_output) = over_tasks(one, state, job.steps)
    by_output = jax.tree.map(lambda leaf: leaf.mean(0) / job.devices, by_output)  # each device has the whole of it
    ones = jnp.ones(job.steps, window.losses.dtype)
    intervals = ((0, vector.size),)
    by_rule = member_gradient(job, composed.rule, intervals, key, phi["rule"], window, ones, state.theta, block, sample)
    return {"rule": by_rule, "output": by_output}, after, window
