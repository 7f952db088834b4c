"""Places for the nodes of a graph without cycles, in rows from the top down, so that no two boxes and no texts overlap.

Sugiyama, Tagawa and Toda 1981: rows by the longest path, edges cut at every row that they pass, an order in each row by
the means of neighbours, then places. Every edge has its text in a row between those of its ends, as a box like any other, and
edges bend between rows alone: no line crosses a box or a text.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

GAP, ROWS = 16.0, 20.0  # between neighbours in a row, and between rows
PASSING = 6.0  # the width of an edge where it passes a row
SWEEPS = 24
STRAIGHT = 8.0  # how much more an edge that passes a row counts there than a box
PORTS = 18.0  # between edges that meet the same side of a box, at most


class Box(NamedTuple):
    """A rectangle."""

    left: float
    top: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """Of its width."""
        return self.left + self.width / 2

    @property
    def bottom(self) -> float:
        """Below its top."""
        return self.top + self.height


class Route(NamedTuple):
    """An edge, and where its text is.

    Points (x, y), two a row: a line joins those of a row, a curve those of one row and the next.
    """

    points: tuple[tuple[float, float], ...]
    text: Box


class Layout(NamedTuple):
    """Where everything is, in a page of that size."""

    width: float
    height: float
    nodes: tuple[Box, ...]
    routes: tuple[Route, ...]


class _Item(NamedTuple):
    """What has a place in a row: a node, an edge's text, or an edge that passes."""

    row: int
    width: float
    height: float


def layout(
    nodes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]], texts: Sequence[tuple[float, float]]
) -> Layout:
    """Place them.

    Args:
      nodes: (width, height) of each; in an order that edges go along.
      edges: (source, target) each.
      texts: (width, height) of what stands beside each edge.
    """
    rows = _rows(len(nodes), edges)
    items = [_Item(2 * rows[i], *size) for i, size in enumerate(nodes)]
    chains: list[list[int]] = []
    for (source, target), size in zip(edges, texts, strict=True):
        last = 2 * rows[target] - 1  # the text stands before the target: many edges may leave one node
        chain = [source]
        for row in range(2 * rows[source] + 1, last + 1):
            items.append(_Item(row, *(size if row == last else (PASSING, 0.0))))
            chain.append(len(items) - 1)
        chains.append([*chain, target])
    links = [link for chain in chains for link in itertools.pairwise(chain)]
    above: list[list[int]] = [[] for _ in items]
    below: list[list[int]] = [[] for _ in items]
    for upper, lower in links:
        below[upper].append(lower)
        above[lower].append(upper)
    order = _ordered(items, above, below, links)
    return _routed(items, _placed(items, order, above, below), len(nodes), chains)


def _rows(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The longest path from above; what nothing leads to stands right above the first that it leads to."""
    rows = [0] * count
    for source, target in sorted(edges, key=lambda edge: edge[1]):
        rows[target] = max(rows[target], rows[source] + 1)
    led = {target for _, target in edges}
    for node in set(range(count)) - led:
        rows[node] = min((rows[target] - 1 for source, target in edges if source == node), default=0)
    return rows


def _ordered(
    items: list[_Item], above: list[list[int]], below: list[list[int]], links: list[tuple[int, int]]
) -> list[list[int]]:
    """The order in each row, with few crossings."""
    order: list[list[int]] = [[] for _ in range(max((item.row for item in items), default=0) + 1)]
    for i, item in enumerate(items):
        order[item.row].append(i)
    best, fewest = order, _crossings(items, order, links)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        order = [list(row) for row in order]
        at = {i: k / max(len(row), 1) for row in order for k, i in enumerate(row)}
        for row in order if down else order[::-1]:
            toward = above if down else below
            mean = {i: sum(at[j] for j in toward[i]) / len(toward[i]) if toward[i] else at[i] for i in row}
            row.sort(key=lambda i, mean=mean: mean[i])
            at.update({i: k / len(row) for k, i in enumerate(row)})
        crossings = _crossings(items, order, links)
        if crossings < fewest:
            best, fewest = order, crossings
    return best


def _crossings(items: list[_Item], order: list[list[int]], links: list[tuple[int, int]]) -> int:
    at = {i: k for row in order for k, i in enumerate(row)}
    of_row: dict[int, list[tuple[int, int]]] = {}
    for upper, lower in links:
        of_row.setdefault(items[upper].row, []).append((at[upper], at[lower]))
    pairs = (pair for row in of_row.values() for pair in itertools.combinations(row, 2))
    return sum((a[0] - b[0]) * (a[1] - b[1]) < 0 for a, b in pairs)


def _placed(items: list[_Item], order: list[list[int]], above: list[list[int]], below: list[list[int]]) -> list[float]:
    """The middle of each item: near its neighbours' mean, in the order of its row."""
    x = [0.0] * len(items)
    for row in order:
        _spread(items, row, dict.fromkeys(row, 0.0), x)
    for sweep in range(2 * SWEEPS):
        for row in order if sweep % 2 == 0 else order[::-1]:
            near = {i: [*above[i], *below[i]] if sweep >= SWEEPS else (above, below)[sweep % 2][i] for i in row}
            _spread(items, row, {i: sum(x[j] for j in near[i]) / len(near[i]) if near[i] else x[i] for i in row}, x)
    return x


def _spread(items: list[_Item], row: list[int], wanted: dict[int, float], x: list[float]) -> None:
    """Set the row's places: as near to what is wanted, by squares, as the widths allow (pooling of adjacent violators)."""
    offsets, end = {}, 0.0
    for i in row:
        offsets[i] = end + items[i].width / 2
        end += items[i].width + GAP
    blocks: list[list[float]] = []  # (sum of what its members want of their common shift, with their weights, and of these)
    counts: list[int] = []
    for i in row:
        weight = STRAIGHT if items[i].width == PASSING else 1.0
        blocks.append([weight * (wanted[i] - offsets[i]), weight])
        counts.append(1)
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, weight = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += weight
            counts[-2:] = [counts[-2] + counts[-1]]
    shifts = [total / weight for (total, weight), count in zip(blocks, counts, strict=True) for _ in range(count)]
    for i, shift in zip(row, shifts, strict=True):
        x[i] = offsets[i] + shift


def _routed(items: list[_Item], x: list[float], nodes: int, chains: list[list[int]]) -> Layout:
    """Heights of the rows, and the edges' points."""
    heights = [0.0] * (max((item.row for item in items), default=0) + 1)
    for item in items:
        heights[item.row] = max(heights[item.row], item.height)
    tops = [GAP + sum(heights[:row]) + ROWS * row for row in range(len(heights))]
    left = min((x[i] - item.width / 2 for i, item in enumerate(items)), default=0.0) - GAP
    right = max((x[i] + item.width / 2 for i, item in enumerate(items)), default=0.0) + GAP

    def box(i: int) -> Box:
        item = items[i]
        spare = heights[item.row] - item.height
        return Box(x[i] - left - item.width / 2, tops[item.row] + spare / 2, item.width, item.height)

    boxes = [box(i) for i in range(len(items))]
    leaves = _ports(boxes, [(chain[0], chain[1], k) for k, chain in enumerate(chains)])
    enters = _ports(boxes, [(chain[-1], chain[-2], k) for k, chain in enumerate(chains)])
    routes = []
    for k, chain in enumerate(chains):
        points = [(leaves[k], boxes[chain[0]].bottom), (leaves[k], tops[items[chain[0]].row] + heights[items[chain[0]].row])]
        for i in chain[1:-1]:
            top = tops[items[i].row]
            points += [(boxes[i].middle, top), (boxes[i].middle, top + heights[items[i].row])]
        target = boxes[chain[-1]]
        points += [(enters[k], tops[items[chain[-1]].row]), (enters[k], target.top)]
        routes.append(Route(tuple(points), boxes[chain[-2]]))
    bottom = tops[-1] + heights[-1] + GAP if heights else 2 * GAP
    return Layout(right - left, bottom, tuple(boxes[:nodes]), tuple(routes))


def _ports(boxes: list[Box], meets: list[tuple[int, int, int]]) -> dict[int, float]:
    """Where along its box each edge begins or ends. meets: (the box, what comes next, the edge) each."""
    found = {}
    for node in {node for node, _, _ in meets}:
        edges = sorted((boxes[other].middle, k) for at, other, k in meets if at == node)
        apart = min(PORTS, (boxes[node].width - 16) / max(len(edges) - 1, 1))
        found |= {k: boxes[node].middle + (place - (len(edges) - 1) / 2) * apart for place, (_, k) in enumerate(edges)}
    return found
