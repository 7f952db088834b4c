"""The outer loop on the host: dispatches of meta-steps, their rows, validations, stages of a curriculum. Writes nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from l2lcli.base import Data, Key, Phi
from l2lcli.config.specs import TrainSpec
from l2lcli.estimators._stages import further, stage
from l2lcli.meta.optimizer import learning_rate
from l2lcli.meta.steps import CAPACITY, MetaState, MetaTraining

SECONDS_PER_DISPATCH = 1.0  # aimed at: signals are polled and the progress shown between dispatches


class Record(NamedTuple):
    """Meta-training's state on the host."""

    best: Phi  # of the best validation so far; the start before the first one
    best_loss: float  # inf before the first validation
    stale: int  # validations since the best one
    pending: list[list[float]]  # [loss, gradient norm, skipped] of the unfinished episode's meta-steps


class Chunk(NamedTuple):
    """What one dispatch brought. `state` is donated to the next one: copy what is kept."""

    state: MetaState
    record: Record
    rows: list[dict[str, Any]]
    step: int
    finished: str | None  # None: goes on; "done", "stopped early" or "diverged"


def run(
    meta: MetaTraining,
    spec: TrainSpec,
    root: Key,
    state: MetaState,
    record: Record,
    data: Data,
    validation: Data,
    trained: bool = False,
    together: Callable[[int], int] = lambda count: count,
) -> Iterator[Chunk]:
    """Meta-train from where `state` and `record` stand to the end, one Chunk a dispatch.

    `together` makes a number of meta-steps, which hangs on the clock, the same in all processes.

    If the phi to begin with is `trained`, it is validated first, in a Chunk of its own, and kept if none is better.

    Rows hold no clock times, so that a resumed run's are bit-equal to an uninterrupted one's: {"step", "episode", "loss",
    "grad_norm", "skipped", "learning_rate"} per episode, loss being the mean over tasks of Σ_{t=1}^T w_t f(theta_t);
    {"step", "episode", "validation_loss", "best"} per validation, loss being `validate`'s; of a mixture also "validation", the
    losses of its members; of a curriculum also "horizon", that which was validated on, and its best phi of one horizon is not
    "best" once more where it is validated on the next. With imitation "loss" has the teacher's part in it, times its weight.
    """
    schedule = learning_rate(spec.meta_optimizer, spec.meta_steps)
    step, total = int(state.step), spec.meta_steps
    between = spec.validate_every * meta.per_episode
    kept = [episode * meta.per_episode for episode in spec.keep]  # a dispatch ends there: its phi is to be had
    if trained and step == 0 and record.stale == 0 and math.isinf(record.best_loss):
        record, row = _validated(meta, spec, root, state, record, validation, step)
        yield Chunk(state, record, [row], step, None)
    count = 1
    everywhere = meta.everywhere((root, data), state)
    while True:
        began = time.monotonic()
        count = min(count, CAPACITY, total - step, between - step % between, *(at - step for at in kept if at > step))
        state, buffer = meta.advance(everywhere[0], state, everywhere[1], np.int32(count))
        done = int(state.step) - step
        rows, pending = [], list(record.pending)
        for values in np.asarray(buffer)[:done].tolist():
            pending.append(values)
            step += 1
            if step % meta.per_episode == 0:
                rows.append(_episode_row(pending, step, meta.per_episode, float(np.asarray(schedule(step - 1)))))
                pending = []
        seconds = time.monotonic() - began
        failures = int(state.failures)
        diverged = failures >= meta.limit or failures == step == total  # a short one has not so many
        record = record._replace(pending=pending)
        finished = "diverged" if diverged else "done" if step == total else None
        if not diverged and (step % between == 0 or step == total):
            record, row = _validated(meta, spec, root, state, record, validation, step)
            rows.append(row)
            if finished is None and spec.patience is not None and record.stale >= spec.patience:
                if stage(state.inner) + 1 < len(spec.stages):
                    state, record, more = _next_stage(meta, spec, root, state, record, validation, step)
                    rows += more
                else:
                    finished = "stopped early"
        yield Chunk(state, record, rows, step, finished)
        if finished is not None:
            return
        # At most doubled: the first dispatch's time is mostly compilation and says little about the others.
        count = together(max(1, min(2 * done, int(done * SECONDS_PER_DISPATCH / max(seconds, 1e-3)) + 1)))


def _episode_row(pending: list[list[float]], step: int, per_episode: int, rate: float) -> dict[str, Any]:
    norms = [norm for _, norm, skipped in pending if not skipped]
    return {
        "step": step,
        "episode": step // per_episode,
        "loss": math.fsum(loss for loss, _, _ in pending) if all(math.isfinite(p[0]) for p in pending) else None,
        "grad_norm": math.fsum(norms) / len(norms) if norms else None,
        "skipped": int(sum(skipped for _, _, skipped in pending)),
        "learning_rate": rate,
    }


def _next_stage(meta, spec, root, state, record, data, step) -> tuple[MetaState, Record, list[dict[str, Any]]]:
    """The curriculum's next horizon, from the best phi at this one, with a meta-optimizer that knows nothing of where it led
    from there; and a row of that phi's validation, if it is now judged on another horizon."""
    phi = jax.tree.map(lambda best, now: jax.device_put(np.array(best), now.sharding), record.best, state.phi)
    before, inner = spec.judged(stage(state.inner)).horizon, further(state.inner)
    state, record = state._replace(phi=phi, opt=meta.fresh(phi, state), inner=inner), record._replace(stale=0)
    if spec.judged(stage(inner)).horizon == before:
        return state, record, []
    record, row = _validated(meta, spec, root, state, record._replace(best_loss=math.inf), data, step)
    return state, record._replace(stale=0), [row | {"best": False}]


def _validated(meta, spec, root, state, record, data, step) -> tuple[Record, dict[str, Any]]:
    now = stage(state.inner)
    found = {name: float(loss) for name, loss in meta.validate(root, state.phi, data, now).items()}
    loss = found.pop("")
    better = math.isfinite(loss) and loss < record.best_loss
    if better:
        record = record._replace(best=jax.tree.map(np.array, state.phi), best_loss=loss, stale=0)
    else:
        record = record._replace(stale=record.stale + 1)
    row: dict[str, Any] = {"step": step, "episode": step // meta.per_episode}
    if spec.curriculum is not None:
        row["horizon"] = spec.judged(now).horizon
    of_members = {"validation": found} if found else {}
    return record, {**row, "validation_loss": loss if math.isfinite(loss) else None, "best": better, **of_members}
