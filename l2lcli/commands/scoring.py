"""`l2l score`: a trained optimizer on a suite of problems, one after the other; what was done before is not done again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2lcli import config as configs
from l2lcli import processes, registry, tree
from l2lcli.commands import backend
from l2lcli.commands.progress import Display
from l2lcli.config import Config, ConfigError
from l2lcli.config.specs import LINE_SEARCH
from l2lcli.data.source import DataError
from l2lcli.evaluation import score as scoring
from l2lcli.experiment import Experiment, build
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
        scorer = Scorer(found, suite, display, equal_time)
        for names in _rounds(list(suite.tasks)):
            signals.check()
            read = lambda names=names: {name: found and scores.read_task(folder, name, mark) for name in names}
            done = {name: Done(entry) for name, entry in processes.shared(read).items()}
            if found is not None and equal_time:
                done = {name: of._replace(losses=_losses(folder, name, of)) for name, of in done.items()}
            for stage in (scorer.tuned, scorer.judged, scorer.timed):
                done = _together(done, stage)
                if processes.first():
                    for name, of in done.items():
                        _keep(folder, name, suite, mark, of)
            for name, of in done.items():
                if of.entry is not None:
                    tasks[name] = of.entry
                    say(line(name, of.entry))
    if found is None:
        return None
    if processes.first():
        whole = {"optimizer": label, "suite": suite.digest, **scoring.together(tasks), "tasks": tasks}
        scores.write_score(folder, whole)
        page.write(folder)
    return folder


class Done(NamedTuple):
    """What is known of a task so far."""

    entry: dict[str, Any] | None  # that of score.json
    losses: np.ndarray | None = None  # [S, T+1] of the optimizer, where they are needed
    against: scoring.Reference | None = None
    about: dict[str, Any] | None = None  # what the baselines are about, where they are to be written
    new: bool = False  # whether the entry is to be written, and its losses, if there are any


def _rounds(names: list[str]) -> list[list[str]]:
    """Tasks that are worked on at once, one by each process."""
    several = processes.count()
    return [names[start : start + several] for start in range(0, len(names), several)]


def _together(done: dict[str, Done], stage: Callable[[str, Done], Done]) -> dict[str, Done]:
    """Each process does a stage of its own one of some tasks, by itself; all of them hear of all."""
    names, own = list(done), processes.index()
    with processes.alone():
        mine = stage(names[own], done[names[own]]) if own < len(names) else Done(None)
    return dict(zip(names, processes.gathered(mine), strict=False))


def _losses(folder: Path, name: str, done: Done) -> np.ndarray | None:
    """Those that were kept of an entry that waits for its `equal_time`."""
    waits = done.entry is not None and done.entry["verdict"] != "missing" and "equal_time" not in done.entry
    return processes.shared(lambda: scores.read_losses(folder, name) if waits else None)


def _keep(folder: Path, name: str, suite: Suite, mark: str, done: Done) -> None:
    """Write what is new, so that whoever stops the score goes on from there."""
    if done.against is not None and done.about is not None:
        scores.write_reference(scores.baselines_folder(suite.mark) / f"{name}.npz", done.against, done.about)
    if done.new and done.entry is not None:
        scores.write_task(folder, name, done.entry, done.losses, mark)


class Scorer:
    """The stages of one task, each of which gives what it was given where there is nothing to do."""

    def __init__(self, found: Trained | None, suite: Suite, display: Display, equal_time: bool) -> None:
        """As `score`."""
        self._found, self._suite, self._display, self._equal_time = found, suite, display, equal_time
        self._built: tuple[str, Experiment] | None = None
        self._configs = {name: _scored(name, configs.load(task)) for name, task in suite.tasks.items()}

    def _experiment(self, name: str) -> Experiment:
        if self._built is None or self._built[0] != name:
            self._built = name, build(self._configs[name]).plain
        return self._built[1]

    def tuned(self, name: str, done: Done) -> Done:
        """With the baselines."""
        if done.entry is not None:
            return done
        try:
            experiment = self._experiment(name)
        except DataError as error:
            self._display.warn(f"{name}: {error}")
            return Done({"verdict": "missing", "ratio_final": None, "ratio_final_ci": None, "why": str(error)})
        problem, spec = experiment.problem, experiment.config.eval
        about = {"data": dict(problem.provenance), "config": _deciding(experiment.config)}
        if (held := scores.read_reference(name, self._suite.mark, about)) is not None:
            return Done(None, against=scoring.Reference(**held))
        seeds = spec.seeds, spec.tuning_seeds
        progress: Any = _Task(name, self._display)
        against = scoring.reference(problem, spec.baselines, experiment.root, spec.steps, *seeds, progress)
        return Done(None, against=against, about=about)

    def judged(self, name: str, done: Done) -> Done:
        """With the optimizer's entry."""
        found = self._found
        if done.entry is not None or done.against is None or found is None:
            return done._replace(about=None)
        experiment = self._experiment(name)
        optimizer = registry.optimizer.build(found.optimizer)
        if reason := tree.misfit(found.phi, jax.eval_shape(optimizer.init, experiment.root, experiment.theta())):
            raise RunError(f"{found.artefact}: its parameters do not fit {name}: {reason}")
        self._display.say(f"{name}: running it")
        problem, spec = experiment.problem, experiment.config.eval
        learned = optimizer, jax.tree.map(jnp.asarray, tree.nest(found.phi))
        entry, losses = scoring.task(
            problem, learned, done.against, experiment.root, spec.steps, spec.seeds, self._display
        )  # fmt: skip
        subsets = [label for label in problem.provenance if "[" in label]
        return Done(entry | ({"data": subsets} if subsets else {}), losses, new=True)

    def timed(self, name: str, done: Done) -> Done:
        """With `equal_time`, from the losses and the times that were kept of it."""
        entry, done = done.entry, done._replace(about=None, new=False)
        if not self._equal_time or entry is None or entry["verdict"] == "missing" or "equal_time" in entry:
            return done
        assert done.losses is not None
        experiment = self._experiment(name)
        seeds = experiment.config.eval.tuning_seeds, experiment.config.eval.seeds
        progress: Any = _Task(name, self._display)
        timed = scoring.at_equal_time(experiment.problem, done.losses, entry, experiment.root, seeds, progress)
        return done._replace(entry=entry | {"equal_time": timed}, new=True)


def _scored(name: str, config: Config) -> Config:
    """A task's config. Raises ConfigError where it cannot be one, before any has been worked on."""
    kind, baselines = config.problem.kind, config.eval.baselines
    searches = [each for each in baselines if each in LINE_SEARCH]
    if config.few_shot:
        fault = f"problem.kind: {kind} is few-shot, and scores are of losses: l2l eval judges it"
    elif not baselines:
        fault = "eval.baselines: none, and scores are against the best of them"
    elif searches:
        fault = f"eval.baselines: {searches[0]} has no learning rate, and scores are against those with one"
    else:
        return config
    raise ConfigError([f"{name}: {fault}"])


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
