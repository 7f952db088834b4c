"""One HTML page on several runs: ratios, the generalisation matrix, the spread over meta-training seeds, learned curves."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from html import escape
from pathlib import Path

import numpy as np

from l2lcli import config as configs
from l2lcli.config import ConfigError
from l2lcli.config.yaml_read import parse, unplaced
from l2lcli.evaluation.summary import Entry, Metric, Part, Summary
from l2lcli.reports import curves, few_shot, tables
from l2lcli.reports.figures.drawing import save
from l2lcli.reports.figures.heatmap import Cell, cell, heatmap
from l2lcli.reports.figures.losses import SAME, loss_figure
from l2lcli.reports.html import html_figure, html_table, page
from l2lcli.runs.files import RunError, read_text

OWN = "as trained"  # the row of the problem that a run was meta-trained on
TITLES: dict[Metric, str] = {"final": "final loss", "sum": "summed loss"}
SPREAD = """<p class="soft">Runs of one configuration that differ in nothing but the seed: mean of their ratios [least …
greatest]. A seed decides the meta-training, and also which networks the result is reported on.</p>"""

Evaluated = dict[str, tuple[Path, Summary]]  # name on the page -> folder, summary


def write(folders: list[Path], out: Path) -> Path:
    """Write the page, and its figures once more as SVG and PNG files in a folder beside it, `out` without its suffix.

    Raises RunError.
    """
    paths = [Path(folder).absolute() for folder in folders]
    base = os.path.commonpath([path.parent for path in paths])
    found = {path.relative_to(base).as_posix(): (path, tables.read_summary(path)) for path in paths}
    runs: Evaluated = {name: (path, summary) for name, (path, summary) in found.items() if summary}
    if not runs:
        raise RunError("nothing to compare: none of these runs has been evaluated (no summary.json)")
    few = {name: summary for name, (_, summary) in runs.items() if summary.few_shot}
    beside = Path(out).with_suffix("")
    body = ["<h1>Runs compared</h1>", *_few_shot(few, beside)]
    runs = {name: run for name, run in runs.items() if name not in few}
    if runs:
        body.append(html_table(tables.ratio_rows({name: summary for name, (_, summary) in runs.items()}, "run")))
    body += [f"<p>{escape(name)} has not been evaluated.</p>" for name in found if not found[name][1]]
    spread = spread_rows(runs)
    body += ["<h2>Meta-training seeds</h2>", html_table(spread), SPREAD] if len(spread) > 1 else []
    matrices = list(_matrices(runs, beside))
    body += ["<h2>Generalisation</h2>", *matrices] if matrices else []
    curves = list(_learned_curves(runs, beside))
    body += ["<h2>Learned optimizers</h2>", *curves] if curves else []
    return page(Path(out), "Runs compared", body)


def _file(*parts: str) -> str:
    """A file's name from titles, which may hold anything."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", "_".join(parts)).strip("_.")


def _few_shot(summaries: dict[str, Summary], beside: Path) -> Iterator[str]:
    """For each set of test episodes, what the runs learned beside the baselines, as a table and a figure."""
    for title, found in few_shot.merged(summaries).items():
        episodes = next(iter(found.values())).episodes
        yield f"<h2>Few-shot: {escape(title)}</h2>"
        yield html_table(few_shot.rows(found)) + few_shot.NOTES.format(episodes=episodes)
        figure = few_shot.figure(_file("few_shot", title), title, found, None)
        yield html_figure(figure, save(figure, beside))


def _rows(summary: Summary) -> dict[str, Part]:
    return {OWN: summary, **(summary.variants or {})}


def _matrices(runs: Evaluated, beside: Path) -> Iterator[str]:
    """For each metric the variants by runs, as a table and as a heat map; nothing where no run has variants."""
    rows = list(dict.fromkeys(row for _, summary in runs.values() for row in _rows(summary)))
    if len(rows) < 2:
        return
    for metric, title in TITLES.items():
        cells: dict[tuple[str, str], Cell] = {}
        table = [["variant", *runs]]
        for row in rows:
            parts = {name: _rows(summary).get(row) for name, (_, summary) in runs.items()}
            table.append([row, *(tables.ratio(part, metric) if part else "-" for part in parts.values())])
            found = {name: cell(part, metric) for name, part in parts.items() if part}
            cells |= {(row, name): known for name, known in found.items() if known is not None}
        caption = f"Every run's learned optimizer on the problem it was meta-trained on ({OWN}) and on the variants, {title}."
        yield html_table(table)
        figure = heatmap(f"generalisation_{metric}", f"Generalisation, {title}", caption, rows, list(runs), cells)
        yield html_figure(figure, save(figure, beside))


def spread_rows(runs: Evaluated) -> list[list[str]]:
    """Header and a row for each problem and variant that runs of one configuration but different seeds were evaluated on."""
    table = [["experiment", "on", "seeds", *(f"{title}: learned / best" for title in TITLES.values())]]
    alike: dict[str, dict[int, Summary]] = {}
    for path, summary in runs.values():
        with suppress(ConfigError):  # a damaged one: its ratios are shown, though not among other seeds'
            meaning, seed = _meaning(path / "config.yaml")
            alike.setdefault(meaning, {})[seed] = summary
    for summaries in alike.values():
        if len(summaries) < 2:
            continue
        first = next(iter(summaries.values()))
        for row in _rows(first):
            parts = [part for part in (_rows(summary).get(row) for summary in summaries.values()) if part]
            shown = [_spread([part.ratio(metric).value for part in parts]) for metric in TITLES]
            table.append([first.problem, row, ", ".join(map(str, sorted(summaries))), *shown])
    return table


def _meaning(path: Path) -> tuple[str, int]:
    """What a run's config comes to but for its seed, as text, and that seed. Raises ConfigError."""
    listed, _ = parse((read_text(path) or "").encode(), str(path))
    written = unplaced(listed) if listed else None
    if isinstance(written, dict) and written.get("imports"):  # nothing is imported for a report
        train, seed = written.get("train") or {}, written.get("seed") or 0
        if not (isinstance(train, dict) and isinstance(seed, int)):
            raise ConfigError([f"{path}: damaged"])
        own = {"seed": 0, "data": None, "train": {**train, "init_from": bool(train.get("init_from"))}}
        return json.dumps({**written, **own}, sort_keys=True), seed
    config = configs.load(path)
    # One that continues a run continues that of its own seed.
    own = {"data.raw_dir": None} | ({"train.init_from": "its own"} if config.train.init_from else {})
    return configs.dump(configs.override(config, {"seed": 0, **own})), config.seed


def _spread(ratios: list[float | None]) -> str:
    """`mean [least … greatest]`; a run whose optimizer diverged leaves no mean."""
    known = [ratio for ratio in ratios if ratio is not None and np.isfinite(ratio)]
    if len(known) < len(ratios):
        return f"lost in {len(ratios) - len(known)} of {len(ratios)}"
    return f"{tables.number(float(np.mean(known)), 3)} [{tables.number(min(known), 3)} … {tables.number(max(known), 3)}]"


def _networks(losses: np.ndarray) -> tuple[str, ...]:
    """What tells the networks of [S, T+1] losses from others: their first losses, to the four digits that a reference keeps."""
    return tuple(f"{loss:.4g}" for loss in losses[:, 0])


def _learned_curves(runs: Evaluated, beside: Path) -> Iterator[str]:
    """The learned optimizers of runs on the same problem or variant over each other, whatever its name, and the best baseline.

    Runs of other seeds are on other networks of that problem; no baseline is drawn beside those.
    """
    alike: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    rivals: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    titles: dict[tuple[int, tuple[str, ...]], str] = {}
    parts = [(run, row, part) for run, (_, summary) in runs.items() for row, part in _rows(summary).items()]
    for run, row, part in sorted(parts, key=lambda of: of[1] != OWN):  # a run's own problem gives its name to a variant like it
        path, summary = runs[run]
        found = curves.of(path, summary.problem if row == OWN else row)
        learned = found.get(part.learned or "")
        if learned is not None:
            own = summary.title if row == OWN else f"{summary.title}, {row}"
            title = titles.setdefault((part.steps, _networks(learned)), own)
            alike.setdefault((title, part.steps), {}).setdefault(run, learned)
            best = part.best("final")
            if best is not None and best in found:
                rivals.setdefault((title, part.steps), {best: found[best]})
    for (label, steps), group in alike.items():
        if len(group) > 1:
            seeds = max(map(len, group.values()))
            apart = len({_networks(losses) for losses in group.values()}) > 1
            drawn = ({} if apart else rivals.get((label, steps), {})) | group
            together = Part(problem=label, steps=steps, seeds=seeds, optimizers={name: Entry() for name in drawn})
            figure = loss_figure(_file("compare", label, str(steps)), f"{label}, the learned optimizers", together, drawn)
            if figure and apart:
                figure = figure._replace(caption=figure.caption.replace(SAME, "others for every run"))
            if figure:
                yield html_figure(figure, save(figure, beside))
