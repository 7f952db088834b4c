"""One meta-training in its run directory: from the start or from the last checkpoint, to the comparison with baselines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from l2lcli import leaves, registry, sharding
from l2lcli.artefact import RunError, one_line, write_artefact
from l2lcli.experiment import ARTEFACT, Experiment, evaluate, write_evaluation
from l2lcli.meta_train import Chunk, MetaTraining, Outer, Record, meta_training, run
from l2lcli.progress import Progress
from l2lcli.rundir import Run
from l2lcli.signals import Signals, Stopped

STATUS_SECONDS = 2.0  # between rewrites of status.json


class DivergedError(Exception):
    """Meta-training ended with a run of meta-gradients that were not finite; the last good phi is saved."""


def train(experiment: Experiment, folder: Run, initial: Any | None, devices: int, signals: Signals) -> dict[str, Any]:
    """Meta-train into a run directory that this process has locked, and compare the result with the baselines.

    Args:
      experiment: what is trained.
      folder: its run directory; a checkpoint in it is gone on from.
      initial: phi to start from, where there is no checkpoint; None draws a fresh one.
      devices: over how many devices the tasks are split.
      signals: looked at between dispatches and between the steps of the evaluation.

    Returns:
      The summary, which is written too.

    Raises DivergedError, signals' Stopped, RunError. Whatever it raises, the status says so and the directory can be gone
    on from.
    """
    try:
        with Progress(_steps(experiment)) as progress:
            record = _meta_train(experiment, folder, initial, devices, signals, progress)

            def tell(line: str) -> None:
                signals.check()
                progress.say(line)

            comparison = evaluate(experiment, jax.tree.map(jnp.asarray, record.best), tell)
        write_evaluation(folder, experiment.config.name, comparison)
        folder.status("done", **_seconds(folder))
        return comparison.summary
    except Stopped as stopped:
        folder.status("stopped", reason=str(stopped), **_seconds(folder))
        raise
    except DivergedError as error:
        folder.status("diverged", reason=str(error), **_seconds(folder))
        raise
    except BaseException as error:
        folder.status("failed", reason=one_line(error), **_seconds(folder))
        raise


def _steps(experiment: Experiment) -> int:
    spec = experiment.config.train
    return spec.episodes * (spec.horizon // spec.estimator.window)


def _seconds(folder: Run) -> dict[str, float]:
    # The only clock in a run's files besides seconds_per_step: everything else is bit-equal from run to run.
    return {"train_seconds": folder.read_status().get("train_seconds", 0.0)}


def _weights(spec: Any) -> tuple[float, ...]:
    """w_1 … w_T."""
    return (1.0,) * spec.horizon if spec.weights == "all" else (0.0,) * (spec.horizon - 1) + (1.0,)


def _meta_train(
    experiment: Experiment, folder: Run, initial: Any | None, devices: int, signals: Signals, progress: Progress
) -> Record:
    spec, problem = experiment.config.train, experiment.problem

    def estimator(tasks: int):
        return registry.estimator.build(spec.estimator, problem, experiment.optimizer, tasks, _weights(spec))

    meta = meta_training(problem, experiment.optimizer, sharding.over_tasks(estimator, spec.tasks, devices), spec)
    outer, record, rows, finished = _begin(experiment, folder, meta, initial, progress.say)
    before, began = _seconds(folder)["train_seconds"], time.monotonic()
    progress.begin(int(outer.step))
    saved = noted = time.monotonic()
    train_data = problem.data["train"]
    chunks = run(meta, spec, experiment.root, outer, record, train_data, problem.data.get("validation", train_data))
    for chunk in () if finished else chunks:
        folder.append(chunk.rows)
        rows += len(chunk.rows)
        progress.update(chunk.step, chunk.rows)
        finished, now = chunk.finished, time.monotonic()
        seconds = {"train_seconds": round(before + now - began, 3)}
        if finished or signals.received or now - saved >= spec.checkpoint_seconds:
            record = _save(experiment, folder, chunk, rows)
            folder.status("running", chunk.step, **seconds)
            saved = noted = time.monotonic()
        elif now - noted >= STATUS_SECONDS:
            folder.status("running", chunk.step, **seconds)
            noted = now
        signals.check()
    if finished == "diverged":
        raise DivergedError(
            f"meta-training diverged: {meta.limit} meta-gradients in a row were not finite; the last good parameters are in "
            f"{folder.path / ARTEFACT}. A lower meta_optimizer.learning_rate or a clip may help."
        )
    return record


def _begin(
    experiment: Experiment, folder: Run, meta: MetaTraining, initial: Any | None, say: Callable[[str], None]
) -> tuple[Outer, Record, int, str | None]:
    """Where meta-training begins: (outer, record, rows in metrics.jsonl, how it ended if it has)."""
    root, data = experiment.root, experiment.problem.data["train"]
    phi = experiment.phi() if initial is None else initial
    outer = meta.init(root, phi, data)
    checkpoint = folder.restore(lambda line: say(f"warning: {line}"))
    if checkpoint is None:
        record = Record(leaves_of(phi), math.inf, 0, [])
        folder.truncate(0)
        _write_artefact(experiment, folder, record, 0)
        folder.status("running", 0)
        return outer, record, 0, None
    try:
        outer = leaves.from_host(outer, checkpoint.arrays, "outer/")
        best = leaves.from_host(phi, checkpoint.arrays, "best/")
    except ValueError as error:
        reason = f"checkpoint {checkpoint.step} does not fit the run's config or this version of l2l: {error}"
        raise RunError(f"{folder.path}: {reason}") from None
    folder.truncate(checkpoint.meta["rows"])
    loss = checkpoint.meta["best_loss"]
    record = Record(leaves_of(best), math.inf if loss is None else loss, checkpoint.meta["stale"], checkpoint.meta["pending"])
    folder.status("running", checkpoint.step, **_seconds(folder))
    return outer, record, checkpoint.meta["rows"], checkpoint.meta["finished"]


def leaves_of(phi: Any) -> Any:
    """phi on the host, copied: what it came from may be donated."""
    return jax.tree.map(np.array, phi)


def _save(experiment: Experiment, folder: Run, chunk: Chunk, rows: int) -> Record:
    """Write the artefact and a checkpoint; the record with the phi that was written as its best."""
    record = chunk.record
    best_loss = record.best_loss if math.isfinite(record.best_loss) else None
    if best_loss is None:
        record = record._replace(best=leaves_of(chunk.outer.phi))  # not validated yet; the last one is the best guess
    arrays = leaves.to_host(chunk.outer, "outer/") | leaves.to_host(record.best, "best/")
    meta = {"rows": rows, "best_loss": best_loss, "stale": record.stale, "pending": record.pending, "finished": chunk.finished}
    _write_artefact(experiment, folder, record, chunk.step)
    folder.save(chunk.step, arrays, meta, best_loss)
    return record


def _write_artefact(experiment: Experiment, folder: Run, record: Record, step: int) -> None:
    meta = {
        "config": experiment.config.model_dump(mode="json"),
        "step": step,
        "validation_loss": record.best_loss if math.isfinite(record.best_loss) else None,
    }
    write_artefact(folder.path / ARTEFACT, leaves.to_host(record.best), meta)
