"""`l2l eval`: one comparison, written beside what was trained and never over it."""

from __future__ import annotations

import os
from pathlib import Path

from l2lcli import plugins, processes
from l2lcli.commands import backend, results
from l2lcli.commands.begin import copied
from l2lcli.commands.compare import evaluate_experiment
from l2lcli.commands.progress import Display
from l2lcli.config import Config, dump
from l2lcli.experiment import build, checked
from l2lcli.runs import rundir
from l2lcli.runs.files import faults
from l2lcli.runs.rundir import Run
from l2lcli.runs.trained import EVALUATIONS, Trained
from l2lcli.signals import Signals


def evaluate(config: Config, found: Trained | None, argv: list[str], signals: Signals) -> Path:
    """Compare a trained optimizer with the baselines on a config's problem.

    Args:
      config: the problem, and how to evaluate.
      found: the optimizer; None compares the baselines alone.
      argv: the command line, for env.json.
      signals: looked at between the parts.

    Returns:
      The new folder: `eval/<name>/` inside the optimizer's run, or, where it has none, one in runs/evaluations/. The first of
      several processes has made it.

    Raises DataError, RunError, Stopped; nothing is written before the comparison is done.
    """
    with Display(0, signals) as display:
        backend.start(warn=display.warn)
        experiment = build(config)
        checked(experiment, display.warn)
        phi = None if found is None else experiment.fitted(found.phi, found.artefact)
        run = None if found is None else found.run
        kept = {} if run is None else experiment.kept(run.path)
        evaluation = evaluate_experiment(experiment, phi, display, kept)
        if not processes.first():
            return Path()
        if run is None:
            config, copies, _ = copied(config)
            own = rundir.create(EVALUATIONS, config.name, dump(config), beside=copies)
            with own:
                results.record_environment(own, experiment, 1, argv, display.warn)
                results.write(own, evaluation, config.eval.report)
                own.status("done")
            return own.path
        folder = _new_folder(run, config.name)
        here = [os.path.relpath(name, run.path / folder) if plugins.is_file(name) else name for name in config.imports]
        run.write_text(f"{folder}config.yaml", dump(config.model_copy(update={"imports": here})))
        results.record_environment(run, experiment, 1, argv, display.warn, folder)
        results.write(run, evaluation, config.eval.report, folder)
        return run.path / folder


def _new_folder(run: Run, name: str) -> str:
    """Makes "eval/<name>/" in the run, or with -2, -3 … where that is taken. Raises RunError."""
    number = 1
    with faults(run.path / "eval"):
        (run.path / "eval").mkdir(exist_ok=True)
        while True:
            folder = f"eval/{name}/" if number == 1 else f"eval/{name}-{number}/"
            try:
                (run.path / folder).mkdir()
                return folder
            except FileExistsError:
                number += 1
