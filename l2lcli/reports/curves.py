"""Loss curves as files: `curves/<name>.csv`, and `<name>.csv.xz`, thinned and packed, in a reference result. Loads no JAX."""

from __future__ import annotations

import csv
import io
import lzma
from pathlib import Path

import numpy as np

from l2lcli.evaluation.statistics import LAST
from l2lcli.runs.files import RunError, faults

COLUMNS = ["optimizer", "seed", "step", "loss"]
LARGEST = 20_000_000  # losses of one optimizer that a thinned file may stand for


def read(path: Path) -> dict[str, np.ndarray]:
    """Optimizer -> losses [S, T+1], of a .csv or a .csv.xz. Raises RunError at a damaged line.

    NaN where a seed's step is missing; steps that no seed has, as in a thinned file, are interpolated linearly.
    """
    rows: dict[str, list[tuple[int, int, float]]] = {}
    opened = lzma.open if path.suffix == ".xz" else open
    with faults(path), opened(path, "rt", newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                entry = (int(row["seed"]), int(row["step"]), float(row["loss"] or "nan"))
                rows.setdefault(row["optimizer"], []).append(entry)
        except (KeyError, TypeError, ValueError, csv.Error, lzma.LZMAError, EOFError) as error:
            raise RunError(f"{path}:{reader.line_num}: damaged: expected columns {', '.join(COLUMNS)}") from error
    curves = {}
    for name, entries in rows.items():
        seed, step, loss = (np.asarray(column) for column in zip(*entries, strict=True))
        seeds, index = np.unique(seed, return_inverse=True)
        # no array is made as large as a damaged number says
        if step.min() < 0 or len(seeds) * (int(step.max()) + 1) > max(LARGEST, 2 * len(entries)):
            raise RunError(f"{path}: damaged: {name!r} has {len(entries)} rows and steps {step.min()} to {step.max()}")
        losses = curves[name] = np.full((len(seeds), step.max() + 1), np.nan)
        losses[index, step] = loss
        if len(known := np.unique(step)) < losses.shape[1]:
            losses[:] = [np.interp(np.arange(losses.shape[1]), known, of_seed[known]) for of_seed in losses]
    return curves


def of(folder: Path, name: str) -> dict[str, np.ndarray]:
    """The folder's curves of that problem or variant, as `read`; none where it has no such file."""
    inside = Path(name).name == name  # a name with a slash in it leads nowhere
    paths = [folder / "curves" / f"{name}.csv{suffix}" for suffix in ("", ".xz")]
    return next((read(path) for path in paths if inside and path.is_file()), {})


def packed(curves: dict[str, np.ndarray], points: int) -> bytes:
    """A .csv.xz of curves at no more than so many evenly spaced steps and at the last ones, to four significant digits; at all
    steps where there are hardly more, so that sums are exact.

    Of a long run, whose axis is logarithmic, also at half as many whose logarithms are evenly spaced: else its first decades
    would be one straight line. The last steps are those that a final loss on minibatches is the mean of.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, losses in curves.items():
        last = losses.shape[1] - 1
        spaced = np.linspace(0, last, last + 1 if last <= 1.5 * points else points)
        early = np.geomspace(1, last, points // 2) if last > 20 * points else spaced[:0]
        ending = np.arange(max(0, last + 1 - LAST), last + 1)
        steps = np.unique(np.concatenate([spaced, early, ending]).round().astype(int)).tolist()
        writer.writerows((name, seed, step, f"{of[step]:.4g}") for seed, of in enumerate(losses) for step in steps)
    return lzma.compress(text.getvalue().encode(), preset=9)
