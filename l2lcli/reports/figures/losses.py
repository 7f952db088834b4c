"""The figures of losses and of meta-training, from a run directory's files alone."""

from __future__ import annotations

import math
from itertools import cycle
from typing import Any

import numpy as np

from l2lcli.evaluation.summary import Part
from l2lcli.reports import tables
from l2lcli.reports.figures.drawing import INK, LEARNED, NAMED, OTHERS, Figure, log_ticks
from l2lcli.reports.figures.lines import Line, draw_lines

SAME = "the same for every optimizer"  # of the seeds
LONG = 5000  # steps, from which on their axis is logarithmic: else all that happens early is one vertical line


def loss_figure(name: str, label: str, part: Part, curves: dict[str, np.ndarray], seconds: bool = False) -> Figure | None:
    """Loss of every optimizer against steps, or against wall-clock seconds; None where no curve can be drawn."""
    learned, steps, seeds = part.learned, part.steps, part.seeds
    known = {n: entry.seconds_per_step or 0.0 if seconds else 1.0 for n, entry in part.optimizers.items() if n in curves}
    order = sorted(known, key=lambda n: (n == learned, n))  # the learned one last, on top
    pace = {n: known[n] for n in order if known[n] > 0}
    if not pace:
        return None
    scale, unit = (1.0, "s")
    while seconds and max(pace.values()) * steps * scale < 1 and scale < 1e6:
        scale, unit = (scale * 1e3, "ms" if unit == "s" else "µs")
    taken, lines = {NAMED.get(n) for n in pace}, []
    spare = cycle([colour for colour in OTHERS if colour not in taken])
    for n, per_step in pace.items():
        colour = LEARNED if n == learned else NAMED.get(n) or next(spare)
        lost = {how: np.any(~np.isfinite(curves[c]), axis=1) for how, c in (("", n), ("dashed ", f"{n}@sum")) if c in curves}
        note = ", ".join(f"{how}{seeds_lost.sum()}/{len(seeds_lost)}" for how, seeds_lost in lost.items() if seeds_lost.any())
        text = f"{n} (diverged {note})" if note else n
        longer = f"{n}@time" if seconds and f"{n}@time" in curves else n
        for c, shown, width in ((f"{n}@sum", None, 0.9), (longer, text, 2.6 if n == learned else 1.4)):
            if c in curves:
                x = np.arange(curves[c].shape[1]) * per_step * scale
                lines.append(Line(shown, colour, width, x, curves[c], dashed=shown is None))
    title = f"{label}: {steps:,} steps, {seeds} seed{'s' * (seeds != 1)}"
    against = f"wall-clock time of one optimizee alone (step × median time of a step, {unit})" if seconds else "optimizee steps"
    over = "one seed" if seeds == 1 else f"median and interquartile band over {seeds} seeds, {SAME}"
    caption = f"{label}: loss f(θ) against {against}, logarithmic scale; {over}."
    if any(line.dashed for line in lines):
        caption += " Solid: learning rate tuned for the final loss; thin dashed: for the summed loss, where that rate differs."
    if learned in pace:
        caption += f" Thick: the learned optimizer ({learned})."
    if any("(diverged" in (line.label or "") for line in lines):
        caption += (
            " Diverged: seeds with a non-finite loss, ranked as infinitely large; medians that are not finite are missing."
        )
    pays, mark = part.pays if seconds else None, None
    if part.equal_time is None and pays and pays.step is not None and pays.seconds is not None:
        mark = (pays.seconds * scale, f"pays from step {pays.step}")
    if pays and part.equal_time is None:
        caption += f" {tables.clock(part)}; with more steps a baseline could go on. Means are compared, medians drawn."
    elif seconds and part.equal_time is not None:
        caption += f" Solid lines of baselines: at rates tuned for as many steps as fit. {tables.at_equal_time(part)}."
    along = f"wall-clock time ({unit})" if seconds else "optimizee steps"
    loss = f"loss f(θ), {part.units or ''}".strip(", ")
    apart = max(pace.values()) > 4 * min(pace.values()) or steps >= LONG
    return Figure(name, title, caption, lambda: draw_lines(lines, title, along, loss, log_x=apart, mark=mark))


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

        figure = Canvas(figsize=(6.4, 1.2 + 1.6 * len(panels)))
        column = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for ax, key in zip(column, panels, strict=True):
            x, y = np.asarray([(r["step"], r[key]) for r in numbers[key]], float).T
            y, half = np.where(np.isfinite(y), y, np.nan), len(y) // 60
            colour, many = (NAMED["nag"], half > 0) if key == "loss" else (LEARNED, False)
            # Of a curriculum, losses over different horizons are no one line.
            ends = [i for i in range(1, len(y)) if numbers[key][i].get("horizon") != numbers[key][i - 1].get("horizon")]
            parted = np.insert(x, ends, x[ends]), np.insert(y, ends, np.nan)
            ax.plot(*parted, color=colour, linewidth=0.7 if many else 1.6, alpha=0.45 if many else 1)
            if many:
                ax.plot(x, [np.median(y[max(0, i - half) : i + half + 1]) for i in range(len(y))], color=colour, linewidth=1.8)
            if np.nanmin(y, initial=np.inf) > 0 and np.isfinite(y).any():
                ax.set_yscale("log")
                log_ticks(ax.yaxis, *ax.get_ylim())
            ax.set(ylabel=key.replace("_", " ") if key != "loss" else "training loss")
            if key == "loss" and skips:
                ax.plot([r["step"] for r in skips], [0.04] * len(skips), "|", color=LEARNED, transform=ax.get_xaxis_transform())
            if key == "validation_loss" and best:
                ax.plot(best["step"], best[key], "o", color=INK, markersize=5, zorder=5)
                text = f"best: {best[key]:.4g} at meta-step {best['step']:,}"
                ax.text(1, 1.02, text, ha="right", va="bottom", transform=ax.transAxes)
        column[-1].set(xlabel="meta-steps")
        figure.axes[0].set(title="Meta-training")
        return figure

    caption = "Meta-training: loss and validation loss against meta-steps. The two may sum over different numbers of steps: "
    caption += "compare their shapes, not their levels. Where rows are many, the thick line is their running median."
    caption += " Validation of a curriculum is a line for each horizon." if any("horizon" in r for r in valid) else ""
    caption += " Dot: the best validation loss, whose optimizer is the one kept." if best else ""
    skipped = sum(r["skipped"] for r in skips)
    caption += f" Ticks at the bottom: updates skipped for a non-finite gradient, {skipped}." if skips else ""
    return Figure("meta_training", "Meta-training", caption, draw, arranged=True)
