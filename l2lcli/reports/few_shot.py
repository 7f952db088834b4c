"""Few-shot results as tables, words and a figure, from a summary's `few_shot` alone. Loads no JAX."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np

from l2lcli.evaluation.summary import HIGHER, FewShot, Part, Summary
from l2lcli.reports import tables
from l2lcli.reports.figures.drawing import INK, LEARNED, NAMED, OTHERS, Figure, literal, log_ticks
from l2lcli.reports.figures.lines import spread

WORDS = {"accuracy": "accuracy on the query", "mse": "mean squared error on the query"}
NOTES = """<p class="soft">Mean over {episodes} test episodes, the same for every row, ± 1.96 standard errors. Reported: after
the number of updates that was best on validation episodes, on which learning rates were chosen, too.</p>"""
SHOWN = (0, 1, 5)  # updates with columns of their own, beside the last one

Families = dict[str, FewShot]


def at(entry: FewShot, update: int) -> tuple[float, float]:
    """Mean and half interval after so many updates; what does no updates is the same after all."""
    place = entry.updates.index(update) if update in entry.updates else 0 if len(entry.updates) == 1 else None
    if place is None:
        return math.nan, math.nan
    mean, half = entry.mean[place], entry.ci[place]
    return math.nan if mean is None else mean, math.nan if half is None else half


def headline(entry: FewShot) -> tuple[float, float, int]:
    """Mean, half interval and number of updates, as chosen on validation episodes."""
    chosen = entry.updates[-1] if entry.chosen is None else entry.chosen
    return *at(entry, chosen), chosen


def rows(found: Families, first: str = "family") -> list[list[str]]:
    """Header and one row a family, best first."""
    last = max(entry.updates[-1] for entry in found.values())
    columns = sorted({*(u for u in SHOWN if u <= last), last})
    table = [[first, "reported", "updates", *(f"after {u}" for u in columns)]]

    def rank(item: tuple[str, FewShot]) -> tuple[bool, float]:
        mean, _, _ = headline(item[1])
        return not math.isfinite(mean), -mean if item[1].metric in HIGHER else mean

    for name, entry in sorted(found.items(), key=rank):
        mean, half, chosen = headline(entry)
        still = len(entry.updates) == 1
        cells = ["-" if still else tables.estimate(*at(entry, u), entry.metric) for u in columns]
        table.append([name, tables.estimate(mean, half, entry.metric), "-" if still else str(chosen), *cells])
    return table


def variant_rows(parts: Mapping[str, Part]) -> list[list[str]]:
    """Header and one row for each problem or variant: what every family reports there."""
    of = {name: part.few_shot or {} for name, part in parts.items()}
    names = list(dict.fromkeys(name for found in of.values() for name in found))
    table = [["variant", *names]]
    for part, found in of.items():
        entries = (found.get(name) for name in names)
        table.append([part, *("-" if e is None else tables.estimate(*headline(e)[:2], e.metric) for e in entries)])
    return table


def merged(summaries: Mapping[str, Summary]) -> dict[str, Families]:
    """Title -> the entries of all runs that were judged on the same episodes, side by side.

    A family is called after its run, too, where two runs have one of that name and they are not equal.
    """
    groups: dict[str, dict[str, Summary]] = {}
    for run, summary in summaries.items():
        groups.setdefault(summary.test_episodes or run, {})[run] = summary
    found: dict[str, Families] = {}
    for group in groups.values():
        title = min((summary.problem for summary in group.values()), key=lambda name: (len(name), name))
        title = title if title not in found else f"{title}, {min(group)}"
        together = found[title] = {}
        for run, summary in group.items():
            for name, entry in (summary.few_shot or {}).items():
                together[name if together.get(name, entry) == entry else f"{name} ({run})"] = entry
    return found


def verdict(part: Part) -> str:
    """What came out, in words."""
    found = part.few_shot or {}
    metric = next(iter(found.values())).metric
    others = {name: entry for name, entry in found.items() if name != part.learned}
    said = ""
    if part.learned in found:
        mean, half, chosen = headline(found[part.learned])
        said = (
            f"{part.learned} reaches {tables.estimate(mean, half, metric)} {WORDS.get(metric, metric)} after {chosen} updates"
        )
    if others:
        name, row, updates, *_ = rows(others)[1]
        after = "" if updates == "-" else f" after {updates} updates"
        said += f"{'; ' if said else ''}the best baseline, {name}, {row}{after}"
    return f"{said}."


def table(summary: Summary) -> str:
    """The summary as plain text for the terminal."""
    title = f"{summary.title}: {summary.steps} updates, {summary.seeds} test episodes"
    lines = [title, "", *tables.aligned(rows(summary.few_shot or {}), summary.learned), "", verdict(summary)]
    if summary.variants:
        lines += ["", *tables.aligned(variant_rows(summary.parts))]
    return "\n".join(lines)


def figure(name: str, label: str, found: Families, learned: str | None) -> Figure:
    """The metric against the number of updates, with bands."""
    first = next(iter(found.values()))
    caption = (
        f"{label}: {WORDS.get(first.metric, first.metric)} against inner updates, mean over {first.episodes} test episodes,"
    )
    caption += (
        " the same for every line; band: ± 1.96 standard errors; dot: the number of updates chosen on validation episodes."
    )
    caption += " Dashed: no updates are made."
    return Figure(name, f"{label}: by updates", caption, lambda: _draw(found, label, first.metric, learned))


def _draw(found: Families, label: str, metric: str, learned: str | None) -> Any:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(6.4, 3.9))
    ax = canvas.add_axes((0.1, 0.13, 0.66, 0.78))
    last = max(entry.updates[-1] for entry in found.values())
    spare, ends = cycle(OTHERS), []
    values = [m for entry in found.values() for m in entry.mean if m is not None and math.isfinite(m)]
    if metric not in HIGHER and values and min(values) > 0 and max(values) > 8 * min(values):
        ax.set_yscale("log")
        firsts = [e.mean[0] for e in found.values() if e.mean[0] is not None]
        ax.set_ylim(min(values) / 1.5, 1.5 * max(firsts, default=max(values)))  # one that diverges leaves at the top
        log_ticks(ax.yaxis, *ax.get_ylim())
    for name, entry in found.items():
        colour = LEARNED if name == learned else NAMED.get(name) or next(spare)
        x, mean, half = (np.array(values, float) for values in (entry.updates, entry.mean, entry.ci))
        still = len(x) == 1
        if still:
            x, mean, half = np.array([0.0, last]), np.repeat(mean, 2), np.repeat(half, 2)
        ax.fill_between(x, mean - half, mean + half, color=colour, alpha=0.16, linewidth=0)
        width = 2.6 if name == learned else 1.4
        ax.plot(x, mean, color=colour, linewidth=width, linestyle=(0, (4, 2)) if still else "-")
        if not still:
            ax.plot(headline(entry)[2], headline(entry)[0], "o", color=colour, markersize=5)
        known = mean[np.isfinite(mean)]
        ends.append((name, colour, float(np.clip(known[-1] if len(known) else np.inf, *ax.get_ylim()))))
    ax.set_xlim(0, last)
    to_axes = ax.transData + ax.transAxes.inverted()
    wanted = [to_axes.transform((last, y))[1] for _, _, y in ends]
    for (name, colour, _), place in zip(ends, spread(wanted, 0.052), strict=True):
        font: Any = {"color": colour, "va": "center", "fontweight": "bold" if name == learned else "normal", "fontsize": 8}
        ax.text(1.02, place, literal(name), transform=ax.transAxes, **font)
    ax.set(title=literal(label), xlabel="inner updates", ylabel=WORDS.get(metric, literal(metric)))
    ax.title.set_color(INK)
    return canvas
