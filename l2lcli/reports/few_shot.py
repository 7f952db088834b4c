"""Few-shot results as tables, words and a figure, from a summary's "few_shot" alone. Loads no JAX."""

from __future__ import annotations

import math
from itertools import cycle
from typing import Any

import numpy as np

from l2lcli.reports import tables
from l2lcli.reports.figures.drawing import INK, LEARNED, NAMED, OTHERS, Figure, log_ticks, plain
from l2lcli.reports.figures.lines import spread
from l2lcli.runs.files import RunError

HIGHER = {"accuracy"}
WORDS = {"accuracy": "accuracy on the query", "mse": "mean squared error on the query"}
NOTES = """<p class="soft">Mean over {episodes} test episodes, the same for every row, ± 1.96 standard errors. Reported: after
the number of updates that was best on validation episodes, on which learning rates were chosen, too.</p>"""
SHOWN = (0, 1, 5)  # updates with columns of their own, beside the last one

Entries = dict[str, dict[str, Any]]  # family -> its entry in "few_shot"


def entries(summary: dict[str, Any]) -> Entries:
    """The summary's few-shot results; none where it has none. Raises RunError where they are damaged."""
    found = summary.get("few_shot") or {}
    for name, entry in found.items() if isinstance(found, dict) else [("", None)]:
        try:
            length = len(entry["updates"])
            sound = 0 < length == len(entry["mean"]) == len(entry["ci"]) and isinstance(entry["metric"], str)
            np.array([*entry["updates"], entry["episodes"], entry.get("chosen") or 0], float)
            np.array([entry["mean"], entry["ci"]], float)  # null is NaN
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise RunError(f"damaged: few_shot of {name!r} is not metric, updates, mean, ci and episodes")
    return found


def at(entry: dict[str, Any], update: int) -> tuple[float, float]:
    """Mean and half interval after so many updates; what does no updates is the same after all."""
    place = entry["updates"].index(update) if update in entry["updates"] else 0 if len(entry["updates"]) == 1 else None
    values = (math.nan, math.nan) if place is None else (entry["mean"][place], entry["ci"][place])
    return tuple(math.nan if value is None else value for value in values)


def headline(entry: dict[str, Any]) -> tuple[float, float, int]:
    """Mean, half interval and number of updates, as chosen on validation episodes."""
    chosen = entry.get("chosen")
    chosen = entry["updates"][-1] if chosen is None else chosen
    return *at(entry, chosen), chosen


def _number(mean: float, half: float, metric: str) -> str:
    if not math.isfinite(mean):
        return "lost"
    return f"{100 * mean:.1f} ± {100 * half:.1f} %" if metric == "accuracy" else f"{mean:.3g} ± {half:.2g}"


def rows(found: Entries, first: str = "family") -> list[list[str]]:
    """Header and one row a family, best first."""
    last = max(entry["updates"][-1] for entry in found.values())
    shown = sorted({*(u for u in SHOWN if u <= last), last})
    table = [[first, "reported", "updates", *(f"after {u}" for u in shown)]]

    def rank(item):
        mean, _, _ = headline(item[1])
        return (not math.isfinite(mean), -mean if item[1]["metric"] in HIGHER else mean)

    for name, entry in sorted(found.items(), key=rank):
        mean, half, chosen = headline(entry)
        still = len(entry["updates"]) == 1
        cells = ["-" if still else _number(*at(entry, u), entry["metric"]) for u in shown]
        table.append([name, _number(mean, half, entry["metric"]), "-" if still else str(chosen), *cells])
    return table


def variant_rows(parts: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Header and one row for each problem or variant: what every family reports there."""
    of = {name: entries(part) for name, part in parts.items()}
    names = list(dict.fromkeys(name for found in of.values() for name in found))
    table = [["variant", *names]]
    for part, found in of.items():
        shown = (found.get(name) for name in names)
        table.append([part, *("-" if e is None else _number(*headline(e)[:2], e["metric"]) for e in shown)])
    return table


def merged(summaries: dict[str, dict[str, Any]]) -> dict[str, Entries]:
    """Title -> the entries of all runs that were judged on the same episodes, side by side.

    A family is called after its run, too, where two runs have one of that name and they are not equal.
    """
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for run, summary in summaries.items():
        groups.setdefault(summary.get("test_episodes") or run, {})[run] = summary
    found = {}
    for group in groups.values():
        title = min((summary["problem"] for summary in group.values()), key=lambda name: (len(name), name))
        title = title if title not in found else f"{title}, {min(group)}"
        together = found[title] = {}
        for run, summary in group.items():
            for name, entry in entries(summary).items():
                together[name if together.get(name, entry) == entry else f"{name} ({run})"] = entry
    return found


def verdict(summary: dict[str, Any]) -> str:
    """What came out, in words."""
    found, learned = entries(summary), summary["learned"]
    metric = next(iter(found.values()))["metric"]
    others = {name: entry for name, entry in found.items() if name != learned}
    said = ""
    if learned in found:
        mean, half, chosen = headline(found[learned])
        said = f"{learned} reaches {_number(mean, half, metric)} {WORDS.get(metric, metric)} after {chosen} updates"
    if others:
        name, row, updates, *_ = rows(others)[1]
        after = "" if updates == "-" else f" after {updates} updates"
        said += f"{'; ' if said else ''}the best baseline, {name}, {row}{after}"
    return f"{said}."


def table(summary: dict[str, Any]) -> str:
    """The summary as plain text for the terminal."""
    found = entries(summary)
    title = f"{summary.get('label') or summary['problem']}: {summary['steps']} updates, {summary['seeds']} test episodes"
    lines = [title, "", *tables.aligned(rows(found), summary["learned"]), "", verdict(summary)]
    if summary.get("variants"):
        lines += ["", *tables.aligned(variant_rows(tables.parts(summary)))]
    return "\n".join(lines)


def figure(name: str, label: str, found: Entries, learned: str | None) -> Figure:
    """The metric against the number of updates, with bands."""
    metric, episodes = (next(iter(found.values()))[key] for key in ("metric", "episodes"))
    caption = f"{label}: {WORDS.get(metric, metric)} against inner updates, mean over {episodes} test episodes, the same for"
    caption += " every line; band: ± 1.96 standard errors; dot: the number of updates chosen on validation episodes."
    caption += " Dashed: no updates are made."
    return Figure(name, f"{label}: by updates", caption, lambda: _draw(found, label, metric, learned))


def _draw(found: Entries, label: str, metric: str, learned: str | None) -> Any:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(6.4, 3.9))
    ax = canvas.add_axes((0.1, 0.13, 0.66, 0.78))
    last = max(entry["updates"][-1] for entry in found.values())
    spare, ends = cycle(OTHERS), []
    values = [m for entry in found.values() for m in entry["mean"] if m is not None and math.isfinite(m)]
    if metric not in HIGHER and values and min(values) > 0 and max(values) > 8 * min(values):
        ax.set_yscale("log")
        firsts = [e["mean"][0] for e in found.values() if e["mean"][0] is not None]
        ax.set_ylim(min(values) / 1.5, 1.5 * max(firsts, default=max(values)))  # one that diverges leaves at the top
        log_ticks(ax.yaxis, *ax.get_ylim())
    for name, entry in found.items():
        colour = LEARNED if name == learned else NAMED.get(name) or next(spare)
        x, mean, half = (np.array(entry[key], float) for key in ("updates", "mean", "ci"))
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
        font = {"color": colour, "va": "center", "fontweight": "bold" if name == learned else "normal", "fontsize": 8}
        ax.text(1.02, place, plain(name), transform=ax.transAxes, **font)
    ax.set(title=plain(label), xlabel="inner updates", ylabel=WORDS.get(metric, plain(metric)))
    ax.title.set_color(INK)
    return canvas
