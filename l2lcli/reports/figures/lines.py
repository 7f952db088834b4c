"""Curves over seeds as median and interquartile band, each with its name beside its end."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from l2lcli.reports.figures.drawing import INK, PAPER, literal, log_ticks


class Line(NamedTuple):
    """One optimizer's curve: label (None: unlabelled), colour, width in points, x [T+1] and losses [S, T+1]."""

    label: str | None
    colour: str
    width: float
    x: np.ndarray
    losses: np.ndarray
    dashed: bool = False


def band(losses: np.ndarray) -> np.ndarray:
    """Lower quartile, median and upper quartile over seeds, [3, T+1], of losses [S, T+1], interpolated linearly.

    A non-finite loss ranks as infinitely large, so that a diverged seed is not dropped in the optimizer's favour; a quantile
    that falls on one is NaN.
    """
    ranked = np.where(np.isfinite(losses), losses, 1e300)  # not inf, from which interpolation makes NaN at finite quantiles too
    quantiles = np.quantile(ranked, (0.25, 0.5, 0.75), axis=0)
    return np.where(quantiles < 1e290, quantiles, np.nan)


def spread(wanted: list[float], gap: float) -> list[float]:
    """The places nearest to `wanted` by least squares that keep its order and lie at least `gap` apart."""
    order = np.argsort(wanted, kind="stable")
    blocks: list[list[float]] = []  # isotonic regression: pool adjacent violators
    for rank, i in enumerate(order):
        blocks.append([wanted[i] - rank * gap])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    places = np.empty(len(wanted))
    places[order] = [np.mean(block) for block in blocks for _ in block] + gap * np.arange(len(wanted))
    return places.tolist()


def draw_lines(
    lines: list[Line], title: str, xlabel: str, ylabel: str, log_x: bool = False, mark: tuple[float, str] | None = None
) -> Any:
    """Median and interquartile band of each line; labels stand beside the ends, moved apart where they would overlap.

    mark: an x that a dotted line stands at, and what is written beside it.
    """
    from matplotlib.figure import Figure as Canvas
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure = Canvas(figsize=(6.4, 3.9))
    ax = figure.add_axes((0.1, 0.13, 0.72, 0.78))
    bands = [band(line.losses) for line in lines]
    middle, whole = np.concatenate([b[1] for b in bands]), np.concatenate(bands, axis=1)
    middle, whole = middle[middle > 0], whole[whole > 0]
    if len(middle):  # the medians set the range, for a band may reach much further; the start caps a divergence
        low = max(whole.min(), middle.min() / 3) / 1.1
        high = max(min(whole.max(), 10 * max((b[2, 0] for b in bands if b[2, 0] > 0), default=middle.max())) * 1.1, low * 1.5)
        ax.set_yscale("log", nonpositive="clip")  # a loss of zero runs off the bottom instead of breaking the line
        ax.set_ylim(low, high)
        log_ticks(ax.yaxis, low, high)
    right = max(float(line.x[-1]) for line in lines) or 1.0
    left = min(float(line.x[min(1, len(line.x) - 1)]) for line in lines) if log_x else 0.0
    if log_x:
        ax.set_xscale("log")
        log_ticks(ax.xaxis, left, right)
    ax.set_xlim(left, right)
    if mark:
        ax.axvline(mark[0], color=INK, linewidth=0.9, linestyle=":", zorder=2.5)
        after = ax.transAxes.inverted().transform(ax.transData.transform((mark[0], 1.0)))[0] < 0.6
        beside = {"xytext": (4 if after else -4, 4), "textcoords": "offset points", "ha": "left" if after else "right"}
        ax.annotate(literal(mark[1]), (mark[0], 0), xycoords=ax.get_xaxis_transform(), fontsize=8, zorder=9, **beside)
    few, ends = sum(not line.dashed for line in lines) <= 5, []  # many bands of one strength are a grey mass
    for line, (lower, median, upper) in zip(lines, bands, strict=True):
        if len(line.losses) > 1 and not line.dashed:
            alpha = 0.16 if few or line.width > 2 else 0.06
            ax.fill_between(line.x, lower, upper, color=line.colour, alpha=alpha, linewidth=0, zorder=2)
        style = {"linestyle": (0, (4, 2)) if line.dashed else "-", "linewidth": line.width, "zorder": 3 + line.width}
        ax.plot(line.x, median, color=line.colour, **style)
        last = np.flatnonzero(np.isfinite(median))[-1:]
        x, y = (line.x[last[0]], median[last[0]]) if len(last) else (right, np.inf)
        ends.append((float(x), float(np.clip(y, *ax.get_ylim()))))
    named = [(line, end) for line, end in zip(lines, ends, strict=True) if line.label]
    box = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
    to_axes = ax.transData + ax.transAxes.inverted()
    for (line, end), place in zip(named, spread([to_axes.transform(end)[1] for _, end in named], 0.052), strict=True):
        leader = {"arrowstyle": "-", "color": line.colour, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 1}
        font = {"color": line.colour, "va": "center", "fontweight": "bold" if line.width > 2 else "normal"}
        beside = (to_axes.transform(end)[0] + 0.03, place)
        ax.annotate(
            literal(line.label or ""), end, beside, "data", "axes fraction", leader, annotation_clip=False, bbox=box, **font
        )
    keys: list[Any] = [Line2D([], [], color=INK, linewidth=1.4, label="median over seeds")]
    if any(line.dashed for line in lines):
        keys[0].set_label("learning rate tuned for the final loss")
        keys.append(Line2D([], [], color=INK, linewidth=0.9, linestyle=(0, (4, 2)), label="… tuned for the summed loss"))
    if any(len(line.losses) > 1 for line in lines):
        keys.append(Patch(facecolor=INK, alpha=0.16, label="interquartile band"))
    if len(keys) > 1:
        ax.legend(handles=keys, loc="best", frameon=False)
    ax.set(title=literal(title), xlabel=xlabel, ylabel=literal(ylabel))
    return figure
