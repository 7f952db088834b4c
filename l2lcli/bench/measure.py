"""`l2l bench`: what a meta-gradient and an applied step cost here, beside the plain ways and the machine's own limits.

Everything is measured in one process on the same inputs, alternating, median of `REPEATS` after a warm-up. The plain ways are
those that a reader of the paper would write: one scan over the window, coordinates first ([N, H]), all coordinates at once.
scaling.py runs it over many sizes, one process for each.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2lcli import registry
from l2lcli.base import LearnedOptimizer, Objective, Problem
from l2lcli.bench.peers import deepmind_window, learned_optimization_window, plain_lstm, torch_window
from l2lcli.bench.shapes import SIZES
from l2lcli.data.loader import Dataset
from l2lcli.estimators import _sharding
from l2lcli.estimators._blocks import together
from l2lcli.estimators.autodiff import AutodiffSpec
from l2lcli.estimators.replay import ReplaySpec
from l2lcli.inner.unroll import fresh
from l2lcli.optimizers._preprocess import Identity, LogSign
from l2lcli.optimizers.lstm import LstmSpec
from l2lcli.problems.classification import ClassificationSpec, on
from l2lcli.problems.quadratic import QuadraticSpec

WAYS = ("replay", "autodiff_checkpoint", "autodiff", "torch", "deepmind", "learned_optimization")
REPEATS = 7
WARM = 0.3  # seconds of each turn that come before what is timed
STEPS = 100  # results are for so many optimizee steps
QUICK_SECONDS, QUICK_BYTES = 5.0, 2e9  # what a quick measurement may take: all repeats together, temporaries of a plain way


class Work(NamedTuple):
    """What is measured."""

    problem: str  # "mnist", "digits" (random images of their shapes) or "quadratic"
    tasks: int  # M
    window: int  # W
    layers: int
    hidden: int  # H
    width: int  # hidden units of the optimizee
    devices: int  # that replay may use; the plain ways use JAX's own threads


def build(work: Work) -> tuple[Problem, LearnedOptimizer, LearnedOptimizer]:
    """The problem, the LSTM, and the same LSTM written the plain way; no data set is needed."""
    if work.problem == "quadratic":
        problem, shown = registry.problem.build(QuadraticSpec(start="zeros"), None), Identity()
    else:
        size = SIZES[work.problem]
        rng = np.random.default_rng(0)
        images, labels = rng.integers(0, 256, (10_000, *size), np.uint8), rng.integers(0, 10, 10_000, np.uint8)
        dataset = Dataset({"train": {"image": images, "label": labels}}, work.problem, 10, 255.0, "random")
        problem, shown = on(dataset, ClassificationSpec(hidden=[work.width])), LogSign()
    spec = LstmSpec(layers=work.layers, hidden=work.hidden, preprocess=shown)
    return problem, registry.optimizer.build(spec), plain_lstm(spec)


def bench(work: Work, *, ways: tuple[str, ...] = WAYS, quick: bool = False) -> dict[str, Any]:
    """Measure; the object that `l2l bench --json` prints. What was not measured is None.

    Args:
      work: what.
      ways: which of `WAYS`; with one alone, the peak memory is its own.
      quick: fewer repeats (at least 2) than `REPEATS` where they would take longer than `QUICK_SECONDS`, no applied step, and
        no plain JAX where XLA's temporaries would exceed `QUICK_BYTES`, which is known before it runs.
    """
    problem, optimizer, plain = build(work)
    data = problem.data["train"]
    theta = jax.eval_shape(problem.init, jax.random.key(0), data)[0]
    phi = optimizer.init(jax.random.key(0), theta)
    size = sum(leaf.size for leaf in jax.tree.leaves(theta))
    known: dict[str, tuple[Any, LearnedOptimizer, int]] = {
        "replay": (ReplaySpec(window=work.window), optimizer, work.devices),
        "autodiff_checkpoint": (AutodiffSpec(window=work.window), plain, 1),
        "autodiff": (AutodiffSpec(window=work.window, checkpoint=False), plain, 1),
    }
    runs: dict[str, Callable[[], Any]] = {}
    compile_seconds: dict[str, float | None] = dict.fromkeys(WAYS)
    temp_bytes: dict[str, int | None] = dict.fromkeys(WAYS)
    for name, (spec, family, devices) in known.items():
        if name in ways:
            run, compile_seconds[name], temp_bytes[name] = _compiled(problem, family, spec, work, devices, phi, data)
            if not quick or name == "replay" or (temp_bytes[name] or 0) <= QUICK_BYTES:
                runs[name] = run
    if "torch" in ways and (torch := torch_window(work)) is not None:
        runs["torch"] = torch
    with ExitStack() as peers:
        for name, peer in {"deepmind": deepmind_window, "learned_optimization": learned_optimization_window}.items():
            if name in ways and (run := peers.enter_context(peer(work))) is not None:
                runs[name] = run
        medians, repeats = _medians(runs, QUICK_SECONDS if quick else np.inf)
    seconds = dict.fromkeys(WAYS) | {k: STEPS / work.window * v for k, v in medians.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # before the machine's rates, which take memory too
    machine = _machine(work, size)
    floor = _floor(work, size, machine)
    families = {"learned": (optimizer, phi)} if "replay" in ways else {}
    families |= {"plain": (plain, phi)} if {"autodiff", "autodiff_checkpoint"} & set(ways) else {}
    applied = apply_seconds(problem, {} if quick else families)
    return {
        "work": {**work._asdict(), "coordinates": size},
        "machine": machine,
        "seconds_per_100_steps": seconds,
        "repeats": repeats,
        "temp_bytes": temp_bytes,
        "peak_rss_bytes": peak,
        "compile_seconds": compile_seconds,
        "apply_seconds_per_step": {name: applied.get(name) for name in ("learned", "plain", "optax.adam")},
        "floor_seconds_per_100_steps": floor,
        "ratio_to_floor": None if seconds["replay"] is None else seconds["replay"] / floor,
    }


def _compiled(problem, family, spec, work: Work, devices: int, phi, data):
    """One window's meta-gradient as a function of nothing, its compile time, and XLA's figure of its temporaries."""

    def build(tasks, devices):
        return registry.estimator.build(spec, problem, family, tasks, Objective((1.0,) * work.window), devices)

    estimator = _sharding.over_tasks(build, work.tasks, devices)
    state = jax.jit(estimator.init)(jax.random.key(1), phi, data)
    key, began = jax.random.key(2), time.perf_counter()
    compiled = jax.jit(estimator.estimate).lower(key, phi, data, state).compile()
    seconds = time.perf_counter() - began
    # From the second call on, what comes in lies on the devices as the program wants it.
    state = jax.tree.map(lambda x, sharding: jax.device_put(x, sharding), state, compiled.input_shardings[0][3])
    data, phi = (
        jax.device_put(x, s) for x, s in zip((data, phi), (compiled.input_shardings[0][i] for i in (2, 1)), strict=True)
    )
    memory = compiled.memory_analysis()
    return lambda: compiled(key, phi, data, state), seconds, None if memory is None else memory.temp_size_in_bytes


def _medians(runs: dict[str, Callable[[], Any]], most: float = np.inf) -> tuple[dict[str, float], int]:
    """Seconds of each, alternating so that a busy moment of the machine meets them all, and of how many runs the median is.

    That is REPEATS, or fewer, down to 2, where they would take more than `most` seconds. A run that follows another's, or a
    pause, is slower than one that follows its own, as in a training: by a third for replay after plain JAX, by a fifth after
    half a second of sleep (a cold core). So each turn begins with runs that are not counted, for `WARM` seconds.
    """
    if not runs:
        return {}, 0

    def turn(run: Callable[[], Any]) -> float:
        started = time.perf_counter()
        while time.perf_counter() < started + WARM:
            jax.block_until_ready(run())
        began = time.perf_counter()
        jax.block_until_ready(run())
        return time.perf_counter() - began

    for run in runs.values():
        jax.block_until_ready(run())  # whatever is done once
    began = time.perf_counter()
    rounds = [{name: turn(run) for name, run in runs.items()}]
    repeats = int(min(max(most / (time.perf_counter() - began), 2), REPEATS))
    rounds += [{name: turn(run) for name, run in runs.items()} for _ in range(repeats - 1)]
    return {name: float(np.median([found[name] for found in rounds])) for name in runs}, repeats


def apply_seconds(problem: Problem, families: dict[str, tuple[LearnedOptimizer, Any]], count: int = STEPS) -> dict[str, float]:
    """Seconds of one update by each family with its phi, and by Adam beside them, in a jitted scan; of none, nothing.

    The optimizee's gradient is left out: it is the same array at each of the `count` steps.
    """
    if not families:
        return {}
    data, tx, runs = problem.data["train"], optax.adam(1e-3), {}
    plain = LearnedOptimizer(lambda key, theta: {}, lambda phi: optax.with_extra_args_support(tx))
    for name, (family, own) in {**families, "optax.adam": (plain, {})}.items():
        inner = fresh(problem, family, own, jax.random.key(3), data)

        def steps(phi, theta, state, grad, family=family):
            def step(carry, _):
                theta, state = carry
                update, state = family.bind(phi).update(grad, state, theta, value=jnp.float32(0), horizon=STEPS)
                return (optax.apply_updates(theta, update), state), None

            return jax.lax.scan(step, (theta, state), length=count)[0]

        compiled = jax.jit(steps)
        runs[name] = lambda run=compiled, a=(own, inner.theta, inner.opt, inner.grad): run(*a)
    return {name: seconds / count for name, seconds in _medians(runs)[0].items()}


def _machine(work: Work, size: int) -> dict[str, Any]:
    """The rates that the floor rests on, with every device at work: products at the LSTM's shapes, tanh, copying memory."""
    block = min(together(ReplaySpec().block, work.window), work.tasks * size)
    rows, inner, loops = 4 * work.hidden, 2 * work.hidden + 1, 2000
    numbers = 8_000_000 if jax.default_backend() == "cpu" else 128_000_000  # more than any cache holds

    def product(a, b):
        # What is multiplied depends on what came before, or it would be computed once.
        return jax.lax.fori_loop(0, loops, lambda i, b: b.at[0, 0].set((a @ b)[0, 0]), b)

    def tanh(x):
        return jax.lax.fori_loop(0, loops, lambda i, x: jnp.tanh(x), x)

    def copy(x):
        return jax.lax.fori_loop(0, 8, lambda i, x: x + 1.0, x)

    shapes = {"product": [(rows, inner), (inner, block)], "tanh": [(rows, block)], "copy": [(numbers,)]}
    runs = {}
    for function in (product, tanh, copy):
        arrays = [jnp.full(shape, 0.01) for shape in shapes[function.__name__]]
        runs[function.__name__] = _on_every_device(function, arrays, work.devices)
    seconds = _medians(runs)[0]
    return {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": work.devices,
        "product_flops": 2 * loops * rows * inner * block * work.devices / seconds["product"],
        "tanh_per_second": loops * rows * block * work.devices / seconds["tanh"],
        "bytes_per_second": 8 * 2 * 4 * numbers * work.devices / seconds["copy"],
    }


def _on_every_device(function, arrays, devices: int) -> Callable[[], Any]:
    compiled = jax.jit(_sharding.on_every_device(function, devices))
    stacked = [jnp.stack([array] * devices) for array in arrays]
    return lambda: compiled(*stacked)


def _floor(work: Work, size: int, machine: dict[str, Any]) -> float:
    """Seconds of one forward and one backward pass of STEPS steps at these rates, nothing overlapping.

    A backward pass has twice the forward one's products and no tanh; recorded gradients are written once and read twice.
    """
    shown = 1 if work.problem == "quadratic" else 2
    inputs = [shown, *[work.hidden] * (work.layers - 1)]
    steps = STEPS * work.tasks * size
    flops = 3 * steps * sum(2 * 4 * work.hidden * (i + work.hidden + 1) for i in inputs)
    tanh = steps * work.layers * 5 * work.hidden
    moved = 3 * 4 * steps
    return flops / machine["product_flops"] + tanh / machine["tanh_per_second"] + moved / machine["bytes_per_second"]
