"""What an evaluation found, as files of a run directory."""

from __future__ import annotations

from collections.abc import Callable

from l2lcli.commands import backend
from l2lcli.commands.compare import Evaluation
from l2lcli.evaluation.curves import Curves
from l2lcli.experiment import Experiment
from l2lcli.reports import page
from l2lcli.reports.figures import gates, pictures, updates
from l2lcli.runs.artefact import packed, write_artefact
from l2lcli.runs.files import read_json
from l2lcli.runs.rundir import Run


def write(run: Run, evaluation: Evaluation, drawn: bool, folder: str = "") -> None:
    """Write into a run: `curves/<name>.csv`, `metrics/<name>.csv`, `pictures/<name>.npz`, inspection.npz, summary.json; from
    these, the report.

    Args:
      run: where to.
      evaluation: what `evaluate` returned.
      drawn: whether figures and report are made.
      folder: below the run, "eval/digits/", or "" for the run's own evaluation.
    """
    columns, found = ["optimizer", "seed", "step"], evaluation.comparisons
    for name, comparison in found.items():
        draws = sorted({draw for curves in comparison.curves.values() for draw in curves.draws})
        run.write_curves(f"{folder}curves/{name}.csv", [*columns, "loss", *draws], _loss_rows(comparison.curves, draws))
        if any(curves.metrics for curves in comparison.curves.values()):
            run.write_curves(f"{folder}metrics/{name}.csv", [*columns, "metric", "value"], _metric_rows(comparison.curves))
        if comparison.pictures is not None:
            run.write_bytes(folder + pictures.place(name), packed(*comparison.pictures))
    if evaluation.gates is not None:
        run.write_curves(f"{folder}{gates.FILE}", gates.COLUMNS, evaluation.gates)
    if evaluation.inspection is not None:
        write_artefact(run.path / folder / updates.FILE, *evaluation.inspection)
    main, *variants = found
    parts = {name: found[name].summary.dump() for name in variants}
    run.write_json(f"{folder}summary.json", {**found[main].summary.dump(), "variants": parts})
    if drawn:
        page.write(run.path / folder)


def _loss_rows(found: dict[str, Curves], draws: list[str]):
    for optimizer, curves in found.items():
        for seed, losses in enumerate(curves.losses):
            drawn = [curves.draws[name][seed].item() for name in draws]
            for step, loss in enumerate(losses):
                yield optimizer, seed, step, loss, *drawn


def _metric_rows(found: dict[str, Curves]):
    for optimizer, curves in found.items():
        for metric, values in curves.metrics.items():
            for seed, of_seed in enumerate(values):
                for step, value in zip(curves.steps.tolist(), of_seed, strict=True):
                    yield optimizer, seed, step, metric, value


def record_environment(
    run: Run, experiment: Experiment, devices: int, argv: list[str], warn: Callable[[str], None], folder: str = ""
) -> None:
    """Write env.json. Where the run has one, it stays, and `warn` hears of what has changed since and may change bits."""
    now = {**backend.environment(argv, dict(experiment.problem.provenance)), "devices_used": devices}
    then = read_json(run.path / folder / "env.json")
    if then is None or "versions" not in then:  # at its creation, a run knows no more than its command and its imports
        return run.write_json(f"{folder}env.json", {**(then or {}), **now})
    for key in ("versions", "platform", "backend", "lstm_step", "devices_used", "datasets"):
        if then.get(key) != now[key]:
            warn(f"warning: {key} was {then.get(key)} when this run began and is {now[key]} now: bits may differ")
