"""`l2l bench --quality LIST`: how far families get, over what their update costs.

The list names kept results, of scores or of runs, and the config whose optimizer each is of; what an update costs is measured
here, of all of them in turn, on the MNIST network. A point a family, a panel for each kind of problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from l2lcli.base import Spec
from l2lcli.bench.applied import ADAM
from l2lcli.reports import tables
from l2lcli.reports.figures.drawing import INK, LEARNED, NAMED, Figure, literal, log_ticks, save
from l2lcli.runs.files import RunError, read_json, read_yaml
from l2lcli.runs.metrics import append_rows, read_rows

RESAMPLES = 2000


class Entry(Spec):
    """One family."""

    label: str
    """What it is called in the figure, at most once in a panel."""
    panel: str
    """The title of its panel."""
    config: str
    """Whose optimizer is timed: a file, its path beginning at the list's folder."""
    result: str
    """Folder of its result, from there too: a run's, or that of a score."""
    task: str | None = None
    """A problem of the score's suite; null for the geometric mean over all of them."""


class Point(NamedTuple):
    """A family in a panel."""

    entry: Entry
    seconds: float  # of an update alone
    ratio: float  # final loss over the best tuned baseline's
    interval: tuple[float, float] | None


def measure(path: Path, check: Callable[[], None]) -> None:
    """Time an update of every family of the list; a row is added to the file beside it, `<list>.jsonl`.

    {"device", "coordinates", "seconds": {config: per update, "optax.adam": …}}. `check` is called before; what it raises goes
    through. Raises RunError and ConfigError.
    """
    import jax

    from l2lcli import config as configs
    from l2lcli import registry
    from l2lcli.bench.measure import Work, apply_seconds, build

    problem = build(Work("mnist", 1, 1, 1, 1, 20, 1))[0]
    theta = problem.init(jax.random.key(0), problem.data["train"])[0]
    families: dict[str, Any] = {}
    for name in dict.fromkeys(entry.config for entry in read_yaml(path, list[Entry])):
        check()
        family = registry.optimizer.build(configs.load(path.parent / name).optimizer)
        families[name] = family, family.init(jax.random.key(0), theta)
    row = {
        "device": jax.devices()[0].device_kind,
        "coordinates": sum(leaf.size for leaf in jax.tree.leaves(theta)),
        "seconds": apply_seconds(problem, families),
    }
    append_rows(path.with_suffix(".jsonl"), [row])


def points(path: Path) -> tuple[list[Point], dict[str, Any]]:
    """The list's families with their newest times, and the row that these are of. Raises RunError where any is not there."""
    listed, rows, found = read_yaml(path, list[Entry]), read_rows(path.with_suffix(".jsonl")), []
    if not rows:
        raise RunError(f"{path.with_suffix('.jsonl')}: nothing was measured yet")
    for entry in listed:
        if entry.config not in rows[-1].get("seconds", {}):
            raise RunError(f"{path.with_suffix('.jsonl')}: no time of {entry.config}: measure again")
        found.append(Point(entry, rows[-1]["seconds"][entry.config], *_ratio(path.parent / entry.result, entry)))
    return found, rows[-1]


def _ratio(folder: Path, entry: Entry) -> tuple[float, tuple[float, float] | None]:
    """Of a score's problem or a run, as it was judged; of a whole score the mean, its networks resampled."""
    if score := read_json(folder / "score.json"):
        if entry.task is not None:
            task = score["tasks"].get(entry.task)
            if task is None or not task["ratio_final_ci"]:
                raise RunError(f"{folder}: no ratio of {entry.task}")
            return task["ratio_final"], tuple(task["ratio_final_ci"])
        logs = [task["log_ratios"] for task in score["tasks"].values()]
        if not all(logs):
            raise RunError(f"{folder}: not finite on all problems")
        generator = np.random.default_rng(0)
        drawn = [np.mean([np.mean(generator.choice(of, len(of))) for of in logs]) for _ in range(RESAMPLES)]
        whole = float(np.mean([math.log(task["ratio_final"]) for task in score["tasks"].values()]))
        centre = whole - float(np.mean([np.mean(of) for of in logs]))  # ratios of means, and means of ratios
        low, high = (math.exp(centre + end) for end in np.percentile(drawn, [2.5, 97.5]))
        return math.exp(whole), (low, high)
    summary = tables.read_summary(folder)
    if summary is None or (value := summary.ratio("final")).value is None:
        raise RunError(f"{folder}: no result of a run or a score")
    return value.value, value.interval


def table(found: list[Point], row: dict[str, Any]) -> str:
    """As text."""
    lines = [["", "", "update", "final loss / best baseline's"]]
    for point in found:
        ends = f" [{', '.join(tables.number(end, 3) for end in point.interval)}]" if point.interval else ""
        ratio = f"{tables.number(point.ratio, 3)}{ends}"
        lines.append([point.entry.panel, point.entry.label, f"{tables.number(1e3 * point.seconds, 3)} ms", ratio])
    adam = tables.number(1e3 * row["seconds"][ADAM], 2)
    said = f"An update of {row['coordinates']:,} parameters, the gradient left out; Adam's {adam} ms; {row['device']}."
    return "\n".join([*tables.aligned(lines), "", said])


def write(found: list[Point], row: dict[str, Any], folder: Path) -> Path:
    """Draw `quality.png` and `quality.svg` into the folder; the former's path."""
    caption = (
        f"Over the time of an update alone ({row['coordinates']:,} parameters, {row['device']}), the final loss over the best "
        "tuned baseline's, 95 % intervals over networks; below 1 the learned optimizer wins. Vertical: Adam's update."
    )
    save(Figure("quality", "How far a family gets, and what its update costs", caption, lambda: _draw(found, row)), folder)
    return folder / "quality.png"


def _draw(found: list[Point], row: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure as Canvas

    titles = list(dict.fromkeys(point.entry.panel for point in found))
    figure = Canvas(figsize=(5.2 * len(titles), 4.2))
    for ax, title in zip(figure.subplots(1, len(titles), squeeze=False)[0], titles, strict=True):
        own = sorted((point for point in found if point.entry.panel == title), key=lambda point: point.seconds)
        ax.set(xscale="log", title=literal(title), xlabel="an update, ms", ylabel="final loss / best tuned baseline's")
        for place, point in enumerate(own):
            x = 1e3 * point.seconds
            if point.interval:
                ax.plot([x, x], point.interval, color=LEARNED, linewidth=1.2)
            ax.plot(x, point.ratio, "o", color=LEARNED, markersize=4)
            # Turned, and above and below by turns: they may stand close to each other.
            above, ends = place % 2 == 0, point.interval or (point.ratio,)
            turned = {"rotation": 50, "rotation_mode": "anchor", "va": "center", "ha": "left" if above else "right"}
            end, offset = (max(ends), (2, 4)) if above else (min(ends), (-2, -4))
            ax.annotate(literal(point.entry.label), (x, end), offset, textcoords="offset points", fontsize=7, **turned)
        ax.axvline(1e3 * row["seconds"][ADAM], color=NAMED["adam"], linewidth=1)
        ax.axhline(1, color=INK, linewidth=0.8)
        low, high = ax.get_xlim()
        ax.set_xlim(low, 2 * high)  # room for the last label, and the highest
        low_ratio, high_ratio = ax.get_ylim()
        ax.set_ylim(low_ratio - 0.28, high_ratio + 0.2)
        log_ticks(ax.xaxis, low, 2 * high)
    figure.subplots_adjust(wspace=0.28)
    return figure
