"""Optimizees that have nothing to do with each other: each process trains its part of them, each of its devices a share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec

from l2lcli import processes
from l2lcli.base import Data, Key, Phi

AXIS = "row"


def by_row(run: Callable[..., Any], phi: Phi, keys: Key, data: Data, axis: int = 0) -> Any:
    """`run(phi, keys, data)`, a tree of arrays on the host with one entry for each of [S] keys on `axis`.

    One process runs it as it is, on one device. Several run it for a part of the keys each, and all have to call this.
    """
    if processes.count() == 1:
        return jax.tree.map(np.asarray, run(phi, keys, data))
    rows, devices = processes.rows(len(keys)), jax.local_devices()
    mine = np.minimum(np.arange(-(-len(rows.mine) // len(devices)) * len(devices)), len(rows.mine) - 1)
    everywhere, split = PartitionSpec(), PartitionSpec(*[None] * axis, AXIS)
    mesh = jax.make_mesh((len(devices),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)
    spread = jax.shard_map(
        run, mesh=mesh, in_specs=(everywhere, PartitionSpec(AXIS), everywhere), out_specs=split, check_vma=False
    )
    found = jax.jit(spread)(phi, keys[rows.mine[mine]], data)
    own = jax.tree.map(lambda leaf: np.moveaxis(np.asarray(leaf), axis, 0)[: len(rows.mine)], found)
    return jax.tree.map(lambda leaf: np.moveaxis(leaf, 0, axis), rows.whole(own))
