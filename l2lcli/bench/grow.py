"""`l2l bench --grow CONFIG`: what limits an experiment on many devices.

Three things do. Tasks are split over devices, so that there are at most as many as tasks, and more tasks make a meta-gradient
better only up to its noise scale (McCandlish et al. 2018). The devices wait for the slowest of them. And they exchange the
meta-gradient once a meta-step: few bytes, so that it is the latency of a collective that counts.

Measured here: the noise scale, the time of a meta-step and how it varies, what is exchanged and how long that takes, on 2, 4
and 8 devices of this machine. Simulated: 8, 64 and 1,024 devices, by drawing each device's time for its tasks, and adding the
steps of a collective. The simulation is held against what was measured on devices that share this machine's cores.
"""

from __future__ import annotations

import math
import re
import textwrap
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from l2lcli.base import Estimator, Phi
from l2lcli.bench.links import LINKS, each, simulated
from l2lcli.estimators._sharding import AXIS, mesh_of
from l2lcli.experiment import Experiment
from l2lcli.inner.unroll import namespace
from l2lcli.meta.estimator import estimator, split
from l2lcli.reports.tables import WIDTH, aligned, number

HERE = (2, 4, 8)  # devices of this machine
THERE = (8, 64, 1024)  # of others
BATCHES = 16  # meta-batches that the noise scale is of
ROUNDS = 15  # timed, the median of
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")


def measure(experiment: Experiment, phis: dict[str, Phi], cores: int, check: Callable[[], None]) -> dict[str, Any]:
    """Measure, and simulate.

    Args:
      experiment: whose meta-gradient; its tasks are what is split.
      phis: name -> parameters of its optimizer at which noise is looked at; times are those of the first.
      cores: that the devices here share.
      check: called between measurements; what it raises goes through.

    Returns:
      {"tasks": M, "parameters": |phi|, "noise_scale": {name: tasks}, "seconds": of a meta-step on one device, "jitter": its
      standard deviation over its mean, "here": [{"devices", "collectives", "bytes", "seconds", "alone", "share", "simulated"}],
      "there": {link: [{"devices", "tasks", "seconds", "collective", "busy"}]}}. Seconds are medians; "alone" is the
      exchange alone, "share" what one device takes for its part of the tasks.
    """
    spec = experiment.config.train
    phi = next(iter(phis.values()))
    tasks, size = spec.tasks, sum(leaf.size for leaf in jax.tree.leaves(phi))

    def build(devices: int, parts: int = 1) -> Estimator:
        """Of one of so many parts of the tasks."""
        problem, own = experiment.problem, spec.model_copy(update={"tasks": tasks // parts})
        members = {name: of._replace(tasks=(of.tasks or tasks) // parts) for name, of in problem.members.items()}
        return estimator(own, problem._replace(members=members), experiment.optimizer, devices)

    data = split(experiment.problem, "train")
    one = build(1)
    noise, jitter = {}, 0.0
    for name, of in phis.items():
        check()
        noise[name] = tasks * noise_scale(gradients(one, experiment.root, of, data, spec.windows))
    possible = [devices for devices in HERE if tasks % devices == 0 and devices <= jax.device_count()]
    shares: dict[int, float] = {}  # tasks -> seconds of them on one device
    for parts in (1, *possible):
        check()
        times = timed(build(1, parts), experiment.root, phi, data)
        shares[tasks // parts] = float(np.median(times))
        jitter = float(np.std(times) / np.mean(times)) if parts == 1 else jitter
    seconds = shares[tasks]
    slope, base = np.polyfit(list(shares), list(shares.values()), 1) if len(shares) > 1 else (seconds / tasks, 0.0)
    here = []
    for devices in possible:
        check()
        made = build(devices)
        exchanged = collectives(made, experiment.root, phi, data)
        alone = exchange(size + 1, devices)
        of_many = float(np.median(timed(made, experiment.root, phi, data)))
        turns = devices / min(devices, cores)  # devices that share cores take turns
        share = shares[tasks // devices]
        here.append(
            {
                "devices": devices,
                **exchanged,
                "seconds": of_many,
                "alone": alone,
                "share": share,
                "simulated": turns * share + alone,
            }
        )
    there = {
        name: [
            simulated(link, devices, max(base, 0) + slope * each(tasks, devices), jitter, tasks, 4 * (size + 1))
            for devices in THERE
        ]
        for name, link in LINKS.items()
    }
    return {
        "name": experiment.config.name,
        "tasks": tasks,
        "parameters": size,
        "noise_scale": noise,
        "seconds": seconds,
        "jitter": jitter,
        "here": here,
        "there": there,
    }


def table(found: dict[str, Any]) -> str:
    """What was measured and simulated, as text."""
    scales = ", ".join(f"{number(scale)} ({name})" for name, scale in found["noise_scale"].items())
    lines = [
        f"{found['name']}: M = {found['tasks']} tasks, {found['parameters']:,} learned parameters. A meta-step on one device "
        f"takes {1e3 * found['seconds']:.3g} ms, give or take {found['jitter']:.0%}.",
        f"Noise scale of the meta-gradient, in tasks: {scales}.",
    ]
    here = [["devices here", "collectives", "bytes", "exchange, ms", "share alone, ms", "meta-step, ms", "as simulated"]]
    for row in found["here"]:
        seconds = (f"{1e3 * row[key]:.3g}" for key in ("alone", "share", "seconds", "simulated"))
        here.append([str(row["devices"]), str(row["collectives"]), f"{row['bytes']:,}", *seconds])
    there = [["link", "devices", "tasks", "exchange, ms", "meta-step, ms", "busy"]]
    for name, rows in found["there"].items():
        for row in rows:
            seconds = (f"{1e3 * row[key]:.3g}" for key in ("collective", "seconds"))
            there.append([name, f"{row['devices']:,}", f"{row['tasks']:,}", *seconds, f"{row['busy']:.0%}"])
    paragraphs = [textwrap.fill(line, WIDTH) for line in lines]
    return "\n".join([*paragraphs, "", *aligned(here), "", "Simulated:", *aligned(there)])


def gradients(made: Estimator, root: Any, phi: Phi, data: Any, windows: int) -> np.ndarray:
    """Meta-gradients at phi of meta-batches that have nothing to do with each other, [BATCHES, windows, |phi|]."""

    @jax.jit
    def episode(key, phi, data):
        def window(state, number):
            estimate, state = made.estimate(jax.random.fold_in(key, number), phi, data, state)
            return state, jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(estimate.grad)])

        return jax.lax.scan(window, made.init(key, phi, data), jnp.arange(windows))[1]

    keys = jax.random.split(namespace(root, "noise"), BATCHES)
    return np.stack([np.asarray(episode(key, phi, data)) for key in keys])


def noise_scale(grads: np.ndarray) -> float:
    """How many meta-batches of this size bring the noise of a meta-gradient down to its own length: the median over windows.

    tr(Σ) / |G|², the simple noise scale of McCandlish et al. 2018, Section 2.2, without bias: |mean|² is too long by tr(Σ) / n.
    Infinite where no gradient can be told from noise. grads: [n, windows, |phi|].
    """
    variance = grads.var(0, ddof=1).sum(-1)
    length = np.square(grads.mean(0)).sum(-1) - variance / len(grads)
    return float(np.median(np.where(length > 0, variance / np.where(length > 0, length, 1), math.inf)))


def timed(made: Estimator, root: Any, phi: Phi, data: Any) -> np.ndarray:
    """Seconds of single meta-gradients."""
    run = jax.jit(made.estimate)
    key = namespace(root, "time")
    state = jax.jit(made.init)(key, phi, data)
    seconds = []
    for _ in range(ROUNDS + 2):
        began = time.perf_counter()
        jax.block_until_ready(run(key, phi, data, state))
        seconds.append(time.perf_counter() - began)
    return np.array(seconds[2:])


def collectives(made: Estimator, root: Any, phi: Phi, data: Any) -> dict[str, int]:
    """How many collectives the compiled meta-gradient has, and how many bytes go into them; those in a loop count once."""
    key = namespace(root, "time")
    state = jax.eval_shape(made.init, key, phi, data)
    text = jax.jit(made.estimate).lower(key, phi, data, state).compile().as_text() or ""
    found = [line for line in text.splitlines() if re.search(rf" ({'|'.join(COLLECTIVES)})(-start)?\(", line)]
    return {"collectives": len(found), "bytes": sum(_bytes(line.partition(" = ")[2]) for line in found)}


def _bytes(line: str) -> int:
    """Of what an instruction of a compiled program gives."""
    shapes = re.findall(r"(?:f|s|u)(\d+)\[([\d,]*)\]", re.split(rf" ({'|'.join(COLLECTIVES)})", line)[0])
    return sum(int(bits) // 8 * math.prod(int(n) for n in dims.split(",") if n) for bits, dims in shapes)


def exchange(floats: int, devices: int) -> float:
    """Seconds of the sum of so many floats over devices of this machine, alone."""
    mesh = mesh_of(devices)
    split, everywhere = jax.sharding.PartitionSpec(AXIS), jax.sharding.PartitionSpec()
    add = jax.jit(jax.shard_map(lambda x: jax.lax.psum(x[0], AXIS), mesh=mesh, in_specs=split, out_specs=everywhere))
    ones = jax.device_put(jnp.ones((devices, floats)), jax.sharding.NamedSharding(mesh, split))
    seconds = []
    for _ in range(5 * ROUNDS):
        began = time.perf_counter()
        add(ones).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[ROUNDS:]))
