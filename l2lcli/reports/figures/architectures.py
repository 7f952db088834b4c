"""Final loss against the optimizee's width, a panel for each number of layers (Andrychowicz et al. 2016)."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from l2lcli.evaluation.summary import Entry, Summary
from l2lcli.reports.figures.drawing import INK, LEARNED, NAMED, OTHERS, Figure, literal, log_ticks

NAME = re.compile(r"([1-9]\d*)x([1-9]\d*)")  # a variant's name: layers x units


def architecture_figure(label: str, summary: Summary) -> Figure | None:
    """Mean final loss of every optimizer on the variants called `<layers>x<units>`; None where they are under three."""
    parts = {tuple(map(int, m.groups())): part for n, part in (summary.variants or {}).items() if (m := NAME.fullmatch(n))}
    if len(parts) < 3:
        return None
    learned = summary.learned
    names = sorted({name for part in parts.values() for name in part.optimizers}, key=lambda n: (n == learned, n))
    taken = {NAMED.get(name) for name in names}
    spare = iter([colour for colour in OTHERS if colour not in taken] * len(names))
    colours = {n: LEARNED if n == learned else NAMED.get(n) or next(spare) for n in names}
    depths = sorted({layers for layers, _ in parts})

    def draw() -> Any:
        from matplotlib.figure import Figure as Canvas

        figure = Canvas(figsize=(1.6 + 2.9 * len(depths), 3.4))
        axes = figure.subplots(1, len(depths), sharey=True, squeeze=False)[0]
        ends: list[float] = []
        for ax, depth in zip(axes, depths, strict=True):
            widths = sorted(units for layers, units in parts if layers == depth)
            for name in names:
                entries = [parts[depth, units].optimizers.get(name, Entry()) for units in widths]
                means = np.asarray([np.nan if entry.final is None else entry.final for entry in entries])
                spans = [entry.final_ci or (np.nan, np.nan) for entry in entries]
                width = 2.4 if name == learned else 1.3
                ax.plot(widths, means, "o-", color=colours[name], linewidth=width, markersize=1.5 * width, label=literal(name))
                ax.vlines(widths, *np.asarray(spans).T, color=colours[name], linewidth=0.8)
                ends += [*means[np.isfinite(means)]]
            ax.set(xlabel="units per layer", title=f"{depth} hidden layer{'s' * (depth > 1)}", xticks=widths)
        if ends and min(ends) > 0:
            low, high = min(ends) / 1.25, min(max(ends), 20 * min(ends)) * 1.25
            axes[0].set(yscale="log", ylim=(low, high))
            log_ticks(axes[0].yaxis, low, high)
        axes[0].set(ylabel="final loss f(θ)")
        handles, labels = axes[-1].get_legend_handles_labels()
        figure.legend(handles[::-1], labels[::-1], loc="outside right center", frameon=False, labelcolor=INK)
        return figure

    steps = next(iter(parts.values())).steps
    caption = f"{label}: mean loss after {steps:,} steps on networks of other widths and depths, with 95 % intervals; every "
    caption += "baseline's learning rate was tuned anew for each of them. A missing point diverged."
    return Figure("architectures", f"{label}: other architectures", caption, draw, arranged=True)
