"""Figures from a run directory's files alone. Matplotlib is imported where a figure is drawn; JAX never is."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from l2lcli.artefact import faults, replacing

# Text and axes, grid, background; report.py re-colours them for dark screens.
INK, FAINT, PAPER = "#24292e", "#d9dcdf", "#fefefe"
LEARNED = "#d55e00"  # Okabe and Ito's colour-blind-safe palette; grey in place of its yellow, which white paper swallows
NAMED = {"sgd": "#7a7f85", "momentum": "#56b4e9", "nag": "#0072b2", "rmsprop": "#cc79a7", "adam": "#009e73"}
NAMED |= {"nag_cosine": "#003f6b", "adam_cosine": "#00543d"}
OTHERS = ("#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#7a7f85", "#8f6b4a", "#7b6bc4")
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
STYLE = {
    **dict.fromkeys(INKED, INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), PAPER),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **{"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.titleweight": "bold", "legend.fontsize": 8},
    **{"axes.grid": True, "grid.color": FAINT, "grid.linewidth": 0.6, "svg.fonttype": "none", "savefig.bbox": "tight"},
}


class Figure(NamedTuple):
    """A figure that a folder has the data for. `draw()` makes the matplotlib figure; it is called under `STYLE`."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Any]


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


def plain(text: str) -> str:
    """Text for matplotlib: a dollar sign begins no formula, a control character breaks no SVG."""
    return "".join(c if c.isprintable() else " " for c in text).replace("$", r"\$")


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


def _log(axis: Any, low: float, high: float) -> None:
    """Logarithmic ticks that show a few plain numbers however narrow the range."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    decades = math.log10(high / low)
    locator = MaxNLocator(5) if decades < 0.7 else LogLocator(subs=(1,) if decades > 2.5 else (1, 2, 5))
    axis.set_major_locator(locator)
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}".replace("e-0", "e-").replace("e+0", "e")))
    axis.set_minor_formatter(NullFormatter())


def draw_lines(lines: list[Line], title: str, xlabel: str, ylabel: str, log_x: bool = False) -> Any:
    """Median and interquartile band of each line; labels stand beside the ends, moved apart where they would overlap."""
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
        _log(ax.yaxis, low, high)
    right = max(float(line.x[-1]) for line in lines) or 1.0
    left = min(float(line.x[min(1, len(line.x) - 1)]) for line in lines) if log_x else 0.0
    if log_x:
        ax.set_xscale("log")
        _log(ax.xaxis, left, right)
    ax.set_xlim(left, right)
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
        ax.annotate(plain(line.label), end, beside, "data", "axes fraction", leader, annotation_clip=False, bbox=box, **font)
    keys: list[Any] = [Line2D([], [], color=INK, linewidth=1.4, label="median over seeds")]
    if any(line.dashed for line in lines):
        keys[0].set_label("learning rate tuned for the final loss")
        keys.append(Line2D([], [], color=INK, linewidth=0.9, linestyle=(0, (4, 2)), label="… tuned for the summed loss"))
    if any(len(line.losses) > 1 for line in lines):
        keys.append(Patch(facecolor=INK, alpha=0.16, label="interquartile band"))
    if len(keys) > 1:
        ax.legend(handles=keys, loc="best", frameon=False)
    ax.set(title=plain(title), xlabel=xlabel, ylabel=plain(ylabel))
    return figure


def loss_figure(
    name: str, label: str, summary: dict[str, Any], curves: dict[str, np.ndarray], seconds: bool = False
) -> Figure | None:
    """Loss of every optimizer against steps, or against wall-clock seconds; None where no curve can be drawn."""
    learned, steps, seeds = summary["learned"], summary["steps"], summary["seeds"]
    pace = {n: entry.get("seconds_per_step") if seconds else 1.0 for n, entry in summary["optimizers"].items() if n in curves}
    order = sorted(pace, key=lambda n: (n == learned, n))  # the learned one last, on top
    pace = {n: pace[n] for n in order if (pace[n] or 0) > 0}
    if not pace:
        return None
    scale, unit = (1.0, "s")
    while seconds and max(pace.values()) * steps * scale < 1 and scale < 1e6:
        scale, unit = (scale * 1e3, "ms" if unit == "s" else "µs")
    taken, lines = {NAMED.get(n) for n in pace}, []
    spare = cycle([colour for colour in OTHERS if colour not in taken])
    for n, per_step in pace.items():
        colour = LEARNED if n == learned else NAMED.get(n) or next(spare)
        lost = {how: (~np.isfinite(curves[c])).any(1) for how, c in (("", n), ("dashed ", f"{n}@sum")) if c in curves}
        note = ", ".join(f"{how}{seeds_lost.sum()}/{len(seeds_lost)}" for how, seeds_lost in lost.items() if seeds_lost.any())
        text = f"{n} (diverged {note})" if note else n
        for c, shown, width in ((f"{n}@sum", None, 0.9), (n, text, 2.6 if n == learned else 1.4)):
            if c in curves:
                x = np.arange(curves[c].shape[1]) * per_step * scale
                lines.append(Line(shown, colour, width, x, curves[c], dashed=shown is None))
    title = f"{label}: {steps:,} steps, {seeds} seed{'s' * (seeds != 1)}"
    against = f"wall-clock time of one optimizee alone (step × median time of a step, {unit})" if seconds else "optimizee steps"
    over = "one seed" if seeds == 1 else f"median and interquartile band over {seeds} seeds, the same for every optimizer"
    caption = f"{label}: loss f(θ) against {against}, logarithmic scale; {over}."
    if any(line.dashed for line in lines):
        caption += " Solid: learning rate tuned for the final loss; thin dashed: for the summed loss, where that rate differs."
    if learned in pace:
        caption += f" Thick: the learned optimizer ({learned})."
    if any("(diverged" in (line.label or "") for line in lines):
        caption += (
            " Diverged: seeds with a non-finite loss, ranked as infinitely large; medians that are not finite are missing."
        )
    along = f"wall-clock time ({unit})" if seconds else "optimizee steps"
    loss = f"loss f(θ), {summary.get('units') or ''}".strip(", ")
    apart = max(pace.values()) > 4 * min(pace.values())
    return Figure(name, title, caption, lambda: draw_lines(lines, title, along, loss, log_x=apart))


def training_figure(rows: list[dict[str, Any]]) -> Figure | None:
    """Meta-training: loss and validation loss against meta-steps, best validation and skipped updates; None without rows."""
    numbers = {k: [r for r in rows if isinstance(r.get(k), int | float)] for k in ("loss", "validation_loss", "skipped")}
    panels = [key for key in ("loss", "validation_loss") if numbers[key]]
    if not panels:
        return None
    valid = [r for r in numbers["validation_loss"] if math.isfinite(r["validation_loss"])]
    marked = [r for r in valid if r.get("best")]
    best = marked[-1] if marked else min(valid, key=lambda r: r["validation_loss"], default=None)
    skips = [r for r in numbers["skipped"] if r["skipped"] > 0]

    def draw() -> Any:
        from matplotlib.figure import Figure as Canvas

        figure = Canvas(figsize=(6.4, 1.2 + 1.6 * len(panels)), layout="constrained")
        for ax, key in zip(figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0], panels, strict=True):
            x, y = np.asarray([(r["step"], r[key]) for r in numbers[key]], float).T
            y, half = np.where(np.isfinite(y), y, np.nan), len(y) // 60
            colour, many = (NAMED["nag"], half > 0) if key == "loss" else (LEARNED, False)
            ax.plot(x, y, color=colour, linewidth=0.7 if many else 1.6, alpha=0.45 if many else 1)
            if many:
                ax.plot(x, [np.median(y[max(0, i - half) : i + half + 1]) for i in range(len(y))], color=colour, linewidth=1.8)
            if np.nanmin(y, initial=np.inf) > 0 and np.isfinite(y).any():
                ax.set_yscale("log")
                _log(ax.yaxis, *ax.get_ylim())
            ax.set(ylabel=key.replace("_", " ") if key != "loss" else "training loss")
            if key == "loss" and skips:
                ax.plot([r["step"] for r in skips], [0.04] * len(skips), "|", color=LEARNED, transform=ax.get_xaxis_transform())
            if key == "validation_loss" and best:
                ax.plot(best["step"], best[key], "o", color=INK, markersize=5, zorder=5)
                text = f"best: {best[key]:.4g} at meta-step {best['step']:,}"
                ax.text(0.99, 0.95, text, ha="right", va="top", transform=ax.transAxes)
        ax.set(xlabel="meta-steps")
        figure.axes[0].set(title="Meta-training")
        return figure

    caption = "Meta-training: loss and validation loss against meta-steps. The two may sum over different numbers of steps: "
    caption += "compare their shapes, not their levels. Where rows are many, the thick line is their running median."
    caption += " Dot: the best validation loss, whose optimizer is the one kept." if best else ""
    skipped = sum(r["skipped"] for r in skips)
    caption += f" Ticks at the bottom: updates skipped for a non-finite gradient, {skipped}." if skips else ""
    return Figure("meta_training", "Meta-training", caption, draw)


def save(figure: Figure, directory: Path | None = None) -> str:
    """SVG text, the same for the same data; into a directory also `<name>.svg` and `<name>.png` (150 dpi). Raises RunError."""
    import matplotlib

    svg, png = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": figure.name}):
        drawn = figure.draw()
        drawn.savefig(svg, format="svg", metadata={"Date": None})
        if directory:
            drawn.savefig(png, format="png", dpi=150)
    if directory:
        with faults(directory):
            directory.mkdir(parents=True, exist_ok=True)
        for kind, content in {"svg": svg, "png": png}.items():
            with replacing(directory / f"{figure.name}.{kind}") as file:
                file.write(content.getvalue())
    return svg.getvalue().decode()
