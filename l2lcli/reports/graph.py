"""The picture of a computation: a page or an SVG file of the graphs that `evaluation.graph` makes. Loads no JAX."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from l2lcli.evaluation.graph import Edge, Graph, Node
from l2lcli.reports.html import html_table, page
from l2lcli.reports.layered import Box, Layout, Route, layout
from l2lcli.runs.files import replacing

WIDE = 0.62  # of a character, at most, in heights of the letter: texts in capitals alone are wider
NAME, SMALL = 13, 11  # heights of letters
# Okabe and Ito's: what is learned is orange in every figure of this project.
COLOURS = {"optimizer": "#d55e00", "f": "#0072b2", "gradient": "#009e73", "objective": "#cc79a7", "input": "#7a7f85"}
OF_F = ("minibatch", "learned start", "theta + update", "outer loss")
CSS = (
    ".graph{font-family:system-ui,sans-serif;--paper:#fff;--ink:#1f2328;--soft:#59636e}"
    "@media(prefers-color-scheme:dark){.graph{--paper:#16191d;--ink:#e6e8ea;--soft:#9aa4af}}"
    ".graph text{fill:var(--ink);text-anchor:middle}.graph .soft{fill:var(--soft)}"
    ".graph path{fill:none;stroke:var(--soft);stroke-width:1.2}.graph .dropped{stroke-dasharray:5 4}"
    ".graph polygon{fill:var(--soft)}"
)
OWN = "figure svg.graph{max-width:none;width:auto}figure{overflow-x:auto}summary{cursor:pointer}"


class Drawing(NamedTuple):
    """A graph, and what is said of it."""

    title: str
    said: str
    graph: Graph
    theta: tuple[tuple[int, ...], ...]  # the shapes of the optimizee's parameters

    @property
    def size(self) -> int:
        """N."""
        return sum(math.prod(shape) for shape in self.theta)


def write(path: Path, title: str, drawings: Sequence[Drawing]) -> None:
    """Write a page with the graphs and what their groups hold, or, where the name ends so, an SVG. Raises RunError."""
    if path.suffix == ".svg":
        with replacing(path) as file:
            file.write(svg_file(drawings).encode())
        return
    body = [f"<h1>{escape(title)}</h1><style>{CSS}{OWN}</style>", f'<p class="soft">{escape(" ".join(legend(drawings)))}</p>']
    for drawing in drawings:
        width, height, content = _svg(drawing)
        head = f'<svg class="graph" role="img" aria-label="{escape(drawing.title)}" width="{width:.0f}" height="{height:.0f}"'
        body.append(f"<h2>{escape(drawing.title)}</h2>")
        body.append(f'<figure>{head} viewBox="0 0 {width:.0f} {height:.0f}">{content}</svg>')
        body.append(f"<figcaption>{escape(drawing.said)}</figcaption></figure>")
        body += [_details(node) for node in drawing.graph.nodes if node.primitives]
    page(path, title, body)


def legend(drawings: Sequence[Drawing]) -> list[str]:
    """What the signs mean, those that occur; a line each."""
    size, arrays = drawings[0].size, len(drawings[0].theta)
    lines = [f"N = {size:,}: the optimizee's parameters (theta)" + (f", in {arrays} arrays." if arrays > 1 else ".")]
    if any(edge.dropped for drawing in drawings for edge in drawing.graph.edges):
        lines.append("Dashed: the value goes through, its derivative does not (Andrychowicz et al. 2016, Figure 2).")
    return lines


def svg_file(drawings: Sequence[Drawing]) -> str:
    """All of them, one below the other, as a file of its own."""
    parts, top, width = [], 0.0, 0.0
    for drawing in drawings:
        wide, high, content = _svg(drawing)
        title = f'<text x="16" y="{top + 24:.0f}" style="text-anchor:start" font-weight="600">{escape(drawing.title)}</text>'
        parts.append(f'{title}<g transform="translate(0 {top + 28:.0f})">{content}</g>')
        top, width = top + 28 + high, max(width, wide, _wide(drawing.title, 16) + 32)
    for line in legend(drawings):
        top += 18
        width = max(width, _wide(line, SMALL) + 32)
        parts.append(
            f'<text class="soft" x="16" y="{top:.0f}" style="text-anchor:start" font-size="{SMALL}">{escape(line)}</text>'
        )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="graph" viewBox="0 0 {width:.0f} {top + 16:.0f}"'
    paper = '<rect width="100%" height="100%" fill="var(--paper)"/>'
    return f'{head} width="{width:.0f}" height="{top + 16:.0f}"><style>{CSS}</style>{paper}{"".join(parts)}</svg>\n'


def placed(drawing: Drawing) -> tuple[Layout, list[list[str]], list[str]]:
    """Where its nodes and edges are, with the lines of each node's text, and each edge's."""
    names = [[node.name, *_below(node)] for node in drawing.graph.nodes]
    sizes = [
        (max(_wide(lines[0], NAME), *(_wide(line, SMALL) for line in lines[1:]), 40) + 20, 14.0 + 16 * len(lines))
        for lines in names
    ]
    texts = [edge_text(drawing, edge) for edge in drawing.graph.edges]
    ends = [(edge.source, edge.target) for edge in drawing.graph.edges]
    return layout(sizes, ends, [(_wide(text, SMALL) + 4, 16.0) for text in texts]), names, texts


def _below(node: Node) -> list[str]:
    """The second line in a box."""
    count = sum(times for _, _, times in node.primitives)
    return [", ".join(filter(None, (node.step, f"{count} operations" if count > 1 else "")))] if count > 1 or node.step else []


def _wide(text: str, height: float) -> float:
    return WIDE * height * len(text)


def edge_text(drawing: Drawing, edge: Edge) -> str:
    """The shapes of what goes along: [N] for something like theta, or as many of the largest as there is room for."""
    shapes = [value.shape for value in edge.values]
    if sorted(shapes) == sorted(drawing.theta):
        return "[N]"
    counted = Counter(_shape(shape, drawing) for shape in sorted(shapes, key=math.prod, reverse=True))
    said = [shape if count == 1 else f"{count} × {shape}" for shape, count in counted.items()]
    return ", ".join(said[:2]) + (f", … {len(shapes)} arrays" if len(said) > 2 else "")


def _shape(shape: tuple[int, ...], drawing: Drawing) -> str:
    if not shape:
        return "()"
    return f"[{', '.join('N' if length == drawing.size and length > 1 else str(length) for length in shape)}]"


def _svg(drawing: Drawing) -> tuple[float, float, str]:
    """(width, height, what is in the svg element)."""
    found, names, texts = placed(drawing)
    parts = [
        _edge(route, text, edge.dropped) for route, text, edge in zip(found.routes, texts, drawing.graph.edges, strict=True)
    ]
    parts += [_node(box, lines, node) for box, lines, node in zip(found.nodes, names, drawing.graph.nodes, strict=True)]
    return found.width, found.height, "".join(parts)


def colour(node: Node) -> str:
    """Of a node's box, by its kind: what is in no other part belongs to the optimizer."""
    if node.kind in ("input", "output"):
        return COLOURS["input"]
    return COLOURS.get("f" if node.kind in OF_F else node.kind, COLOURS["optimizer"])


def _node(box: Box, lines: list[str], node: Node) -> str:
    at = f'x="{box.left:.1f}" y="{box.top:.1f}" width="{box.width:.1f}" height="{box.height:.1f}"'
    rx = 15 if node.kind in ("input", "output") else 4
    parts = [f'<rect {at} rx="{rx}" fill="{colour(node)}" fill-opacity=".14" stroke="{colour(node)}"/>']
    for i, line in enumerate(lines):
        look = f'font-size="{NAME}" font-weight="600"' if i == 0 else f'class="soft" font-size="{SMALL}"'
        parts.append(f'<text x="{box.middle:.1f}" y="{box.top + 20 + 16 * i:.1f}" {look}>{escape(line)}</text>')
    return "".join(parts)


def _edge(route: Route, text: str, dropped: bool) -> str:
    """Its line, which leaves its text out, an arrow head, and the text."""
    points = route.points
    path, (x, y) = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"], points[1]
    if points[0] != points[1]:
        path.append(f"V{y:.1f}")
    for (x, y), (to, down) in zip(points[1:-1:2], points[2:-1:2], strict=True):
        half = (y + down) / 2
        path.append(f"C{x:.1f} {half:.1f} {to:.1f} {half:.1f} {to:.1f} {down:.1f}")
        after = points[points.index((to, down)) + 1]
        path.append(f"{'M' if (to, down) == points[-4] else 'L'}{after[0]:.1f} {after[1]:.1f}")
    x, y = points[-1]
    head = f'<polygon points="{x - 4:.1f},{y - 7:.1f} {x + 4:.1f},{y - 7:.1f} {x:.1f},{y:.1f}"/>'
    line = f'<path class="dropped" d="{"".join(path)}"/>' if dropped else f'<path d="{"".join(path)}"/>'
    middle = route.text.top + route.text.height / 2 + 4
    return (
        f'{line}{head}<text class="soft" x="{route.text.middle:.1f}" y="{middle:.1f}" font-size="{SMALL}">{escape(text)}</text>'
    )


def _details(node: Node) -> str:
    """The operations of a group."""
    of = lambda value: f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    rows = [[name, of(value), str(count)] for name, value, count in node.primitives]
    count = sum(times for _, _, times in node.primitives)
    called = ", ".join(filter(None, (node.name, node.step)))
    table = html_table([["primitive", "makes", "times"], *rows])
    return f"<details><summary>{escape(called)}: {count} operation{'s' * (count > 1)}</summary>{table}</details>"
