"""`l2l score`: a trained optimizer on a suite of problems, one after the other; what was done before is not done again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from l2lcli import config as configs
from l2lcli import registry, tree
from l2lcli.commands import backend
from l2lcli.commands.progress import Display
from l2lcli.config import Config
from l2lcli.data.source import DataError
from l2lcli.evaluation import score as scoring
from l2lcli.experiment import build
from l2lcli.reports import score as page
from l2lcli.runs import scores
from l2lcli.runs.files import RunError
from l2lcli.runs.scores import SCORES, Suite
from l2lcli.runs.trained import Trained
from l2lcli.signals import Signals


def score(
    found: Trained | None, label: str, suite: Suite, say: Callable[[str], None], signals: Signals, equal_time: bool = False
) -> Path | None:
    """Score an optimizer, or tune the suite's baselines alone.

    Args:
      found: the optimizer; None for the baselines alone.
      label: what it is called, and its folder.
      suite: the problems.
      say: told a line for each task.
      signals: looked at between the parts.
      equal_time: whether baselines are also given the optimizer's time.

    Returns:
      The folder with score.json; None for the baselines alone.

    Raises RunError, ConfigError, Stopped. A score that was stopped is gone on with by the same command.
    """
    folder = SCORES / f"{label}-{suite.mark}"
    mark = "" if found is None else found.mark
    tasks: dict[str, dict[str, Any]] = {}
    with Display(0, signals) as display:
        backend.start(warn=display.warn)
        for name, file in suite.tasks.items():
            signals.check()
            entry = None if found is None else scores.read_task(folder, name, mark)
            if entry is None:
                entry = _task(found, folder, name, configs.load(file), suite, mark, display)
            if equal_time and entry is not None and entry["verdict"] != "missing" and "equal_time" not in entry:
                entry = _timed(folder, name, configs.load(file), entry, mark, display)
            if entry is not None:
                tasks[name] = entry
                say(line(name, entry))
    if found is None:
        return None
    whole = {"optimizer": label, "suite": suite.digest, **scoring.together(tasks), "tasks": tasks}
    scores.write_score(folder, whole)
    page.write(folder)
    return folder


def _task(
    found: Trained | None, folder: Path, name: str, config: Config, suite: Suite, mark: str, display: Display
) -> dict[str, Any] | None:
    try:
        experiment = build(config)
    except DataError as error:
        display.warn(f"{name}: {error}")
        return {"verdict": "missing", "ratio_final": None, "ratio_final_ci": None, "why": str(error)}
    problem, root, spec = experiment.problem, experiment.root, config.eval
    progress: Any = _Task(name, display)
    about = {"data": dict(problem.provenance), "config": _deciding(config)}
    held = scores.read_reference(name, suite.mark, about)
    if held is None:
        against = scoring.reference(
            problem,
            spec.baselines,
            root,
            spec.steps,
            spec.seeds,
            spec.tuning_seeds,
            progress,
        )
        scores.write_reference(scores.baselines_folder(suite.mark) / f"{name}.npz", against, about)
    else:
        against = scoring.Reference(**held)
    if found is None:
        return None
    optimizer = registry.optimizer.build(found.optimizer)
    if reason := tree.misfit(found.phi, jax.eval_shape(optimizer.init, root, experiment.theta())):
        raise RunError(f"{found.artefact}: its parameters do not fit {name}: {reason}")
    phi = jax.tree.map(jnp.asarray, tree.nest(found.phi))
    display.say(f"{name}: running it")
    entry, losses = scoring.task(problem, (optimizer, phi), against, root, spec.steps, spec.seeds, display)
    subsets = [label for label in problem.provenance if "[" in label]
    entry |= {"data": subsets} if subsets else {}
    scores.write_task(folder, name, entry, losses, mark)
    return entry


def _timed(folder: Path, name: str, config: Config, entry: dict[str, Any], mark: str, display: Display) -> dict[str, Any]:
    """A task's entry with `equal_time`, from the curves and the times that were kept of it."""
    experiment, spec = build(config), config.eval
    losses, seeds = scores.read_losses(folder, name), (spec.tuning_seeds, spec.seeds)
    progress: Any = _Task(name, display)
    entry |= {"equal_time": scoring.at_equal_time(experiment.problem, losses, entry, experiment.root, seeds, progress)}
    scores.write_task(folder, name, entry, None, mark)
    return entry


def _deciding(config: Config) -> dict[str, Any]:
    """What of a task's config decides how its baselines do at equal steps."""
    return config.model_dump(mode="json", include={"problem", "eval", "seed"}, exclude={"eval": {"equal_time"}})


class _Task:
    """What is said of a task is said with its name."""

    def __init__(self, name: str, display: Display) -> None:
        self._name, self._display = name, display

    def say(self, text: str) -> None:
        self._display.say(f"{self._name}: {text}")

    def check(self) -> None:
        self._display.check()


def line(name: str, entry: dict[str, Any]) -> str:
    """A task's result in one line."""
    if entry["verdict"] == "missing":
        return f"{name:<26} missing    {entry['why']}"
    interval = entry["ratio_final_ci"]
    if interval is None:
        return f"{name:<26} {entry['verdict']:<10} diverged on {entry['diverged']} seeds"
    low, high = interval
    said = f"{name:<26} {entry['verdict']:<10} {entry['ratio_final']:.3f} [{low:.3f}, {high:.3f}] against {entry['baseline']}"
    if (timed := entry.get("equal_time")) and timed["ratio_ci"]:
        low, high = timed["ratio_ci"]
        said += f"; at equal time {timed['verdict']} {timed['ratio']:.3f} [{low:.3f}, {high:.3f}] against {timed['best']}"
        said += f" after {timed['steps'][timed['best']]:,} steps"
    return said
