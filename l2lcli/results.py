"""An evaluation as files of its run directory."""

from __future__ import annotations

from l2lcli import gate_pictures, pictures, report
from l2lcli.artefact import write_artefact
from l2lcli.evaluate import Curves
from l2lcli.experiment import Evaluation
from l2lcli.rundir import Run


def write(run: Run, evaluation: Evaluation, folder: str = "") -> None:
    """Write into a run: `curves/<name>.csv`, `metrics/<name>.csv`, inspection.npz, summary.json; from these, the report.

    Args:
      run: where to.
      evaluation: what `evaluate` returned.
      folder: below the run, "eval/digits/", or "" for the run's own evaluation.
    """
    columns, found = ["optimizer", "seed", "step"], evaluation.comparisons
    for name, comparison in found.items():
        run.write_curves(f"{folder}curves/{name}.csv", [*columns, "loss"], _loss_rows(comparison.curves))
        if any(curves.metrics for curves in comparison.curves.values()):
            run.write_curves(f"{folder}metrics/{name}.csv", [*columns, "metric", "value"], _metric_rows(comparison.curves))
    if evaluation.gates is not None:
        run.write_curves(f"{folder}{gate_pictures.FILE}", gate_pictures.COLUMNS, evaluation.gates)
    if evaluation.inspection is not None:
        write_artefact(run.path / folder / pictures.FILE, *evaluation.inspection)
    main, *variants = found
    summary = found[main].summary | {"variants": {name: found[name].summary for name in variants}}
    run.write_json(f"{folder}summary.json", summary)
    report.write(run.path / folder)


def _loss_rows(found: dict[str, Curves]):
    for optimizer, curves in found.items():
        for seed, losses in enumerate(curves.losses):
            for step, loss in enumerate(losses):
                yield optimizer, seed, step, loss


def _metric_rows(found: dict[str, Curves]):
    for optimizer, curves in found.items():
        for metric, values in curves.metrics.items():
            for seed, of_seed in enumerate(values):
                for step, value in zip(curves.steps.tolist(), of_seed, strict=True):
                    yield optimizer, seed, step, metric, value
