"""Figures and the HTML report from a run directory's files alone; JAX is never imported."""

from __future__ import annotations

import json
import shlex
from html import escape
from pathlib import Path

from l2lcli.evaluation.summary import METRICS, Summary
from l2lcli.reports import curves, few_shot, tables
from l2lcli.reports.figures import pictures, updates
from l2lcli.reports.figures.architectures import architecture_figure
from l2lcli.reports.figures.drawing import Figure, save
from l2lcli.reports.figures.gates import gate_figure
from l2lcli.reports.figures.heatmap import cell, heatmap
from l2lcli.reports.figures.losses import loss_figure, training_figure
from l2lcli.reports.html import html_figure, html_table, page
from l2lcli.runs.files import RunError, read_json, read_text

NOTES = """<p class="soft">Loss at step {steps} (mean of the last 5 steps where minibatches are drawn), and summed over
steps 0 to {last}; mean over {seeds} seeds [95 % interval]. Rate: the tuned learning rate, for the final / for the summed loss.
To best: first step at which the mean is at or below the best baseline's final loss. Lost: a seed diverged, so there is no mean.
ms/step: one optimizee alone, compiled, median. Equal time: final loss after as many steps as fit into the learned optimizer's
time, at a rate tuned for that many.</p>"""
TUNING = """<p>Each baseline's learning rate was chosen on a grid, anew for each problem and variant, once for the final and
once for the summed loss; where the best value lay at the grid's edge, the grid was extended. Tuning used seeds of its own:
every number here is from other seeds, on which all optimizers started from the same parameters and saw the same minibatches
(paired comparison; the ratios' intervals are paired bootstrap).</p>"""


def _planned(folder: Path, summary: Summary | None) -> list[Figure]:
    """Every figure that the folder has the data for; a variant's name has a hyphen in it, no other has."""
    drawn = [training_figure(tables.read_metrics(folder / "metrics.jsonl"))]
    label = summary.title if summary else "Run"
    variants = (summary and summary.variants) or {}
    if summary and summary.few_shot:
        parts = {f"few_shot-{name}": (f"{label}, variant {name}", part) for name, part in variants.items()}
        for name, (title, part) in {"few_shot": (label, summary), **parts}.items():
            drawn.append(few_shot.figure(name, title, part.few_shot or {}, summary.learned))
    elif summary:
        own = curves.of(folder, summary.problem)
        names = {"loss_steps": False, "loss_seconds": True}
        drawn += [loss_figure(name, label, summary, own, seconds) for name, seconds in names.items()]
        drawn.append(pictures.figure(folder, "pictures", label, summary))
        for name, part in variants.items():
            drawn.append(pictures.figure(folder, f"pictures-{name}", f"{label}, variant {name}", part, name))
            drawn.append(loss_figure(f"loss_steps-{name}", f"{label}, variant {name}", part, curves.of(folder, name)))
        drawn += [_generalisation(label, summary), architecture_figure(label, summary), *updates.planned(folder, label)]
    drawn.append(gate_figure(folder, label))
    return [figure for figure in drawn if figure]


def _generalisation(label: str, summary: Summary) -> Figure | None:
    """The matrix of ratios on the variants, the experiment itself first; None without variants."""
    columns, rows = dict(zip(METRICS, ("final loss", "summed loss"), strict=True)), summary.parts
    cells = {(row, columns[m]): cell(part, m) for row, part in rows.items() for m in columns}
    known = {place: found for place, found in cells.items() if found is not None}
    if len(rows) < 2 or not known:
        return None
    title = f"{label}: the same optimizer elsewhere"
    caption = f"{summary.learned}, meta-trained on {summary.problem}, on that and on the config's variants of it."
    return heatmap("generalisation", title, caption, list(rows), list(columns.values()), known)


def redraw(folder: Path) -> list[Path]:
    """Draw the folder's PNG figures again, and those of `figures` that are not there; their paths.

    Raises RunError where the data of one that is there are missing.
    """
    folder = Path(folder)
    there = {path.stem for path in (folder / "figures").glob("*.png")}
    planned = {figure.name: figure for figure in _planned(folder, tables.read_summary(folder))}
    if lacking := sorted(there - set(planned)):
        raise RunError(f"{folder}: no data to draw {', '.join(lacking)} from")
    wanted = sorted(there | {name for name in planned if _whole(name)})
    for name in wanted:
        save(planned[name], folder / "figures", kinds=("png",))
    return [folder / "figures" / f"{name}.png" for name in wanted]


def _whole(name: str) -> bool:
    """Whether a figure is of the whole result, and not of one variant."""
    return "-" not in name


def figures(folder: Path) -> list[Path]:
    """Draw what the folder has the data for, but the curves of single variants, as PNG alone into `figures/`; their paths."""
    folder = Path(folder)
    planned = [figure for figure in _planned(folder, tables.read_summary(folder)) if _whole(figure.name)]
    for figure in planned:
        save(figure, folder / "figures", kinds=("png",))
    return [folder / "figures" / f"{figure.name}.png" for figure in planned]


def write(folder: Path) -> Path:
    """Write the folder's `report.html`, one static file that needs no other, and `figures/`. Raises RunError."""
    folder = Path(folder)
    summary = tables.read_summary(folder)
    env, status = (read_json(folder / f"{name}.json") or {} for name in ("env", "status"))
    config = read_text(folder / "config.yaml") or ""
    planned = _planned(folder, summary)
    if summary is None and not planned and not config:
        raise RunError(f"{folder}: nothing to report on: no summary.json, metrics.jsonl or config.yaml")
    shown = {figure.name: html_figure(figure, save(figure, folder / "figures")) for figure in planned}
    sections = {"Meta-training": shown.pop("meta_training", "")}
    title = f"{summary.title if summary else 'Run'}, {'/'.join(folder.absolute().parts[-2:])}"
    unknown = "This run has not been evaluated: nothing can be said yet against the baselines."
    times = [tables.clock(summary), tables.at_equal_time(summary)] if summary else []
    said = " ".join([tables.verdict(summary), *(f"{time}." for time in times if time)]) if summary else unknown
    few = bool(summary and summary.few_shot)
    said = few_shot.verdict(summary) if summary and few else said
    body = [f'<h1>{escape(title)}</h1><p class="verdict">{escape(said)}</p>']
    if not summary and status.get("state", "done") != "done":
        told = ", ".join(f"{key} {status[key]}" for key in ("state", "step", "reason") if status.get(key) is not None)
        body.append(f"<p>This run is not complete: {escape(told)}.</p>")
    gates = shown.pop("gates", "")
    if summary and few:
        results = html_table(few_shot.rows(summary.few_shot or {}), summary.learned)
        results += few_shot.NOTES.format(episodes=summary.seeds)
        variants = html_table(few_shot.variant_rows(summary.parts)) if summary.variants else ""
        variants += "".join(html for name, html in shown.items() if "-" in name)
        results += shown["few_shot"]
        sections = {"Results": results, "Generalisation": variants, "Gates": gates, **sections}
    elif summary:
        results = html_table(tables.optimizer_rows(summary), summary.learned)
        results += NOTES.format(last=summary.steps - 1, steps=summary.steps, seeds=summary.seeds)
        variants = html_table(tables.ratio_rows(summary.parts, "variant")) if summary.variants else ""
        variants += "".join(shown.pop(name, "") for name in ("generalisation", "architectures"))
        variants += "".join(html for name, html in shown.items() if "-" in name)
        rule = "".join(shown.pop(name, "") for name in ("updates", "step_sizes", "response", "states"))
        images = shown.pop("pictures", "")
        loss = "".join(html for name, html in shown.items() if "-" not in name)
        sections = {
            "Results": results,
            "Pictures": images,
            "Loss": loss,
            "Generalisation": variants,
            "Update rule": rule + gates,
            "How the baselines were tuned": TUNING,
            **sections,
        }
    if isinstance(argv := env.get("argv"), list) and argv:
        program, *arguments = map(str, argv)
        sections["Command"] = f"<pre>{escape(shlex.join([Path(program).name, *arguments]))}</pre>"
    if config:
        sections["Configuration"] = f"<p>Complete, defaults included.</p><pre>{escape(config)}</pre>"
    facts = [[k, v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)] for k, v in env.items()]
    sections["Environment"] = html_table([["what", "value"], *facts], kind="wrap") if facts else ""
    body += [f"<h2>{name}</h2>{html}" for name, html in sections.items() if html]
    return page(folder / "report.html", title, body)
