"""The picture of an optimizer's gates, from a run directory's gates.csv alone. Loads no JAX."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from l2lcli.reports.figures.drawing import INK, OTHERS, Figure, literal
from l2lcli.runs.files import RunError, faults

FILE = "gates.csv"
COLUMNS = ["layer", "gate", "episode", "update", "mean", "low", "high"]
WIDEST = 6  # layers shown at most
SYMBOL = {"forget": "f: share of θ kept", "input": "i: learning rate"}

Gates = dict[str, dict[str, dict[int, np.ndarray]]]  # layer -> gate -> episode -> [updates, 4] of update, mean, low, high


def read(folder: Path) -> Gates:
    """The folder's gates; empty where it has none. Raises RunError at a damaged line."""
    path, found = folder / FILE, {}
    if not path.is_file():
        return {}
    with faults(path), path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                numbers = [int(row["update"]), *(float(row[key] or "nan") for key in ("mean", "low", "high"))]
                of_layer = found.setdefault(row["layer"], {})
                of_layer.setdefault(row["gate"], {}).setdefault(int(row["episode"]), []).append(numbers)
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise RunError(f"{path}:{reader.line_num}: damaged: expected columns {', '.join(COLUMNS)}") from error
    return {
        layer: {gate: {e: np.array(rows) for e, rows in of.items()} for gate, of in gates.items()}
        for layer, gates in found.items()
    }


def gate_figure(folder: Path, label: str) -> Figure | None:
    """Gates against updates: a row for each gate, a column for each layer; None where the folder has none."""
    found = read(folder)
    if not found:
        return None
    layers = list(found)
    if len(layers) > WIDEST:  # the first and the last ones
        layers = [*layers[: WIDEST // 2], *layers[-(WIDEST // 2) :]]
    names = list(found[layers[0]])
    episodes = len(found[layers[0]][names[0]])
    caption = f"{label}: the gates of θ ← f θ − i ∇f(θ) by layer, mean over the layer's parameters, {episodes} episodes;"
    caption += " band: 5 % to 95 % of the parameters of the first one."
    if len(layers) < len(found):
        caption += f" {len(found) - len(layers)} layers between these are left out."
    return Figure("gates", f"{label}: gates", caption, lambda: _draw(found, layers, names), arranged=True)


def _draw(found: Gates, layers: list[str], names: list[str]) -> Any:
    from matplotlib.figure import Figure as Canvas

    size = (max(4.0, 1.7 * len(layers) + 1.0), 1.9 * len(names) + 0.5)
    figure = Canvas(figsize=size)
    axes = figure.subplots(len(names), len(layers), squeeze=False, sharex=True, sharey="row")
    for row, gate in zip(axes, names, strict=True):
        for ax, layer in zip(row, layers, strict=True):
            ax.tick_params(labelsize=7)
            for episode, curve in sorted(found[layer].get(gate, {}).items()):
                colour = OTHERS[episode % len(OTHERS)]
                ax.plot(curve[:, 0], curve[:, 1], color=colour, linewidth=1.2)
                if episode == 0:
                    ax.fill_between(curve[:, 0], curve[:, 2], curve[:, 3], color=colour, alpha=0.15, linewidth=0)
        row[0].set_ylabel(SYMBOL.get(gate, literal(gate)))
    for ax, layer in zip(axes[0], layers, strict=True):
        ax.set_title(literal(layer), color=INK)
    for ax in axes[-1]:
        ax.set_xlabel("updates")
    return figure
