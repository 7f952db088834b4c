"""`l2l eval`: one comparison, written beside what was trained and never over it."""

from __future__ import annotations

from pathlib import Path

from l2lcli import experiment
from l2lcli.commands import backend, results
from l2lcli.commands.progress import Progress
from l2lcli.config import Config, dump
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
      The new folder: `eval/<name>/` inside the optimizer's run, or, where it has none, one in runs/evaluations/.

    Raises DataError, RunError, Stopped; nothing is written before the comparison is done.
    """
    backend.start()
    built = experiment.build(config)
    phi = None if found is None else built.fitted(found)
    with Progress(0) as progress:
        in_run = found is not None and found.run is not None
        kept = built.kept(found.run.path) if in_run else {}
        evaluation = experiment.evaluate(built, phi, progress.say, signals.check, kept)
        if in_run:
            run, folder = found.run, _new_folder(found.run, config.name)
            run.write_text(f"{folder}config.yaml", dump(config))
        else:
            run, folder = rundir.create(EVALUATIONS, config.name, dump(config)), ""
        with run:
            results.record_environment(run, built, 1, argv, progress.warn, folder)
            results.write(run, evaluation, config.eval.report, folder)
            if not folder:
                run.status("done")
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
