"""What optimizees that are images look like while they are trained."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2lcli.base import Key, LearnedOptimizer, Phi, Problem
from l2lcli.evaluation.curves import drawn_from
from l2lcli.evaluation.rows import by_row
from l2lcli.inner.unroll import fresh, unroll

TASKS = 4  # of the reported ones, the first
PARTS = (4, 2, 1)  # after which part of the steps


class Gallery(NamedTuple):
    """Images [h, w, 3] uint8 of n optimizees, the same ones for every optimizer.

    Attributes:
      arrays: "given/<name>" [n, h, w, 3], what was asked for; "made/<optimizer>" [n, K, h, w, 3].
      meta: {"steps": the K steps, "given": names, "optimizers": names}.
    """

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


def steps_shown(steps: int) -> list[int]:
    """After how many of `steps` steps images are kept: a quarter, half, and all of them."""
    return sorted({max(1, steps // part) for part in PARTS})


def pictured(problem: Problem, optimizer: LearnedOptimizer, phi: Phi, keys: Key, steps: int) -> dict[str, Any]:
    """{"given": {name: [n, h, w, 3]}, "made": [n, K, h, w, 3]} of the first optimizees of `keys`.

    Tasks held out are those of "test".
    """
    problem, pictures = drawn_from(problem, "test"), problem.pictures
    assert pictures is not None
    at = [0, *steps_shown(steps)]

    @jax.jit
    def run(phi, keys, data):
        def one(key):
            inner = fresh(problem, optimizer, phi, key, data, steps)
            made = []
            for begin, end in itertools.pairwise(at):
                inner = unroll(problem, optimizer, phi, inner, data, end - begin).end
                made.append(pictures.made(inner.theta))
            return jax.tree.map(in_bytes, {"given": dict(pictures.given(inner.task)), "made": jnp.stack(made)})

        return jax.vmap(one)(keys)

    return by_row(run, phi, keys[:TASKS], problem.data["train"])


def gallery(made: Mapping[str, Mapping[str, Any]], steps: int) -> Gallery:
    """What `pictured` found for each optimizer, together; what was given is the same for all."""
    given = next(iter(made.values()))["given"]
    arrays = {f"given/{name}": image for name, image in given.items()}
    arrays |= {f"made/{name}": found["made"] for name, found in made.items()}
    return Gallery(arrays, {"steps": steps_shown(steps), "given": list(given), "optimizers": list(made)})


def in_bytes(image: jax.Array) -> jax.Array:
    """0 … 1 to 0 … 255; what is not finite is black."""
    return jnp.round(255 * jnp.clip(jnp.where(jnp.isfinite(image), image, 0), 0, 1)).astype(jnp.uint8)
