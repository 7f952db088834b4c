"""Trees of parameters as other people's networks have them: in half precision, with empty leaves, or with none at all."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax


def for_any_tree(tx: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """The same transformation for any tree of real numbers; to the bit where all leaves are float32 and none is empty.

    A step computes, and remembers, in float32 where all leaves are of that or fewer bits: what a family is made of is float32,
    and so would the state be after its first step, whatever it began as. An update is of its parameter's type, or of the
    gradient's where `update` is given no parameters. Leaves without numbers are not shown to the family, and a tree that
    has no others, which `optax.partition` may leave to an optimizer, has an empty state.
    """

    # Named as in Optax's protocol, by which some callers (`optax.MultiSteps`) pass params.
    def init(params: Any) -> Any:
        shown = _shown(params)
        return tx.init(shown) if jax.tree.leaves(shown) else optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        like, shown = updates if params is None else params, _shown(updates)
        if not jax.tree.leaves(shown):
            return jax.tree.map(jnp.zeros_like, like), state
        step, state = tx.update(shown, state, None if params is None else _shown(params), **extra)
        of_leaf = iter(jax.tree.leaves(step))
        back = lambda leaf: next(of_leaf).astype(leaf.dtype) if leaf.size else jnp.zeros_like(leaf)
        return jax.tree.map(lambda leaf: back(jnp.asarray(leaf)), like), state

    return optax.GradientTransformationExtraArgs(init, update)


def _shown(tree: Any) -> Any:
    """The tree as a family is shown it: one type throughout, and None for a leaf without numbers."""
    dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(tree))
    cast = lambda leaf: jnp.asarray(leaf, dtype) if jnp.size(leaf) else None
    return jax.tree.map(cast, tree)
