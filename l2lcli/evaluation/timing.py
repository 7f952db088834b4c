"""What a step costs: wall-clock seconds of optimizers beside each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np

from l2lcli.base import Key, LearnedOptimizer, Phi, Problem
from l2lcli.inner.unroll import fresh, unroll
from l2lcli.signals import Progress

TIMED_STEPS = 100
ROUNDS = 5


def seconds_per_step(
    problem: Problem, members: Mapping[str, tuple[LearnedOptimizer, Phi]], key: Key, steps: int, progress: Progress
) -> dict[str, float]:
    """Wall-clock seconds of one step of one optimizee alone, the gradient included, by each optimizer: medians.

    A jitted scan of each, in turn and `ROUNDS` times over, so that another program that takes the machine meets them alike.
    """
    steps, data = min(steps, TIMED_STEPS), problem.data["train"]

    def timed(optimizer: LearnedOptimizer, phi: Phi) -> Callable[[], float]:
        inner = jax.jit(lambda phi, key, data: fresh(problem, optimizer, phi, key, data, steps))(phi, key, data)
        run = jax.jit(lambda phi, inner, data: unroll(problem, optimizer, phi, inner, data, steps).losses)
        run(phi, inner, data).block_until_ready()

        def once() -> float:
            began = time.perf_counter()
            run(phi, inner, data).block_until_ready()
            return time.perf_counter() - began

        progress.check()
        return once

    timers = {name: timed(*member) for name, member in members.items()}
    seconds = [{name: once() for name, once in timers.items()} for _ in range(ROUNDS)]
    return {name: float(np.median([found[name] for found in seconds])) / steps for name in timers}
