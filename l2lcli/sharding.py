"""Many devices: one mesh axis, "task". The tasks of a meta-batch are split over it; nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from l2lcli.base import Estimate, Estimator, Phi
from l2lcli.unroll import axes

AXIS = "task"


def over_tasks(build: Callable[[int, int], Estimator], tasks: int, devices: int) -> Estimator:
    """An estimator whose M tasks run on `devices` devices, M / devices on each, with one reduction per meta-gradient.

    Args:
      build: (number of tasks, devices that the estimator may use itself) -> estimator whose state is `Inner`.
      tasks: M.
      devices: how many of `jax.devices()` to use. Where they do not divide M, the estimator gets them.

    Raises ValueError if there are fewer devices.
    """
    if devices > jax.device_count():
        raise ValueError(f"{devices} devices asked for, {jax.device_count()} present")
    if tasks % devices or devices == 1:
        return build(tasks, devices)
    local = build(tasks // devices, 1)
    everywhere, split = PartitionSpec(), PartitionSpec(AXIS)
    state_spec = axes(split)._replace(t=everywhere)

    def init(key, phi, data):
        # Keys are split once, for all M, so the optimizees do not depend on the number of devices.
        return build(tasks, 1).init(key, phi, data)

    def estimate(key, phi, data, state):
        def one(key, phi, data, state):
            # Marked as differing between devices, so that differentiation inside makes no reduction of its own.
            phi = jax.lax.pcast(phi, AXIS, to="varying")
            result, state = local.estimate(key, phi, data, state)
            return Estimate(*jax.lax.pmean(tuple(result), AXIS)), state

        return jax.shard_map(
            one, mesh=_mesh(devices), in_specs=(everywhere, everywhere, everywhere, state_spec),
            out_specs=(everywhere, state_spec),
        )(key, phi, data, state)  # fmt: skip

    return Estimator(init, estimate)


def summed(term: Callable[..., Phi], phi: Phi, count: int, devices: int, arguments: tuple[Any, ...]) -> Phi:
    """Σ_{i < count} term(phi, i, *arguments), a tree like phi: one after the other, a part of them on each device.

    What is summed is accumulated on each device and reduced once.
    """

    def part(phi, indices, *arguments):
        def add(total, i):
            return jax.tree.map(jnp.add, total, term(phi, i, *arguments)), None

        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, phi), indices)[0]

    if devices == 1:
        return part(phi, jnp.arange(count), *arguments)
    each, rest = divmod(count, devices)
    everywhere, split = PartitionSpec(), PartitionSpec(AXIS)

    def one(phi, indices, *arguments):
        # Marked as differing between devices, so that differentiation inside makes no reduction of its own.
        phi, *arguments = jax.lax.pcast((phi, *arguments), AXIS, to="varying")
        return jax.lax.psum(part(phi, indices, *arguments), AXIS)

    specs = (everywhere, split, *[everywhere] * len(arguments))
    mapped = jax.shard_map(one, mesh=_mesh(devices), in_specs=specs, out_specs=everywhere)
    total = mapped(phi, jnp.arange(each * devices), *arguments)
    if rest:
        total = jax.tree.map(jnp.add, total, part(phi, jnp.arange(each * devices, count), *arguments))
    return total


def on_all(function: Callable[..., Any], devices: int) -> Callable[..., Any]:
    """`function` run by all devices together on the same arguments, to the same results; AXIS is theirs to talk over."""
    everywhere = PartitionSpec()
    # Unchecked: that an exchange of parts leaves every device with the same whole is beyond what shard_map can infer.
    return jax.shard_map(function, mesh=_mesh(devices), in_specs=everywhere, out_specs=everywhere, check_vma=False)


def on_every_device(function: Callable[..., jax.Array], devices: int) -> Callable[..., jax.Array]:
    """`function` of arrays that have one entry more, in front, for each device: every device computes its own."""

    def one(*arrays):
        return function(*(array[0] for array in arrays))[None]

    return jax.shard_map(one, mesh=_mesh(devices), in_specs=PartitionSpec(AXIS), out_specs=PartitionSpec(AXIS))


def _mesh(devices: int) -> jax.sharding.Mesh:
    return jax.make_mesh((devices,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
