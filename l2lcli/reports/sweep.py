"""The report of a sweep: how its points stand, which is best by validation, what each axis does, the spread over seeds.

Nothing but the validation losses of meta-training is looked at: what an evaluation found on its own seeds is for judging the
point that was chosen, and never for choosing it. Never touches JAX.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from l2lcli.config.axes import short
from l2lcli.reports import tables
from l2lcli.reports.figures.axis import Dot, along, finite, spread
from l2lcli.reports.figures.drawing import Figure, save
from l2lcli.reports.html import html_figure, html_table, page
from l2lcli.runs import sweeps
from l2lcli.runs.sweeps import Point, Sweep

SEED = "seed"
SCALES = ("problem", "data", "train.horizon", "train.validation_seeds")  # keys that change what a validation loss is of
CHOSEN = """<p class="soft">The best is chosen by the lowest validation loss of meta-training, the sum of an optimizee's losses
on fresh tasks; where seeds vary, by its mean over the seeds of a setting all of whose points are done. What an evaluation found
on other seeds has no say in it, and so still tells how good the chosen one is.</p>"""


class Validated(NamedTuple):
    """The lowest validation loss of a run, of a curriculum on the longest horizon reached, and the episode that it was at."""

    loss: float
    episode: int
    horizon: int = 0  # of a curriculum


class Row(NamedTuple):
    """How a point stands."""

    point: Point
    state: str
    reason: str | None
    found: Validated | None

    @property
    def loss(self) -> float | None:
        """Its validation loss, if it is done and has one."""
        return self.found.loss if self.found and self.state == "done" else None


class Best(NamedTuple):
    """The best point of an experiment.

    Attributes:
      point: its name.
      setting: what it has besides its seed; None where the seed does not vary.
      losses: of the setting's seeds, or the point's own.
    """

    point: str
    setting: str | None
    losses: list[float]


def validation(folder: Path) -> Validated | None:
    """What a run's metrics.jsonl has as its lowest validation loss; None before there is one. Raises RunError."""
    found = [
        Validated(loss, int(row.get("episode", 0)), int(row.get("horizon", 0)))
        for row in tables.read_metrics(folder / "metrics.jsonl")
        if (loss := finite(row.get("validation_loss"))) is not None
    ]
    return min(found, key=lambda each: (-each.horizon, each.loss)) if found else None


def read(sweep: Sweep) -> dict[str, list[Row]]:
    """Experiment -> how its points stand. Raises RunError."""
    rows: dict[str, list[Row]] = {}
    for name, (state, reason) in sweeps.told(sweep).items():
        point = sweep.points[name]
        rows.setdefault(point.experiment, []).append(Row(point, state, reason, validation(sweep.path / name)))
    return rows


def best(rows: list[Row]) -> Best | None:
    """The point of the lowest validation loss, of the setting of the lowest mean where seeds vary; None before there is one.

    Of curricula only those that came as far as any of them: a loss summed over a shorter horizon is another thing.
    """
    found = {row.point.name: row.found for row in rows if row.found and row.loss is not None}
    farthest = max((each.horizon for each in found.values()), default=0)
    done = {name: each.loss for name, each in found.items() if each.horizon == farthest}
    if not done:
        return None
    if SEED not in rows[0].point.values:
        name = min(done, key=lambda name: done[name])
        return Best(name, None, [done[name]])
    whole = {text: own for text, own in settings(rows).items() if all(row.point.name in done for row in own)}
    if not whole:
        return None
    text = min(whole, key=lambda text: float(np.mean([done[row.point.name] for row in whole[text]])))
    name = min((row.point.name for row in whole[text]), key=lambda name: done[name])
    return Best(name, text, [done[row.point.name] for row in whole[text]])


def settings(rows: list[Row]) -> dict[str, list[Row]]:
    """The points that differ in nothing but their seed, by what they have in common."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(_rest(row.point, SEED), []).append(row)
    return found


def _rest(point: Point, *but: str) -> str:
    labels = short(point.values)
    rest = {key: value for key, value in point.values.items() if key not in but}
    return ", ".join(f"{labels[key]} {_word(value)}" for key, value in rest.items())


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def point_rows(rows: list[Row]) -> list[list[str]]:
    """Header and one row a point: those that are done by their losses, then the others."""
    ordered = sorted(rows, key=lambda row: (row.loss is None, row.loss or 0.0))
    return [["point", "validation loss", "at episode", "state"]] + [
        [
            row.point.name,
            "-" if row.found is None else tables.number(row.found.loss),
            "-" if row.found is None else f"{row.found.episode:,}",
            f"{row.state}: {row.reason}" if row.reason else row.state,
        ]
        for row in ordered
    ]


def seed_rows(rows: list[Row]) -> list[list[str]]:
    """Header and one row a setting, the lowest mean first: mean, median and range over its seeds, and how many have no result.

    A setting some of whose seeds failed, or are not done, is not among those that the best is chosen from, and comes last.
    """
    table = []
    for text, own in settings(rows).items():
        losses = [row.loss for row in own if row.loss is not None]
        numbers = [f(losses) for f in (np.mean, np.median, min, max)] if losses else [np.nan] * 4
        mean, median, low, high = ("-" if not losses else tables.number(float(number)) for number in numbers)
        missing = len(own) - len(losses)
        cells = [text or "all", f"{len(losses)} of {len(own)}", mean, median, f"{low} … {high}" if losses else "-"]
        table.append((missing > 0, float(numbers[0]) if losses else np.inf, cells))
    ordered = [cells for *_, cells in sorted(table, key=lambda item: item[:2])]
    return [["setting", "seeds done", "mean", "median", "least … greatest"], *ordered]


def verdict(sweep: Sweep, rows: Mapping[str, list[Row]]) -> str:
    """How many points are done, which have failed, and the best, in words."""
    every = [row for own in rows.values() for row in own]
    counts = {state: sum(row.state == state for row in every) for state in dict.fromkeys(row.state for row in every)}
    said = f"{counts.pop('done', 0)} of {len(every)} points are done"
    said += "".join(f", {count} {state}" for state, count in counts.items()) + "."
    chosen = [(name, best(own)) for name, own in rows.items()] if len(rows) == 1 else []
    return " ".join([said, *(told(found) for _, found in chosen if found)])


def told(found: Best) -> str:
    """The best, in a sentence."""
    lowest = tables.number(min(found.losses))
    if found.setting is None:
        return f"Best by validation: {found.point}, {lowest}."
    mean = tables.number(float(np.mean(found.losses)))
    over = f"{mean} on average over {len(found.losses)} seed{'s' * (len(found.losses) != 1)}"
    if not found.setting:
        return f"Validation loss {over}; the lowest is {found.point}'s, {lowest}."
    return f"Best setting by validation: {found.setting}, {over}; of these the lowest is {found.point}'s, {lowest}."


def figures(sweep: Sweep, experiment: str, rows: list[Row]) -> list[Figure]:
    """One for each axis that has more than one value."""
    axes = sweep.record["axes"].get(experiment, {})
    keys = [key for key in rows[0].point.values if len({json.dumps(row.point.values[key]) for row in rows}) > 1]
    labels, found, drawn = short(rows[0].point.values), best(rows), []
    prefix = f"{experiment}-" if len(sweep.record["axes"]) > 1 else ""
    for key in keys:
        title = f"{experiment}: {key}"
        if key == SEED:
            losses = {text or "all": [r.loss for r in own if r.loss is not None] for text, own in settings(rows).items()}
            marked = None if found is None else found.setting or "all"
            drawn.append(spread(f"{prefix}{SEED}", f"{experiment}: the spread over seeds", losses, marked))
            continue
        of = found.point if found else None
        dots = [
            Dot(
                row.point.values[key],
                _rest(row.point, SEED, key),
                math.nan if row.loss is None else row.loss,
                row.point.name == of,
            )
            for row in rows
            if row.loss is not None or row.state in ("failed", "diverged")
        ]
        drawn.append(along(f"{prefix}{labels[key]}", title, key, dots, "range" in axes.get(key, {})))
    return [figure for figure in drawn if figure]


def _scales(rows: list[Row]) -> str:
    """Says of which axes the losses cannot be compared along."""
    keys = [key for key in rows[0].point.values if any(key == scale or key.startswith(f"{scale}.") for scale in SCALES)]
    return f"Points that differ in {', '.join(keys)} are validated on losses of different scale." if keys else ""


def text(sweep: Sweep) -> str:
    """The report for the terminal. Raises RunError."""
    found = read(sweep)
    return "\n".join([*_lines(sweep, found), f"\n{verdict(sweep, found)}", *_use(sweep, found)])


def _lines(sweep: Sweep, found: Mapping[str, list[Row]]) -> Iterator[str]:
    for name, rows in found.items():
        chosen = best(rows)
        yield f"\n{name}\n" if len(found) > 1 else ""
        yield from tables.aligned(point_rows(rows), chosen.point if chosen else None)
        if SEED in rows[0].point.values and len(rows) > 1:
            yield ""
            yield from tables.aligned(seed_rows(rows), chosen.setting or "all" if chosen else None)
        yield from filter(None, [_scales(rows)])


def _use(sweep: Sweep, found: Mapping[str, list[Row]]) -> list[str]:
    chosen = [best(rows) for rows in found.values()] if len(found) == 1 else []
    named = [shlex.quote(str(sweep.path / each.point)) for each in chosen if each]
    return [f"Use it: l2l eval {name}" for name in named]


def write(folder: Path, drawn: bool = True) -> Path:
    """Write a sweep's `report.html`, and `figures/` if these are `drawn`; the page's path. Raises RunError."""
    sweep = sweeps.read(folder)
    found = read(sweep)
    title = f"Sweep {'/'.join(sweep.path.absolute().parts[-2:])}"
    body = [f'<h1>{escape(title)}</h1><p class="verdict">{escape(verdict(sweep, found))}</p>']
    for name, rows in found.items():
        chosen = best(rows)
        body += [f"<h2>{escape(name)}</h2>", html_table(point_rows(rows), chosen.point if chosen else None)]
        if (note := _scales(rows)) != "":
            body.append(f"<p>{escape(note)}</p>")
        shown = {
            figure.name: html_figure(figure, save(figure, sweep.path / "figures"))
            for figure in (figures(sweep, name, rows) if drawn else ())
        }
        seeds = "".join(shown.pop(each) for each in [*shown] if each.endswith(SEED))
        body += shown.values()
        if SEED in rows[0].point.values and len(rows) > 1:
            body += ["<h2>Seeds</h2>", html_table(seed_rows(rows), chosen.setting or "all" if chosen else None), seeds]
    program, *arguments = map(str, sweep.record.get("command") or ["l2l"])
    command = shlex.join([Path(program).name, *arguments])
    body += [CHOSEN, f"<h2>Command</h2><pre>{escape(command)}</pre>"]
    return page(sweep.path / "report.html", title, body)
