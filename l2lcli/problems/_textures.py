"""Textures that are computed: paintings for those who have none. Always the same ones.

A pattern has a scale in pixels, so that a larger texture shows more of it, and its upper left corner is the smaller one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

LARGEST = 512  # pixels a side
CELL = 11  # pixels between the cells' middles, about


def texture(name: str, size: int) -> np.ndarray:
    """One of `TEXTURES`, [size, size, 3] uint8."""
    import numpy as np

    y, x = np.mgrid[:size, :size].astype(float)
    # RandomState, not Generator: its stream is frozen, so a texture stays the same under every NumPy.
    colours = TEXTURES[name](x, y, np.random.RandomState(0))
    return np.round(255 * np.clip(colours, 0, 1)).astype(np.uint8)


def _waves(x: np.ndarray, y: np.ndarray, draw: np.random.RandomState) -> np.ndarray:
    """Bent stripes, from dark blue to yellow."""
    import numpy as np

    phase = 2 * np.pi * (0.06 * x + 0.09 * y) + 1.6 * np.sin(2 * np.pi * y / 37) + 1.1 * np.sin(2 * np.pi * x / 29)
    share = (0.5 + 0.5 * np.sin(phase))[..., None]
    return share * [0.96, 0.78, 0.25] + (1 - share) * [0.07, 0.17, 0.47]


def _cells(x: np.ndarray, y: np.ndarray, draw: np.random.RandomState) -> np.ndarray:
    """Cells of plain colours with dark edges between them (Worley 1996)."""
    import numpy as np

    count = LARGEST // CELL + 3
    middles = (np.mgrid[:count, :count].transpose(1, 2, 0) - 1 + draw.uniform(0.1, 0.9, (count, count, 2))) * CELL
    palette = draw.uniform(0.15, 0.95, (count, count, 3))
    row, column = (y // CELL).astype(int) + 1, (x // CELL).astype(int) + 1
    around = [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    distances = np.stack([np.hypot(*(np.stack([y, x]) - middles[at].transpose(2, 0, 1))) for at in around])
    first, second = np.sort(distances, 0)[:2]
    colours = np.stack([palette[at] for at in around])
    nearest = np.take_along_axis(colours, distances.argmin(0)[None, ..., None], 0)[0]
    return nearest * np.clip((second - first) / 2.5, 0, 1)[..., None]


def _marble(x: np.ndarray, y: np.ndarray, draw: np.random.RandomState) -> np.ndarray:
    """Veins along a sine that noise of several scales bends (Perlin 1985)."""
    import numpy as np

    noise = np.zeros_like(x)
    for octave in range(4):
        scale = 24 / 2**octave
        lattice = draw.uniform(-1, 1, (LARGEST * 2**octave // 24 + 2,) * 2)
        row, column = (y / scale).astype(int), (x / scale).astype(int)
        down, right = (t * t * (3 - 2 * t) for t in (y / scale - row, x / scale - column))
        above = (1 - right) * lattice[row, column] + right * lattice[row, column + 1]
        below = (1 - right) * lattice[row + 1, column] + right * lattice[row + 1, column + 1]
        noise += ((1 - down) * above + down * below) / 2**octave
    share = np.abs(np.sin(0.11 * (x + y) + 3.5 * noise))[..., None]
    return share * [0.94, 0.91, 0.86] + (1 - share) * [0.35, 0.12, 0.13]


TEXTURES: dict[str, Callable[..., np.ndarray]] = {"waves": _waves, "cells": _cells, "marble": _marble}
