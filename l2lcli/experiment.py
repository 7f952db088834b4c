"""From a config to a run directory: the one file that knows everybody.

Nothing else decides in which order things are made, written and gone on with; what is computed is decided elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from pydantic import ValidationError

from l2lcli import leaves, registry, report, rundir
from l2lcli.artefact import RunError, read_artefact
from l2lcli.base import Key, LearnedOptimizer, Problem
from l2lcli.config import Config, config_class
from l2lcli.evaluate import Comparison, Curves, compare
from l2lcli.rundir import Run
from l2lcli.unroll import namespace

ROOT = Path("runs")
ARTEFACT = "optimizer.npz"


class Experiment(NamedTuple):
    """The objects of one config.

    Attributes:
      config: what they were built from.
      problem: f, with its data loaded.
      optimizer: the family.
      root: the key that all randomness derives from.
    """

    config: Config
    problem: Problem
    optimizer: LearnedOptimizer
    root: Key

    def theta(self) -> Any:
        """Abstract optimizee parameters: shapes and types alone."""
        return jax.eval_shape(self.problem.init, self.root, self.problem.data["train"])[0]

    def phi(self) -> Any:
        """Fresh optimizer parameters."""
        return self.optimizer.init(namespace(self.root, "phi"), self.theta())

    def label(self) -> str:
        """What results are headed with: the config's name, and the label of a data set that is not whole."""
        partial = [label for label in self.problem.provenance if "[" in label]
        return " ".join([self.config.name, *(f"({label})" for label in partial)])


class Trained(NamedTuple):
    """A trained optimizer as it lies on disk.

    Attributes:
      artefact: the file.
      run: the run directory that it belongs to, if it does.
      phi: its leaves under '/'-joined keys.
      config: the whole config that it was trained under.
    """

    artefact: Path
    run: Run | None
    phi: dict[str, np.ndarray]
    config: Config


def build(config: Config) -> Experiment:
    """Build what a config describes. Raises DataError if its data set cannot be loaded."""
    problem = registry.problem.build(config.problem, config.data.raw_dir)
    return Experiment(config, problem, registry.optimizer.build(config.optimizer), jax.random.key(config.seed))


def resolve(name: str | Path | None = None) -> tuple[Path, Run | None]:
    """An artefact's path and its run directory, if it lies in one.

    Args:
      name: a run directory, an artefact file, or the name of an optimizer shipped in runs/reference/; None is the newest
        finished run below runs/.

    Raises RunError if there is none, or if the run has no trained optimizer yet.
    """
    if name is None:
        name = rundir.newest(ROOT)
    path = Path(name)
    if path.is_file():
        beside = path.parent / "config.yaml"
        return path, rundir.open_run(path.parent) if path.name == ARTEFACT and beside.is_file() else None
    if not path.exists() and path.name == str(name):
        for root in (ROOT, Path(__file__).parent.parent / "runs"):
            if (shipped := root / "reference" / path / ARTEFACT).is_file():
                return shipped, None
    run = rundir.open_run(path)
    if not (run.path / ARTEFACT).is_file():
        raise RunError(f"{run.path}: no trained optimizer in it: {ARTEFACT} is missing")
    return run.path / ARTEFACT, run


def trained(name: str | Path | None = None) -> Trained:
    """Read a trained optimizer; `name` as `resolve` takes it. Raises RunError."""
    artefact, run = resolve(name)
    phi, meta = read_artefact(artefact)
    try:
        config = config_class().model_validate_json(json.dumps(meta.get("config")))  # as JSON: strict, yet a list is a tuple
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RunError(f"{artefact}: its config is none of this l2l's: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return Trained(artefact, run, phi, config)


def load(name: str | Path | None = None) -> optax.GradientTransformationExtraArgs:
    """A trained optimizer as an Optax transformation, to use in any training loop.

        tx = optax.chain(optax.clip_by_global_norm(1.0), l2lcli.load("runs/latest"))

    Its updates are added to the parameters (`optax.apply_updates`); it has no learning rate. `update` accepts the loss as
    value=…, which families that read it need.

    Args:
      name: a run directory, an artefact file, or the name of a shipped optimizer; None is the newest finished run.

    Raises RunError if there is none, or if it is damaged.
    """
    found = trained(name)
    return registry.optimizer.build(found.config.optimizer).bind(leaves.nest(found.phi))


def fitted(experiment: Experiment, found: Trained) -> Any:
    """phi of a trained optimizer for an experiment's family and theta. Raises RunError if it does not fit."""
    key = namespace(experiment.root, "phi")
    like = jax.eval_shape(experiment.optimizer.init, key, experiment.theta())
    if reason := leaves.misfit(found.phi, like):
        raise RunError(f"{found.artefact}: its parameters do not fit this config: {reason}")
    return leaves.nest(found.phi)


def evaluate(experiment: Experiment, phi: Any | None, tell: Callable[[str], None]) -> Comparison:
    """Compare phi, or nothing where it is None, with the config's baselines, under the config's `eval` section."""
    config = experiment.config
    name = config.optimizer.kind
    if name in config.eval.baselines:
        name += "_learned"
    comparison = compare(
        experiment.problem,
        config.name,
        None if phi is None else (name, experiment.optimizer, phi),
        config.eval.baselines,
        experiment.root,
        steps=config.eval.steps,
        seeds=config.eval.seeds,
        tuning_seeds=config.eval.tuning_seeds,
        metrics_every=config.eval.metrics_every,
        tell=tell,
    )
    label = {} if experiment.label() == config.name else {"label": experiment.label()}
    return comparison._replace(summary={**comparison.summary, **label, "variants": {}})


def write_evaluation(run: Run, name: str, comparison: Comparison, folder: str = "") -> None:
    """Write a comparison into a run: `curves/<name>.csv`, `metrics/<name>.csv` and, last, summary.json; then the report.

    Args:
      run: where to.
      name: the problem's.
      comparison: what to write.
      folder: below the run, "eval/digits/", or "" for the run's own evaluation.
    """
    found = comparison.curves
    rows = ((o, s, t, x) for o, c in found.items() for s, losses in enumerate(c.losses) for t, x in enumerate(losses))
    run.write_curves(f"{folder}curves/{name}.csv", ["optimizer", "seed", "step", "loss"], rows)
    if any(curves.metrics for curves in found.values()):
        columns = ["optimizer", "seed", "step", "metric", "value"]
        run.write_curves(f"{folder}metrics/{name}.csv", columns, _metric_rows(found))
    run.write_json(f"{folder}summary.json", comparison.summary)
    report.write(run.path / folder)


def _metric_rows(found: dict[str, Curves]):
    for optimizer, curves in found.items():
        for metric, values in curves.metrics.items():
            for seed, of_seed in enumerate(values):
                for step, value in zip(curves.steps.tolist(), of_seed, strict=True):
                    yield optimizer, seed, step, metric, value


def eval_folder(run: Run, name: str) -> str:
    """A new folder for an evaluation inside a run, "eval/<name>/", or with -2, -3 … where that is taken."""
    number = 1
    while True:
        folder = f"eval/{name}{'' if number == 1 else f'-{number}'}/"
        try:
            (run.path / "eval").mkdir(exist_ok=True)
            (run.path / folder).mkdir()
            return folder
        except FileExistsError:
            number += 1
        except OSError as error:
            raise RunError(f"{run.path / folder}: {error.strerror}") from error
