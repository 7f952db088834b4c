"""The generalisation matrix as a picture: ratios to the best tuned baselines, green below 1, red above."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from l2lcli.evaluation.summary import Metric, Part
from l2lcli.reports.figures.drawing import Figure, literal
from l2lcli.reports.tables import number

# The page's colours do not follow a dark theme here: the numbers stand on the cells, which are the same in both.
BETTER, EVEN, WORSE, NONE = "#1a7f4b", "#f4f4ef", "#b3302a", "#c9cdd2"
DARK, LIGHT = "#1b1f23", "#ffffff"
FURTHEST = 4.0  # ratios beyond it, or below its inverse, have the full colour
ROWS = 60  # shown at most


class Cell(NamedTuple):
    """One comparison: the ratio (None: a seed diverged), its interval, and the baseline that was best."""

    ratio: float | None
    interval: tuple[float, float] | None
    best: str


def cell(part: Part, metric: Metric) -> Cell | None:
    """A summary's ratio; None where nothing learned was compared."""
    best = part.best(metric)
    return Cell(*part.ratio(metric), best) if best and part.learned else None


def heatmap(
    name: str, title: str, caption: str, rows: list[str], columns: list[str], cells: dict[tuple[str, str], Cell]
) -> Figure:
    """A matrix of ratios.

    Args:
      name: of the figure's files.
      title: over the figure.
      caption: under it; what the colours mean is added.
      rows: names from the top down.
      columns: names from left to right.
      cells: (row, column) -> what is known there.
    """
    shown = rows[:ROWS]
    caption += " Ratio to the best tuned baseline, with its 95 % interval and that baseline's name: green is better than it,"
    caption += f" red worse, full colour from {FURTHEST:g}-fold on; n/a: a seed of the learned optimizer diverged."
    caption += f" {len(rows) - ROWS} rows more are left out." if len(rows) > ROWS else ""
    return Figure(name, title, caption, lambda: _draw(title, shown, columns, cells))


def _draw(title: str, rows: list[str], columns: list[str], cells: dict[tuple[str, str], Cell]) -> Any:
    from matplotlib.figure import Figure as Canvas
    from matplotlib.patches import Rectangle

    headings = [literal(column).replace("/", "/\n") for column in columns]  # runs are named by their paths
    wide, high = 1.75, 0.46  # inches
    above = 0.6 + 0.15 * max(text.count("\n") + 1 for text in headings)
    beside = 0.35 + 0.075 * max(map(len, rows))
    size = (beside + wide * len(columns) + 0.1, above + high * len(rows) + 0.1)
    figure = Canvas(figsize=size)
    ax = figure.add_axes((beside / size[0], 0.1 / size[1], wide * len(columns) / size[0], high * len(rows) / size[1]))
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            found = cells.get((row, column))
            colour, text, note = _shown(found)
            patch: Any = {"facecolor": colour, "edgecolor": "none"} if found else {"facecolor": "none", "edgecolor": NONE}
            ax.add_patch(Rectangle((x + 0.015, y + 0.04), 0.97, 0.92, linewidth=0.6, **patch))
            ink = LIGHT if _luminance(colour) < 0.25 else DARK
            font: Any = {"color": ink, "ha": "center", "va": "center"}
            ax.text(x + 0.5, y + (0.36 if note else 0.5), text, fontsize=8.5, fontweight="bold", **font)
            ax.text(x + 0.5, y + 0.72, literal(note), fontsize=6.5, **font)
    ax.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    ax.set_xticks([i + 0.5 for i in range(len(columns))], headings)
    ax.set_yticks([i + 0.5 for i in range(len(rows))], [literal(row) for row in rows])
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    figure.text(0.02, 1 - 0.2 / size[1], literal(title), fontsize=10, fontweight="bold", va="center")
    return figure


def _shown(found: Cell | None) -> tuple[str, str, str]:
    """Colour, number and note of a cell."""
    if found is None:
        return EVEN, "", ""
    if found.ratio is None:
        return NONE, "n/a", f"diverged; best: {found.best}"
    text = number(found.ratio, 3)
    if found.interval is not None:
        text += f" [{number(found.interval[0], 3)}, {number(found.interval[1], 3)}]"
    far = 1.0 if found.ratio <= 0 else min(abs(math.log(found.ratio)) / math.log(FURTHEST), 1.0)
    return _mixed(EVEN, BETTER if found.ratio < 1 else WORSE, far**0.7), text, found.best


def _channels(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def _mixed(a: str, b: str, share: float) -> str:
    return "#" + "".join(f"{round(x + share * (y - x)):02x}" for x, y in zip(_channels(a), _channels(b), strict=True))


def _luminance(colour: str) -> float:
    """Relative luminance, 0 … 1 (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in _channels(colour))]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
