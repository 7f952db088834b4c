"""One meta-training in its run directory: from the start or from the last checkpoint, to the comparison with baselines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from signal import Signals as Signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from l2lcli import processes, tree
from l2lcli.commands import backend
from l2lcli.commands.compare import evaluate_experiment
from l2lcli.commands.progress import Display
from l2lcli.commands.results import record_environment, write
from l2lcli.commands.sinks import Sinks
from l2lcli.config import Config, ConfigError
from l2lcli.experiment import Experiment, build, checked
from l2lcli.meta import estimator, loop
from l2lcli.meta.loop import Chunk, Record
from l2lcli.meta.optimizer import factors
from l2lcli.meta.steps import MetaState, MetaTraining, meta_training
from l2lcli.runs import trained
from l2lcli.runs.files import RunError, one_line, read_json
from l2lcli.runs.rundir import Run
from l2lcli.signals import Diverged, Signals, Stopped

STATUS_SECONDS = 2.0  # between rewrites of status.json


def train(run: Run, config: Config, devices: int | None, argv: list[str], signals: Signals) -> None:
    """Meta-train into a run directory that this process has locked, and compare the result with the baselines.

    Args:
      run: the run directory; a checkpoint in it is gone on from.
      config: its config.
      devices: over how many devices the tasks are split; None for as many cores as divide them.
      argv: the command line, for env.json.
      signals: looked at between dispatches and between the parts of the evaluation.

    Raises Diverged, Stopped, DataError, ConfigError, RunError. Whatever it raises, the status says so and the run can be gone
    on with.
    """
    spec = config.train
    try:
        with Display(spec.meta_steps, signals) as progress, Sinks(run, config, progress.warn) as sinks:
            devices = backend.start(devices, spec.tasks, progress.warn)
            experiment = build(config)
            checked(experiment, progress.warn)
            for name in config.eval.variants:  # what is wrong with one is said before the hours of training
                experiment.varied(name, jax.eval_shape(experiment.phi))
            signals.check()
            record_environment(run, experiment, devices, argv, progress.warn)
            best = _meta_train(experiment, run, devices, signals, progress, sinks)
            best = jax.tree.map(jnp.asarray, best)
            kept = processes.shared(lambda: jax.tree.map(np.asarray, experiment.kept(run.path)))
            found = evaluate_experiment(experiment, best, progress, kept)
            if processes.first():
                write(run, found, config.eval.report)
                sinks.summary(read_json(run.path / "summary.json") or {})
        run.status("done", **_seconds(run))
    except Stopped as stopped:
        run.status("stopped", reason=str(stopped), **_seconds(run))
        raise stopped.saying(f"; go on with: l2l train --resume {run.path}") from None
    except Diverged as diverged:
        run.status("diverged", reason=str(diverged), **_seconds(run))
        raise
    except BaseException as error:
        run.status("failed", reason=one_line(error), **_seconds(run))
        raise


def _seconds(run: Run) -> dict[str, Any]:
    # The only clock in a run's files besides seconds_per_step: everything else is bit-equal from run to run.
    return {"train_seconds": run.read_status().get("train_seconds", 0.0)}


def _meta_train(experiment: Experiment, run: Run, devices: int, signals: Signals, progress: Display, sinks: Sinks) -> Any:
    """The best phi, on the host."""
    spec, problem = experiment.config.train, experiment.problem
    try:
        built = estimator.estimator(spec, problem, experiment.optimizer, devices)
    except ValueError as error:  # it is not one for this problem and optimizer
        raise ConfigError([f"train.estimator: {error}"]) from error
    if patterns := spec.meta_optimizer.factors:
        try:
            factors(patterns, jax.eval_shape(experiment.phi))
        except ValueError as error:
            raise ConfigError([f"train.meta_optimizer.factors: {error}"]) from error
    if processes.count() > 1 and built.shardings is None:
        raise ConfigError([f"train: nothing of it can be split over {processes.count()} processes: more train.tasks?"])
    meta = meta_training(problem, experiment.optimizer, built, spec)
    state, record, rows, finished = _begin(experiment, run, meta, progress.warn)
    before, began = _seconds(run)["train_seconds"], time.monotonic()
    progress.begin(int(state.step))
    saved = noted = time.monotonic()
    train_data, validation = estimator.split(problem, "train"), estimator.split(problem, "validation")
    continued = processes.shared((run.path / trained.START).is_file)
    first = lambda count: processes.agreed(count)[0][0]  # clocks differ
    chunks = loop.run(meta, spec, experiment.root, state, record, train_data, validation, continued, first)
    sinks.begin(run.rows())
    for chunk in () if finished else chunks:
        run.append(chunk.rows)
        sinks.add(chunk.rows)
        rows += len(chunk.rows)
        progress.update(chunk.step, chunk.rows)
        if chunk.step % meta.per_episode == 0 and (episode := chunk.step // meta.per_episode) in spec.keep:
            # Before the checkpoint that a resumed run goes on from, or else a kill between the two would lose it.
            about = _about(experiment, chunk.step, math.inf)
            run.write_optimizer(trained.kept(episode), tree.to_host(chunk.state.phi), about)
        finished, now = chunk.finished, time.monotonic()
        # Looked at once: what stops the run is always saved. A signal to any process stops all of them.
        flags = processes.agreed(signals.received or 0, now - saved >= spec.checkpoint_seconds)
        stop, due = next((number for number, _ in flags if number), 0), flags[0][1]
        seconds: dict[str, Any] = {"train_seconds": round(before + now - began, 3)}
        if finished or stop or due:
            record = _save(experiment, run, chunk, rows)
            run.status("running", chunk.step, **seconds)
            saved = noted = time.monotonic()
        elif now - noted >= STATUS_SECONDS:
            run.status("running", chunk.step, **seconds)
            noted = now
        if stop:
            raise Stopped(Signal(stop), together=True)
    if finished == "diverged":
        raise Diverged(
            f"meta-training diverged: {min(meta.limit, spec.meta_steps)} meta-gradients or updates in a row were not finite; "
            f"the last good parameters are in {run.path / trained.NAME}. "
            "A lower meta_optimizer.learning_rate or a clip may help."
        )
    return record.best


def _begin(
    experiment: Experiment, run: Run, meta: MetaTraining, warn: Callable[[str], None]
) -> tuple[MetaState, Record, int, str | None]:
    """Where meta-training begins: (state, record, rows in metrics.jsonl, how it ended if it has)."""
    root, data = experiment.root, estimator.split(experiment.problem, "train")
    start = run.path / trained.START
    begun = processes.shared(lambda: trained.read(start).phi if start.is_file() else None)
    phi = experiment.phi() if begun is None else _continued(experiment, begun)
    state = meta.init(root, phi, data)
    checkpoint = processes.shared(lambda: run.restore(lambda line: warn(f"warning: {line}")))
    if checkpoint is None:
        record = Record(_on_host(phi), math.inf, 0, [])
        run.truncate(0)
        _write_artefact(experiment, run, record, 0)
        run.status("running", 0)
        return meta.place(state), record, 0, None
    try:
        state = tree.from_host(state, checkpoint.arrays, "outer/")
        best = tree.from_host(phi, checkpoint.arrays, "best/")
    except ValueError as error:
        reason = f"checkpoint {checkpoint.step} does not fit the run's config or this version of l2l: {error}"
        raise RunError(f"{run.path}: {reason}") from None
    run.truncate(checkpoint.meta["rows"])
    loss = checkpoint.meta["best_loss"]
    record = Record(_on_host(best), math.inf if loss is None else loss, checkpoint.meta["stale"], checkpoint.meta["pending"])
    run.status("running", checkpoint.step, **_seconds(run))
    return meta.place(state), record, checkpoint.meta["rows"], checkpoint.meta["finished"]


def _continued(experiment: Experiment, begun: dict[str, np.ndarray]) -> Any:
    """The phi that a run goes on from. Raises RunError."""
    named = f"train.init_from {experiment.config.train.init_from}"
    if odd := [name for name, leaf in begun.items() if not np.isfinite(leaf).all()]:
        raise RunError(f"{named}: its parameters are not finite: {odd[0]}")
    return experiment.fitted(begun, named)


def _on_host(phi: Any) -> Any:
    """phi on the host, copied: what it came from may be donated."""
    return jax.tree.map(np.array, phi)


def _save(experiment: Experiment, run: Run, chunk: Chunk, rows: int) -> Record:
    """Write the artefact and a checkpoint; the record with the phi that was written as its best."""
    record = chunk.record
    best_loss = record.best_loss if math.isfinite(record.best_loss) else None
    if best_loss is None:
        record = record._replace(best=_on_host(chunk.state.good))  # not validated yet: the last good one is the best guess
    arrays = tree.to_host(chunk.state, "outer/") | tree.to_host(record.best, "best/")
    meta = {"rows": rows, "best_loss": best_loss, "stale": record.stale, "pending": record.pending, "finished": chunk.finished}
    _write_artefact(experiment, run, record, chunk.step)
    run.save(chunk.step, arrays, meta, best_loss)
    return record


def _write_artefact(experiment: Experiment, run: Run, record: Record, step: int) -> None:
    run.write_optimizer(trained.NAME, tree.to_host(record.best), _about(experiment, step, record.best_loss))


def _about(experiment: Experiment, step: int, validation_loss: float) -> dict[str, Any]:
    """What an artefact says of itself."""
    loss = validation_loss if math.isfinite(validation_loss) else None
    return {"config": experiment.config.model_dump(mode="json"), "step": step, "validation_loss": loss}
