"""Trees of device arrays as flat dictionaries of host arrays under '/'-joined keys, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def to_host(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """The leaves of a tree, copied to the host, by their path; a PRNG key is its raw data.

    Of a tree on the devices of several processes all of them have to call it.
    """
    return {prefix + name: _whole(_raw(leaf)) for name, leaf in named(tree)}


def from_host(like: Any, arrays: Mapping[str, np.ndarray], prefix: str = "") -> Any:
    """The tree of structure `like` (leaves may be abstract) whose leaves are in `arrays`.

    Raises ValueError, with the first leaf that is missing or of another shape or type.
    """
    leaves = []
    for name, leaf in named(like):
        key = prefix + name
        if key not in arrays:
            raise ValueError(f"no {key}")
        expected = jax.eval_shape(_raw, leaf)
        found = arrays[key]
        if (found.shape, found.dtype) != (expected.shape, expected.dtype):
            raise ValueError(f"{key} is {_shown(found)}, not {_shown(expected)}")
        leaves.append(jax.random.wrap_key_data(jnp.asarray(found)) if is_key(leaf) else jnp.asarray(found))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def nest(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Nested dictionaries of device arrays from '/'-joined keys: what `to_host` was given, if that was nested dictionaries."""
    tree: dict[str, Any] = {}
    for key, leaf in arrays.items():
        *above, last = key.split("/")
        branch = tree
        for part in above:
            branch = branch.setdefault(part, {})
        branch[last] = jnp.asarray(leaf)
    return tree


def misfit(arrays: Mapping[str, np.ndarray], like: Any) -> str | None:
    """What makes a stored phi unfit for a family whose own phi is `like`, in a few words; None if nothing does."""
    expected = dict(named(like))
    if odd := sorted(set(arrays) ^ set(expected)):
        return f"{odd[0]} is {'not needed' if odd[0] in arrays else 'missing'}"
    for key, leaf in expected.items():
        if arrays[key].shape != leaf.shape:
            return f"{key} is {_shown(arrays[key])} there, {_shown(leaf)} here"
    return None


def named(tree: Any) -> list[tuple[str, Any]]:
    """The leaves with their '/'-joined paths."""
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]


def is_key(leaf: Any) -> bool:
    """Whether an array, which may be abstract, is of PRNG keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _raw(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def _whole(leaf: Any) -> np.ndarray:
    """An array, copied to the host; leaf by leaf, so that no device ever holds more than one of them whole."""
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        from jax.experimental import multihost_utils

        return np.array(multihost_utils.process_allgather(leaf, tiled=True))
    return np.array(leaf)


def _shown(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"
