"""How long devices take to exchange what they have: a model of links between them, and meta-steps drawn from it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

DRAWS = 2000


class Link(NamedTuple):
    """What connects devices: a message of b bytes takes `latency` + b / `bandwidth` seconds."""

    latency: float  # seconds
    bandwidth: float  # bytes per second


# Round figures of the kind that vendors give; which one fits a machine, its own benchmark of an all-reduce says.
LINKS = {
    "in a node": Link(5e-6, 200e9),
    "fast network": Link(15e-6, 25e9),
    "10 Gbit Ethernet": Link(60e-6, 1.2e9),
}


def collective(link: Link, devices: int, size: int) -> float:
    """Seconds of an all-reduce of so many bytes: by a ring or by recursive doubling (Thakur et al. 2005), the quicker one."""
    if devices == 1:
        return 0.0
    steps = 2 * (devices - 1)
    ring = steps * (link.latency + size / devices / link.bandwidth)
    doubling = math.ceil(math.log2(devices)) * (link.latency + size / link.bandwidth)
    return min(ring, doubling)


def each(tasks: int, devices: int) -> int:
    """Tasks of a device: its share, but at least one."""
    return max(1, math.ceil(tasks / devices))


def simulated(link: Link, devices: int, seconds: float, jitter: float, tasks: int, size: int) -> dict[str, Any]:
    """Meta-steps on so many devices, each with its share of the tasks.

    Args:
      link: between them.
      devices: D.
      seconds: of one device's share of the tasks.
      jitter: standard deviation of that, over its mean; a device's time is drawn log-normally.
      tasks: M.
      size: bytes that are summed over the devices.

    Returns:
      {"devices", "tasks": in all, M or one for each device, "seconds": mean of a meta-step, "collective": seconds of the
      exchange, "busy": the share of its time that a device computes for a meta-step}.
    """
    sigma = math.sqrt(math.log1p(jitter**2))
    draw = np.random.default_rng(0)
    slowest = np.array([np.exp(sigma * draw.standard_normal(devices)).max() for _ in range(DRAWS)])
    wait = seconds * float(np.mean(slowest)) * math.exp(-(sigma**2) / 2)
    exchanged = collective(link, devices, size)
    return {
        "devices": devices, "tasks": each(tasks, devices) * devices, "seconds": wait + exchanged, "collective": exchanged,
        "busy": seconds / (wait + exchanged),
    }  # fmt: skip
