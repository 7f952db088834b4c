"""The rows of `l2l bench --scaling` as a table and as a figure, from the file alone; JAX is never imported."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from l2lcli.bench.scaling import BASE, VARIED, WAYS, Point, Row, coordinates, name
from l2lcli.reports.figures.drawing import INK, LEARNED, NAMED, PAPER, Figure, log_ticks, save
from l2lcli.reports.tables import WIDTH, aligned, number
from l2lcli.runs.files import RunError

REPLAY, PLAIN = WAYS
NOTES = (
    "From {base}, one varied at a time; 2-layer LSTM; {device}. Seconds: median over repeats (replay / plain JAX). Plain JAX: "
    "with jax.checkpoint, run where its temporaries stay below 2 GB (open circles: compiled, not run). Temporaries: XLA's own "
    "figure, for one device; B / MWN: their bytes per task, step of the window and coordinate. Peak: resident memory of the "
    "replaying process, which begins with Python, JAX and the images and holds the optimizer's state. MB, GB: 10^6, 10^9 "
    "bytes. Dotted: linear growth from the base point."
)
LONG = {"N": "coordinates N", "M": "tasks M", "W": "window W", "H": "hidden units H"}
CURVES = (  # row of panels, way, key, unit, colour, line style, label
    (0, REPLAY, "seconds_per_100_steps", 1, LEARNED, "-", "l2l, replay"),
    (0, PLAIN, "seconds_per_100_steps", 1, NAMED["nag"], "-", "plain JAX, jax.checkpoint"),
    (1, REPLAY, "peak_rss_bytes", 1e6, LEARNED, "--", "l2l, replay: peak of the whole process"),
    (1, REPLAY, "temp_bytes", 1e6, LEARNED, "-", "l2l, replay"),
    (1, PLAIN, "temp_bytes", 1e6, NAMED["nag"], "-", "plain JAX, jax.checkpoint"),
)


class Entry(NamedTuple):
    """A point on one of the four axes: its place there, and the row of each way that has one."""

    x: int
    point: Point
    rows: dict[str, Row]

    def get(self, way: str, key: str) -> Any:
        """A value of the way's row, None where there is none."""
        found = self.rows.get(way, {}).get(key)
        return found.get(way) if isinstance(found, dict) else found


def along(rows: list[Row]) -> dict[str, list[Entry]]:
    """The axes N, M, W, H with the points on each that have rows, from small to large; the base point is on all four."""
    found = {(row["way"], *(row["work"][key] for key in BASE)): row for row in rows}
    axes: dict[str, list[Entry]] = {}
    for axis, changes in VARIED.items():
        axes[axis] = []
        for point in (BASE | change for change in changes):
            own = {way: found[key] for way in WAYS if (key := (way, *point.values())) in found}
            x = {"N": coordinates(point), "M": point["tasks"], "W": point["window"], "H": point["hidden"]}[axis]
            axes[axis] += [Entry(x, point, own)] if own else []
    return axes


def table(rows: list[Row]) -> str:
    """The rows as plain text for the terminal. Raises RunError where none is of the points."""
    lines = [["", "s / 100 steps", "and 1e4 coord.", "plain JAX", "temporaries", "B / MWN", "plain JAX", "peak", "repeats"]]
    first, failures = [], {}
    for axis, entries in along(rows).items():
        first.append(len(lines))
        for entry in entries:
            lines.append([f"{axis} = {entry.x:,}", *_cells(entry)])
            failed = {way: row["error"] for way, row in entry.rows.items() if "error" in row}
            failures |= {f"failed: {name(entry.point)}, {way}: {error}": None for way, error in failed.items()}
    if len(lines) == 1:
        raise RunError("nothing to show: no point of l2l bench --scaling has been measured")
    text = aligned(lines)
    for index in reversed(first):
        text.insert(index, "")
    notes = textwrap.wrap(_notes(rows), WIDTH)
    return "\n".join([*text, "", *failures, *([""] if failures else []), *notes])


def _cells(entry: Entry) -> list[str]:
    """The cells after the first."""
    seconds = {way: entry.get(way, "seconds_per_100_steps") for way in WAYS}
    temporaries = {way: entry.get(way, "temp_bytes") for way in WAYS}
    tens = entry.point["tasks"] * coordinates(entry.point) / 1e4
    floats = entry.point["tasks"] * entry.point["window"] * coordinates(entry.point)
    shown = {way: "failed" if "error" in entry.rows.get(way, {}) else _number(seconds[way]) for way in WAYS}
    repeats = " / ".join(str(entry.get(way, "repeats") or "-") for way in WAYS)
    return [
        *(shown[REPLAY], _number(seconds[REPLAY], tens), shown[PLAIN]),
        *(_size(temporaries[REPLAY]), _number(temporaries[REPLAY], floats), _size(temporaries[PLAIN])),
        *(_size(entry.get(REPLAY, "peak_rss_bytes")), repeats),
    ]


def _number(x: float | None, over: float = 1) -> str:
    return "-" if x is None else number(x / over, 3)


def _size(count: float | None) -> str:
    return "-" if count is None else f"{number(count / 1e6, 3)} MB" if count < 1e9 else f"{number(count / 1e9, 3)} GB"


def _notes(rows: list[Row]) -> str:
    devices: dict[str, int] = {}
    for machine in (row["machine"] for row in rows if "machine" in row):
        devices[machine["device"]] = max(devices.get(machine["device"], 0), machine["devices"])
    shown = [f"{kind}, at most {count} devices" for kind, count in devices.items()]
    return NOTES.format(base=name(BASE), device="; ".join(shown) or "nothing measured")


def write(rows: list[Row], folder: Path) -> Path:
    """Draw `scaling.png` and `scaling.svg` into the folder; the former's path. Raises RunError where nothing was timed."""
    axes = along(rows)
    if not any(entry.get(way, "seconds_per_100_steps") for entries in axes.values() for entry in entries for way in WAYS):
        raise RunError("nothing to draw: no point of l2l bench --scaling has a time")
    save(Figure("scaling", "Time and memory of a meta-gradient", _notes(rows), lambda: _draw(axes), arranged=True), folder)
    return folder / "scaling.png"


def _draw(axes: dict[str, list[Entry]]) -> Any:
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(10, 5))
    panels = figure.subplots(2, len(axes), sharex="col", sharey="row", squeeze=False)
    for ax in panels.flat:
        ax.set(xscale="log", yscale="log")
    for column, (axis, entries) in enumerate(axes.items()):
        for row, way, key, unit, colour, style, label in CURVES:
            known = [(e.x, e.get(way, key) / unit, e.get(way, "seconds_per_100_steps")) for e in entries if e.get(way, key)]
            line = {"color": colour, "linestyle": style, "marker": "o", "markersize": 3.5, "linewidth": 1.4, "label": label}
            panels[row, column].plot([x for x, _, _ in known], [y for _, y, _ in known], **line)
            for x, y, seconds in known:
                if seconds is None:
                    panels[row, column].plot(x, y, "o", color=colour, markersize=3.5, markerfacecolor=PAPER)
        for row, _, key, unit, *_ in (CURVES[0], CURVES[3]):
            _linear(panels[row, column], entries, key, unit)
        ticks = [entry.x for entry in entries]
        panels[1, column].set_xticks(ticks, [f"{x:,}" if x < 1000 else f"{x:.1e}".replace("e+0", "e") for x in ticks])
        panels[1, column].set_xticks([], minor=True)
        panels[1, column].set(xlabel=LONG[axis])
    for row, label in enumerate(("seconds per 100 steps", "memory, MB (solid: temporaries)")):
        log_ticks(panels[row, 0].yaxis, *panels[row, 0].get_ylim())
        panels[row, 0].set(ylabel=label)
    handles = {label: line for ax in panels.flat for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _linear(ax: Any, entries: list[Entry], key: str, unit: float) -> None:
    """A line through replay's value at the base point that grows linearly, over the range of the points."""
    base = [entry for entry in entries if entry.point == BASE and entry.get(REPLAY, key)]
    if base and len(entries) > 1:
        ends = [entries[0].x, entries[-1].x]
        through = [base[0].get(REPLAY, key) / unit * x / base[0].x for x in ends]
        ax.plot(ends, through, color=INK, linestyle=":", linewidth=1, label="linear growth", zorder=1)
