"""Many devices: one mesh axis, over which the tasks of a meta-batch are split, or a single task's coordinates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from l2lcli.base import Estimate, Estimator, Inner
from l2lcli.inner.unroll import axes
from l2lcli.tree import is_key

AXIS = "task"


def over_tasks(build: Callable[[int, int], Estimator], tasks: int, devices: int) -> Estimator:
    """An estimator whose M tasks run on `devices` devices, M / devices on each, with one reduction per meta-gradient.

    Args:
      build: (number of tasks, devices that the estimator may use itself) -> estimator.
      tasks: M.
      devices: how many of `jax.devices()` to use. Where they do not divide M, the estimator gets them.

    Raises ValueError if there are fewer devices.
    """
    if devices > jax.device_count():
        raise ValueError(f"{devices} devices asked for, {jax.device_count()} present")
    if tasks % devices or devices == 1:
        return build(tasks, devices)
    local, together = build(tasks // devices, 1), build(tasks, 1)
    everywhere, split = PartitionSpec(), PartitionSpec(AXIS)
    # Tasks that stand at steps of their own have t and a horizon each; of tasks in lock-step these are scalars.
    specs = lambda state: jax.tree.map(lambda leaf: split if leaf.ndim else everywhere, state)

    def estimate(key, phi, data, state):
        def one(key, phi, data, state):
            # Marked as differing between devices, so that differentiation inside makes no reduction of its own.
            phi = jax.lax.pcast(phi, AXIS, to="varying")
            key = jax.random.fold_in(key, jax.lax.axis_index(AXIS))
            result, state = local.estimate(key, phi, data, state)
            return Estimate(*jax.lax.pmean(tuple(result), AXIS)), state

        return jax.shard_map(
            one, mesh=mesh_of(devices), in_specs=(everywhere, everywhere, everywhere, specs(state)),
            out_specs=(everywhere, specs(state)),
        )(key, phi, data, state)  # fmt: skip

    # Keys are split once, for all M, so the optimizees do not depend on the number of devices.
    return Estimator(together.init, estimate, lambda state: _on_mesh(specs(state), devices), family=together.family)


def by_coordinate(
    local: Callable[..., tuple[Estimate, Any]], devices: int, whole: bool = False
) -> Callable[..., tuple[Estimate, Any]]:
    """A meta-gradient of M tasks that all devices share, each with a part of the coordinates of every task.

    Args:
      local: (key, phi, data, Inner) -> (Estimate, Inner), for inside `shard_map` over AXIS. The leaves of `Inner.opt` are
        a device's own parts, and Estimate.grad is what they contribute; the key is a device's own, too.
      devices: how many.
      whole: every device has the state of all coordinates.

    Returns:
      The same for whole states, whose vectors' last axis is divisible by `devices`.
    """

    def shared(key, phi, data, state):
        everywhere, of_state = PartitionSpec(), _by_coordinate(state, whole)

        def one(key, phi, data, state):
            estimate, state = local(jax.random.fold_in(key, jax.lax.axis_index(AXIS)), phi, data, state)
            return estimate._replace(grad=jax.lax.psum(estimate.grad, AXIS)), state

        # Unchecked: that an exchange of parts leaves every device with the same whole is beyond what shard_map can infer.
        return jax.shard_map(
            one, mesh=mesh_of(devices), in_specs=(everywhere, everywhere, everywhere, of_state),
            out_specs=(everywhere, of_state), check_vma=False,
        )(key, phi, data, state)  # fmt: skip

    return shared


def shardings_by_coordinate(state: Inner, devices: int, whole: bool = False) -> Inner:
    """How such a meta-gradient leaves the state."""
    return _on_mesh(_by_coordinate(state, whole), devices)


def _by_coordinate(state: Inner, whole: bool) -> Inner:
    everywhere = PartitionSpec()
    if whole:
        return axes(everywhere, everywhere)
    part = lambda leaf: PartitionSpec(*[None] * (leaf.ndim - 1), AXIS) if leaf.ndim > 1 else everywhere
    return axes(everywhere, everywhere)._replace(opt=jax.tree.map(part, state.opt))


def _on_mesh(specs: Any, devices: int) -> Any:
    mesh = mesh_of(devices)
    is_spec = lambda x: isinstance(x, PartitionSpec)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs, is_leaf=is_spec)


def on_every_device(function: Callable[..., jax.Array], devices: int) -> Callable[..., jax.Array]:
    """`function` of arrays that have one entry more, in front, for each device: every device computes its own."""

    def one(*arrays):
        return function(*(array[0] for array in arrays))[None]

    return jax.shard_map(one, mesh=mesh_of(devices), in_specs=PartitionSpec(AXIS), out_specs=PartitionSpec(AXIS))


def mesh_of(devices: int) -> jax.sharding.Mesh:
    """As many devices of every process."""
    each = devices // jax.process_count()
    of_process = [[d for d in jax.devices() if d.process_index == process] for process in range(jax.process_count())]
    chosen = [device for own in of_process for device in own[:each]]
    return jax.make_mesh((devices,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=chosen)


def placed(tree: Any, shardings: Any) -> Any:
    """Arrays that every process has alike, on the devices as `shardings`, a prefix of the tree, say."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def place(leaf, sharding):
        if is_key(leaf):
            return jax.random.wrap_key_data(place(jax.random.key_data(leaf), sharding))
        return jax.device_put(np.asarray(leaf), sharding)

    return jax.tree.map(place, tree, jax.tree.broadcast(shardings, tree))
