"""Many devices: one mesh axis, "task". The tasks of a meta-batch are split over it; nothing else is."""

from __future__ import annotations

import jax
from jax.sharding import PartitionSpec

from l2lcli.base import Estimate, Estimator
from l2lcli.unroll import axes

AXIS = "task"


def over_tasks(build, tasks: int, devices: int) -> Estimator:
    """An estimator whose M tasks run on `devices` devices, M / devices on each, with one reduction per meta-gradient.

    Args:
      build: number of tasks -> estimator.
      tasks: M.
      devices: how many of `jax.devices()` to use; 1 leaves the estimator as it is.

    Raises ValueError if there are fewer devices, or if they do not divide M.
    """
    if devices == 1:
        return build(tasks)
    if devices > jax.device_count():
        raise ValueError(f"{devices} devices asked for, {jax.device_count()} present")
    if tasks % devices:
        raise ValueError(f"{devices} devices do not divide the {tasks} tasks of a meta-batch")
    mesh = jax.make_mesh((devices,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    local = build(tasks // devices)
    everywhere, split = PartitionSpec(), PartitionSpec(AXIS)
    state_spec = axes(split)._replace(t=everywhere)

    def init(key, phi, data):
        # Keys are split once, for all M, so the optimizees do not depend on the number of devices.
        return build(tasks).init(key, phi, data)

    def estimate(key, phi, data, state):
        def one(key, phi, data, state):
            # Marked as differing between devices, so that differentiation inside makes no reduction of its own.
            phi = jax.lax.pcast(phi, AXIS, to="varying")
            result, state = local.estimate(key, phi, data, state)
            return Estimate(*jax.lax.pmean(tuple(result), AXIS)), state

        return jax.shard_map(
            one, mesh=mesh, in_specs=(everywhere, everywhere, everywhere, state_spec),
            out_specs=(everywhere, state_spec),
        )(key, phi, data, state)  # fmt: skip

    return Estimator(init, estimate)
