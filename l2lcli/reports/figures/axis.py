"""The figures of a sweep: validation losses along an axis, and their spread over seeds."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

import numpy as np

from l2lcli.reports.figures.drawing import INK, LEARNED, OTHERS, PAPER, Figure, literal, log_ticks

FEW = len(OTHERS)  # lines that can be told apart
MOST = 60  # settings that one figure has room for
DECADES = 20  # an axis whose ends are further apart than this, as a ratio, is logarithmic
LOSS = "validation loss"


class Dot(NamedTuple):
    """One point of a sweep: its value on the axis; what else it has, "" where that is nothing; its loss, NaN if it failed."""

    value: Any
    rest: str
    loss: float
    best: bool = False


def along(name: str, title: str, label: str, dots: list[Dot], drawn: bool) -> Figure | None:
    """Losses against an axis; None where no point has one.

    Args:
      name, title: the figure's.
      label: the axis's.
      dots: the points. Those of one `rest` and value differ in their seeds.
      drawn: the values were drawn from a range, each on its own.
    """
    known = [dot for dot in dots if not math.isnan(dot.loss)]
    if not known:
        return None
    numeric = all(isinstance(dot.value, int | float) and not isinstance(dot.value, bool) for dot in dots)
    words = [*dict.fromkeys(_word(dot.value) for dot in dots)]
    place = (lambda dot: float(dot.value)) if numeric else (lambda dot: float(words.index(_word(dot.value))))
    rests = [*dict.fromkeys(dot.rest for dot in known)]
    lined = not drawn and len(rests) <= FEW
    groups = [(rest, [dot for dot in known if dot.rest == rest]) for rest in rests] if lined else [("", known)]

    def draw() -> Any:
        from matplotlib.figure import Figure as Page

        page = Page(figsize=(6.4, 3.9))
        ax = page.add_axes((0.1, 0.13, 0.66, 0.78))
        colours = [LEARNED] if len(groups) == 1 else OTHERS
        for colour, (rest, own) in zip(colours, groups, strict=False):
            found: dict[float, list[float]] = {}
            for dot in own:
                found.setdefault(place(dot), []).append(dot.loss)
            losses = [dot.loss for dot in own]
            ax.plot([*map(place, own)], losses, "o", color=colour, markersize=4, alpha=0.7, zorder=3)
            if not drawn:
                middle = sorted((x, float(np.median(losses))) for x, losses in found.items())
                ax.plot(*zip(*middle, strict=True), color=colour, linewidth=1.6, label=literal(rest) or None, zorder=2)
        for dot in known:
            if dot.best:
                ring = {"markerfacecolor": "none", "markeredgecolor": INK, "markersize": 9}
                ax.plot(place(dot), dot.loss, "o", zorder=4, **ring)
        lost = [place(dot) for dot in dots if math.isnan(dot.loss)]
        ax.plot(lost, [0.98] * len(lost), "x", color=INK, markersize=5, transform=ax.get_xaxis_transform(), clip_on=False)
        values = [place(dot) for dot in dots]
        if numeric and min(values) > 0 and max(values) / min(values) >= DECADES:
            ax.set_xscale("log")
            log_ticks(ax.xaxis, min(values), max(values))
        elif not numeric:
            ax.set_xticks(range(len(words)), [literal(word) for word in words])
        elif not drawn and len(set(values)) <= 12:
            ax.set_xticks(sorted(set(values)), [f"{value:g}" for value in sorted(set(values))])
        _scaled(ax, "y", [dot.loss for dot in known])
        ax.set(xlabel=literal(label), ylabel=LOSS, title=literal(title))
        if len(groups) > 1:
            ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0))  # beside it, where no line can be
        return page

    caption = f"Lowest {LOSS} of every point against {label}"
    caption += (
        "."
        if drawn
        else "; the line goes through the medians" + (" of points alike in all but that and the seed." if lined else ".")
    )
    caption += " The ring is round the point that is named best." if any(dot.best for dot in known) else ""
    caption += " Crosses at the top: points without a result." if len(known) < len(dots) else ""
    return Figure(name, title, caption, draw)


def spread(name: str, title: str, settings: dict[str, list[float]], best: str | None) -> Figure | None:
    """The losses of each setting's seeds as dots, with their median, the lowest mean first; None where none has any."""
    known = sorted(((text, losses) for text, losses in settings.items() if losses), key=lambda item: np.mean(item[1]))[:MOST]
    if not known:
        return None

    def draw() -> Any:
        from matplotlib.figure import Figure as Page

        high = 0.26 * len(known) + 1.1
        page = Page(figsize=(6.4, high))
        ax = page.add_axes((0.36, 0.6 / high, 0.6, (high - 1) / high))
        for row, (text, losses) in enumerate(known):
            colour = LEARNED if text == best else INK
            ax.plot(losses, [row] * len(losses), "o", color=colour, markersize=4.5, markeredgecolor=PAPER, zorder=3)
            ax.plot([np.median(losses)] * 2, [row - 0.3, row + 0.3], color=colour, linewidth=1.2, zorder=4)
        ax.set_yticks(range(len(known)), [literal(text) for text, _ in known])
        ax.set_ylim(len(known) - 0.4, -0.6)
        _scaled(ax, "x", [loss for _, losses in known for loss in losses])
        ax.set(xlabel=LOSS, title=literal(title))
        return page

    caption = f"Every seed's lowest {LOSS}, a dot each, and their median as a stroke; the setting with the lowest mean first."
    return Figure(name, title, caption, draw)


def _scaled(ax: Any, which: str, losses: list[float]) -> None:
    """A logarithmic axis for losses, where they are positive."""
    if min(losses) <= 0:
        return
    low, high = min(losses) / 1.08, max(losses) * 1.08
    getattr(ax, f"set_{which}scale")("log")
    getattr(ax, f"set_{which}lim")(low, high)
    log_ticks(getattr(ax, f"{which}axis"), low, high)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def finite(loss: Any) -> float | None:
    """A loss of metrics.jsonl, None where it is none."""
    return float(loss) if isinstance(loss, int | float) and math.isfinite(loss) else None
