"""Pictures of an update rule, from a run directory's inspection.npz alone. Loads no JAX."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from l2lcli.reports.figures.drawing import INK, LEARNED, NAMED, Figure, literal, log_ticks
from l2lcli.runs.artefact import read_artefact
from l2lcli.runs.files import RunError

FILE = "inspection.npz"


class Recorded(NamedTuple):
    """The file's content, checked.

    Attributes:
      arrays: see `inspection.Inspection`.
      optimizers: names, the learned one first.
      coordinates: [K] names.
    """

    arrays: dict[str, np.ndarray]
    optimizers: list[str]
    coordinates: list[str]

    def colour(self, name: str) -> str:
        """What the optimizer is drawn in."""
        return LEARNED if name == self.optimizers[0] else NAMED.get(name, INK)


def read(folder: Path) -> Recorded | None:
    """The folder's recorded updates; None where it has none. Raises RunError where they are damaged."""
    path = folder / FILE
    if not path.is_file():
        return None
    arrays, meta = read_artefact(path)
    optimizers, coordinates = (meta.get(key) for key in ("optimizers", "coordinates"))
    try:
        if not (isinstance(coordinates, list) and isinstance(optimizers, list)):
            raise TypeError
        steps, known = arrays["gradient"].shape
        shapes = {"update": (steps, known), "step_size": (steps, 5), "uphill": (steps,)}
        sound = (
            known == len(coordinates) and len(optimizers) > 0 and all(isinstance(n, str) for n in [*optimizers, *coordinates])
        )
        sound = sound and all(arrays[f"{kind}/{n}"].shape == shape for kind, shape in shapes.items() for n in optimizers)
        states = [array.shape for key, array in arrays.items() if key.startswith("state/")]
        sound = sound and all(len(shape) == 3 and (shape[0], shape[2]) == (steps, known) for shape in states)
        if "response/steps" in arrays:  # older files have none
            known = arrays["response/steps"].size, arrays["response/edges"].size - 1
            sound = sound and all(arrays[f"response/size/{n}"].shape == known for n in optimizers)
            sound = sound and all(arrays[f"response/opposed/{n}"].shape == known[:1] for n in optimizers[1:])
        if not sound:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise RunError(f"{path}: damaged: arrays or names are missing, or of another shape") from None
    return Recorded({key: array.astype(float) for key, array in arrays.items()}, optimizers, coordinates)


def planned(folder: Path, label: str) -> list[Figure]:
    """The figures that the folder has the data for. Raises RunError."""
    found = read(folder)
    if found is None:
        return []
    drawn = [_updates(found, label), _step_sizes(found, label)]
    if "response/steps" in found.arrays:
        drawn.append(_response(found, label))
    return [*drawn, _states(found, label)] if any(key.startswith("state/") for key in found.arrays) else drawn


def _grid(rows: int, columns: int, height: float, **shared: Any) -> tuple[Any, np.ndarray]:
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(2.6 * columns + 0.6, height * rows + 0.7))
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    for ax in axes.flat:
        ax.tick_params(labelsize=7)
    return figure, axes


def _updates(found: Recorded, label: str) -> Figure:
    others = ", ".join(found.optimizers[1:])
    title = f"{label}: updates against gradients"
    caption = f"Three coordinates of one optimizee, trained by {found.optimizers[0]}: those whose mean absolute gradient is the"
    caption += " greatest, and ranks at 90 % and 50 %. Above the gradient, in the middle the update"
    caption += f" ({others}: tuned for the final loss, and fed the same gradients)" if others else ""
    caption += ", below update against gradient, a point a step, faint at first and dark in the end."

    def draw() -> Any:
        figure, axes = _grid(3, len(found.coordinates), 1.5)
        gradient, steps = found.arrays["gradient"], np.arange(len(found.arrays["gradient"]))
        fade = 0.15 + 0.7 * steps / max(len(steps) - 1, 1)
        for k, name in enumerate(found.coordinates):
            top, middle, bottom = axes[:, k]
            top.plot(steps, gradient[:, k], color=INK, linewidth=0.9)
            top.set_title(literal(name), fontsize=8)
            for n in reversed(found.optimizers):
                update, width = found.arrays[f"update/{n}"][:, k], 1.5 if n == found.optimizers[0] else 1.0
                middle.plot(steps, update, color=found.colour(n), linewidth=width, label=literal(n))
                bottom.scatter(gradient[:, k], update, color=found.colour(n), s=7, alpha=fade, linewidth=0)
            for ax in (middle, bottom):
                ax.axhline(0, color=INK, linewidth=0.5)
            top.set_xlabel("step", fontsize=8)
            middle.set_xlabel("step", fontsize=8)
            bottom.set_xlabel("gradient", fontsize=8)
            bottom.locator_params(axis="x", nbins=4)
        for ax, text in zip(axes[:, 0], ("gradient", "update", "update"), strict=True):
            ax.set_ylabel(text)
        axes[1, 0].legend(fontsize=7, frameon=False, loc="best")
        figure.suptitle(literal(title), fontsize=10, fontweight="bold", x=0.01, ha="left")
        return figure

    return Figure("updates", title, caption, draw, arranged=True)


def _step_sizes(found: Recorded, label: str) -> Figure:
    title = f"{label}: effective step sizes"
    caption = "Distribution over all coordinates of |update / gradient|, the learning rate that a step amounts to: median, and"
    caption += (
        f" bands from 25 to 75 % and from 5 to 95 %, on the gradients met by {found.optimizers[0]}, logarithmic. Below, the"
    )
    caption += " share of coordinates that are moved uphill, with the sign of their gradient."

    def draw() -> Any:
        figure, axes = _grid(2, len(found.optimizers), 1.7, sharex=True, sharey="row")
        shown = [found.arrays[f"step_size/{n}"] for n in found.optimizers]
        known = np.concatenate([sizes.ravel() for sizes in shown])
        known = known[np.isfinite(known) & (known > 0)]
        for k, (n, sizes) in enumerate(zip(found.optimizers, shown, strict=True)):
            top, bottom, steps = *axes[:, k], np.arange(len(sizes))
            for low, high, alpha in ((0, 4, 0.15), (1, 3, 0.3)):
                band = {"color": found.colour(n), "alpha": alpha, "linewidth": 0}
                top.fill_between(steps, sizes[:, low], sizes[:, high], **band)
            top.plot(steps, sizes[:, 2], color=found.colour(n), linewidth=1.5)
            top.set_title(literal(n), fontsize=8)
            bottom.plot(steps, found.arrays[f"uphill/{n}"], color=found.colour(n), linewidth=1.2)
            bottom.set(ylim=(-0.03, 1.03))
            bottom.set_xlabel("step", fontsize=8)
        if len(known):
            low, high = known.min() / 1.5, known.max() * 1.5
            axes[0, 0].set(yscale="log", ylim=(low, high))
            log_ticks(axes[0, 0].yaxis, low, high)
        axes[0, 0].set_ylabel("|update / gradient|", fontsize=8)
        axes[1, 0].set_ylabel("share uphill", fontsize=8)
        figure.suptitle(literal(title), fontsize=10, fontweight="bold", x=0.01, ha="left")
        return figure

    return Figure("step_sizes", title, caption, draw, arranged=True)


def _response(found: Recorded, label: str) -> Figure:
    title = f"{label}: updates by the size of gradients"
    learned, *others = found.optimizers
    caption = (
        f"Mean |update| of the coordinates whose |gradient| lies in a bin, early (bright) and late (dark) in a run by {learned}"
    )
    caption += f"; dashed {', '.join(others)} at the last of these steps, on the same gradients. On the right the share of"
    caption += f" coordinates that {learned} moves the other way." if others else "."
    caption = caption if others else caption.partition(";")[0] + "."

    def draw() -> Any:
        from matplotlib import colormaps

        figure, axes = _grid(1, 2, 2.6)
        left, right = axes[0]
        steps, edges = found.arrays["response/steps"], found.arrays["response/edges"]
        middles = 10 ** ((edges[1:] + edges[:-1]) / 2)
        for k, step in enumerate(steps):
            colour = colormaps["viridis"](0.9 - 0.85 * k / max(len(steps) - 1, 1))
            left.plot(middles, found.arrays[f"response/size/{learned}"][k], color=colour, linewidth=1.4, label=f"step {step:g}")
        for name in others:
            colour = found.colour(name)
            left.plot(middles, found.arrays[f"response/size/{name}"][-1], color=colour, linewidth=1, linestyle="--")
            right.plot(steps, found.arrays[f"response/opposed/{name}"], color=colour, linewidth=1.4, label=literal(name))
        left.set(xscale="log", yscale="log", xlabel="|gradient|", ylabel="mean |update|")
        left.legend(fontsize=6, frameon=False)
        right.set(xscale="log", ylim=(-0.03, 1.03), xlabel="step", ylabel="share moved the other way")
        if others:
            right.legend(fontsize=7, frameon=False)
        figure.suptitle(literal(title), fontsize=10, fontweight="bold", x=0.01, ha="left")
        return figure

    return Figure("response", title, caption, draw, arranged=True)


def _states(found: Recorded, label: str) -> Figure:
    title = f"{label}: states of {found.optimizers[0]}"
    caption = (
        f"The state of {found.optimizers[0]} for the same coordinates, a line a unit (the first 10 of each), over its steps."
    )
    held = {key.removeprefix("state/"): array for key, array in found.arrays.items() if key.startswith("state/")}

    def draw() -> Any:
        from matplotlib import colormaps

        figure, axes = _grid(len(held), len(found.coordinates), 1.25, sharex=True, sharey="row")
        for row, (leaf, array) in zip(axes, held.items(), strict=True):
            for k, ax in enumerate(row):
                for unit in range(array.shape[1]):
                    colour = colormaps["viridis"](0.05 + 0.85 * unit / max(array.shape[1] - 1, 1))
                    ax.plot(array[:, unit, k], color=colour, linewidth=0.7)
            row[0].set_ylabel(literal(leaf))
        for k, name in enumerate(found.coordinates):
            axes[0, k].set_title(literal(name), fontsize=8)
            axes[-1, k].set_xlabel("step", fontsize=8)
        figure.suptitle(literal(title), fontsize=10, fontweight="bold", x=0.01, ha="left")
        return figure

    return Figure("states", title, caption, draw, arranged=True)
