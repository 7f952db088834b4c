"""How every figure of the project looks, and how one is saved. Matplotlib is imported where a figure is drawn; JAX never is."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from l2lcli.runs.files import faults, replacing

# Text and axes, grid, background; html.py re-colours them for dark screens.
INK, FAINT, PAPER = "#24292e", "#d9dcdf", "#fefefe"
LEARNED = "#d55e00"  # Okabe and Ito's colour-blind-safe palette; grey in place of its yellow, which white paper swallows
NAMED = {"sgd": "#7a7f85", "momentum": "#56b4e9", "nag": "#0072b2", "rmsprop": "#cc79a7", "adam": "#009e73"}
NAMED |= {"nag_cosine": "#003f6b", "adam_cosine": "#00543d"}
OTHERS = ("#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#7a7f85", "#8f6b4a", "#7b6bc4")
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
STYLE: Any = {
    **dict.fromkeys(INKED, INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), PAPER),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **{"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.titleweight": "bold", "legend.fontsize": 8},
    **{"axes.grid": True, "grid.color": FAINT, "grid.linewidth": 0.6, "svg.fonttype": "none"},
}


class Figure(NamedTuple):
    """A figure that a folder has the data for. `draw()` makes the matplotlib figure; it is called under `STYLE`.

    Where it is `arranged`, its axes are given their places; else they have them, and the page is cut to what is drawn.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[], Any]
    arranged: bool = False


def literal(text: str) -> str:
    """Text for matplotlib: a dollar sign begins no formula, a control character breaks no SVG."""
    return "".join(c if c.isprintable() else " " for c in text).replace("$", r"\$")


def log_ticks(axis: Any, low: float, high: float) -> None:
    """Logarithmic ticks that show a few plain numbers however narrow the range."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    decades = math.log10(high / low)
    locator = MaxNLocator(5) if decades < 0.7 else LogLocator(subs=(1,) if decades > 2.5 else (1, 2, 5))
    axis.set_major_locator(locator)
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}".replace("e-0", "e-").replace("e+0", "e")))
    axis.set_minor_formatter(NullFormatter())


def save(figure: Figure, directory: Path | None = None, kinds: tuple[str, ...] = ("svg", "png")) -> str:
    """SVG text, the same for the same data; into a directory also files `<name>.<kind>`. Raises RunError.

    PNG: 150 dpi, 128 colours, which is a third of the bytes. Empty text where "svg" is not among the kinds.
    """
    import matplotlib
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    made: dict[str, bytes] = {}
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": figure.name}):
        drawn = figure.draw()
        drawn.set_dpi(150)
        # Laid out once for all kinds: a figure with a layout of its own would be drawn twice more for each, and a little
        # differently every time.
        if figure.arranged:
            ConstrainedLayoutEngine().execute(drawn)
        box = None if figure.arranged else drawn.get_tightbbox().padded(0.1)
        for kind in kinds if directory else ("svg",):
            content = io.BytesIO()
            options = {"metadata": {"Date": None}} if kind == "svg" else {"dpi": "figure"}
            drawn.savefig(content, format=kind, bbox_inches=box, **options)
            made[kind] = content.getvalue() if kind == "svg" else _fewer_colours(content)
    if directory:
        with faults(directory):
            directory.mkdir(parents=True, exist_ok=True)
        for kind, data in made.items():
            with replacing(directory / f"{figure.name}.{kind}") as file:
                file.write(data)
    return made.get("svg", b"").decode()


def _fewer_colours(png: io.BytesIO) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.open(png).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(out, "PNG", optimize=True, dpi=(150, 150))
    return out.getvalue()
