"""Images that were optimizees, beside what was asked for, from a run directory's pictures/ alone. Loads no JAX."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from l2lcli.evaluation.summary import Part
from l2lcli.reports.figures.drawing import LEARNED, Figure, literal
from l2lcli.runs.artefact import read_artefact
from l2lcli.runs.files import RunError

GAP = 3  # pixels of an image of 64 between two images
WIDTH = 0.85  # inches of an image


class Pictured(NamedTuple):
    """The file's content, checked: see `evaluation.pictures.Gallery`."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]

    def first(self, tasks: int) -> Pictured:
        """The same of fewer tasks."""
        return self._replace(arrays={name: array[:tasks] for name, array in self.arrays.items()})


def place(name: str) -> str:
    """Where in a run directory the pictures of an experiment or a variant lie."""
    return f"pictures/{name}.npz"


def read(folder: Path, name: str) -> Pictured | None:
    """The folder's pictures of an experiment or a variant; None where it has none. Raises RunError where they are damaged."""
    path = folder / place(name)
    path = path if path.is_file() else path.with_name(f"{path.name}.xz")
    if Path(name).name != name or not path.is_file():  # a name with a slash in it leads nowhere
        return None
    arrays, meta = read_artefact(path)
    try:
        steps, given, optimizers = (list(meta[key]) for key in ("steps", "given", "optimizers"))
        tasks, height, width, _ = arrays[f"given/{given[0]}"].shape
        shapes = {f"given/{name}": (tasks, height, width, 3) for name in given}
        shapes |= {f"made/{name}": (tasks, len(steps), height, width, 3) for name in optimizers}
        sound = all(arrays[key].shape == shape and arrays[key].dtype == np.uint8 for key, shape in shapes.items())
        sound &= bool(tasks and height and width and steps and optimizers)
        if not (sound and all(isinstance(step, int) for step in steps)):
            raise ValueError
    except (KeyError, TypeError, ValueError, IndexError):
        raise RunError(f"{path}: damaged: images or names are missing, or of another shape") from None
    return Pictured(arrays, {"steps": steps, "given": given, "optimizers": optimizers})


def figure(folder: Path, name: str, label: str, part: Part, variant: str | None = None) -> Figure | None:
    """What was asked for, and the image by each optimizer after some steps, a row a step; None where there are no pictures."""
    found = read(folder, variant or part.problem)
    if found is None:
        return None
    steps, given = found.meta["steps"], found.meta["given"]
    known = found.meta["optimizers"]
    optimizers = [n for n in known if n == part.learned] + [n for n in known if n != part.learned]
    title = f"{label}: images"
    caption = f"{', '.join(given)}, and the image by each optimizer after {', '.join(map(str, steps))} steps, from the same"
    caption += " start; baselines that have a learning rate at one tuned for the final loss. The first optimizees that are"
    caption += " reported, not chosen by eye."

    def draw() -> Any:
        from matplotlib.figure import Figure as Canvas

        sheet, across, down = _sheet(found, optimizers)
        scale = WIDTH / found.arrays[f"given/{given[0]}"].shape[2]
        left, top = 0.35, 0.55
        size = (sheet.shape[1] * scale + left + 0.05, sheet.shape[0] * scale + top + 0.05)
        canvas = Canvas(figsize=size)
        ax = canvas.add_axes((left / size[0], 0.05 / size[1], 1 - (left + 0.05) / size[0], 1 - (top + 0.05) / size[1]))
        ax.imshow(sheet, interpolation="nearest", aspect="auto")
        ax.set_axis_off()
        for x, text in zip(across, [*given, *optimizers], strict=True):
            colour: Any = {"color": LEARNED, "fontweight": "bold"} if text == part.learned else {}
            ax.text(x, -0.06 / scale, literal(text), ha="center", va="bottom", fontsize=8, **colour)
        for i, y in enumerate(down):
            ax.text(-0.06 / scale, y, str(steps[i % len(steps)]), ha="right", va="center", fontsize=7)
        canvas.text(left / size[0], 1 - 0.06 / size[1], literal(title), fontsize=10, fontweight="bold", va="top")
        return canvas

    return Figure(name, title, caption, draw)


def _sheet(found: Pictured, optimizers: list[str]) -> tuple[np.ndarray, list[float], list[float]]:
    """All images on one, RGBA, nothing between them; the columns' middles, the rows' middles."""
    given = [found.arrays[f"given/{name}"] for name in found.meta["given"]]
    made = [found.arrays[f"made/{name}"] for name in optimizers]
    tasks, height, width, _ = given[0].shape
    rows, columns = len(found.meta["steps"]), len(given) + len(made)
    gap = max(1, round(GAP * width / 64))
    block = rows * (height + gap) + 2 * gap  # of a task; two gaps more before the next
    sheet = np.zeros((tasks * block - 3 * gap, columns * (width + gap) - gap, 4), np.uint8)

    def put(image: np.ndarray, y: int, x: int) -> None:
        sheet[y : y + height, x : x + width, :3] = image
        sheet[y : y + height, x : x + width, 3] = 255

    lefts, tops = [c * (width + gap) for c in range(columns)], []
    for task in range(tasks):
        for array, x in zip(given, lefts, strict=False):
            put(array[task], task * block, x)
        for row in range(rows):
            tops.append(task * block + row * (height + gap))
            for array, x in zip(made, lefts[len(given) :], strict=True):
                put(array[task, row], tops[-1], x)
    return sheet, [x + width / 2 for x in lefts], [y + height / 2 for y in tops]
