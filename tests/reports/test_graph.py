"""A drawn graph can be read: no two boxes or texts overlap, edges join their boxes and cross none, names are only names."""

import itertools
import random
import re
from xml.etree import ElementTree

import pytest

from l2lcli.evaluation.graph import Edge, Graph, Node, Value
from l2lcli.reports import graph
from l2lcli.reports.graph import Drawing
from l2lcli.reports.layered import layout
from tests.support import Page

BIG = Value((7, 3), "float32")


def drawing(edges, nodes=4, names="<b>&"):
    kinds = ["input", *["optimizer"] * (nodes - 2), "output"]
    inside = lambda i: (("dot", BIG, i),) if 0 < i < nodes - 1 else ()
    made = tuple(Node(f"{names}{i}", kinds[i], primitives=inside(i)) for i in range(nodes))
    found = tuple(Edge(*ends, (BIG, Value((), "float32")), i == 0) for i, ends in enumerate(edges))
    return Drawing("What <it> is", "a & b", Graph(made, found), ((7, 3), (4,)))


def curve(points):
    """Points of an edge's line, as it is drawn."""
    (x, y), *rest = points
    yield x, y
    for k, (to, down) in enumerate(rest):
        half = (y + down) / 2
        for t in (i / 16 for i in range(1, 17)):
            straight = k % 2 == 0
            weights = (1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3
            at = (x + t * (to - x), y + t * (down - y))
            bent = (weights[0] + weights[1]) * x + (weights[2] + weights[3]) * to
            yield at if straight else (bent, weights[0] * y + (weights[1] + weights[2]) * half + weights[3] * down)
        x, y = to, down


def within(box, x, y):
    return box.left + 1e-6 < x < box.left + box.width - 1e-6 and box.top + 1e-6 < y < box.bottom - 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_boxes_and_texts_lie_apart_and_lines_touch_only_their_own(seed):
    draw = random.Random(seed)
    count = draw.randint(2, 25)
    edges = sorted({tuple(sorted(draw.sample(range(count), 2))) for _ in range(draw.randint(1, 2 * count))})
    sizes = [(draw.uniform(30, 160), draw.choice([30.0, 46.0])) for _ in range(count)]
    found = layout(sizes, edges, [(draw.uniform(5, 200), 16.0) for _ in edges])
    texts = [route.text for route in found.routes]
    for a, b in itertools.combinations([*found.nodes, *texts], 2):
        apart = a.left + a.width <= b.left or b.left + b.width <= a.left or a.bottom <= b.top or b.bottom <= a.top
        assert apart
    for box in (*found.nodes, *texts):
        assert 0 <= box.left <= box.left + box.width <= found.width and 0 <= box.top <= box.bottom <= found.height
    for (source, target), route in zip(edges, found.routes, strict=True):
        (x, y), (to, down) = route.points[0], route.points[-1]
        above, below = found.nodes[source], found.nodes[target]
        assert y == above.bottom < below.top == down
        assert above.left <= x <= above.left + above.width and below.left <= to <= below.left + below.width
        others = [box for box in (*found.nodes, *texts) if box is not route.text]
        assert not [at for at in curve(route.points) for box in others if within(box, *at)]


def test_a_picture_is_xml_its_texts_fit_and_what_is_dropped_is_dashed():
    made = drawing([(0, 1), (0, 2), (1, 2), (2, 3)])
    root = ElementTree.fromstring(graph.svg_file([made, made]))
    name = "{http://www.w3.org/2000/svg}"
    lines = [path.get("class") for path in root.iter(f"{name}path")]
    assert lines == ["dropped", None, None, None] * 2
    texts = [text.text for text in root.iter(f"{name}text")]
    assert texts.count("<b>&1") == 2 and texts.count("[7, 3], ()") == 8 and "What <it> is" in texts
    assert "N = 25: the optimizee's parameters (theta), in 2 arrays." in texts
    assert any("Dashed" in text for text in texts)
    assert "Dashed" not in graph.svg_file([drawing([])])
    found, names, said = graph.placed(made)
    for box, (first, *rest) in zip(found.nodes, names, strict=True):
        assert box.width >= max(0.6 * 13 * len(first), *(0.6 * 11 * len(line) for line in rest), 0)
        assert box.height >= 20 + 16 * len(rest)
    assert all(route.text.width >= 0.6 * 11 * len(text) for route, text in zip(found.routes, said, strict=True))


def test_the_page_is_whole_and_shows_what_is_in_each_group(tmp_path):
    path = tmp_path / "new" / "graph.html"
    graph.write(path, "a <title>", [drawing([(0, 1), (1, 2), (2, 3)])])
    text = path.read_text()
    seen = Page(text)
    assert not seen.tags & {"script", "link", "img", "iframe", "b"} and not re.search(r"https?://", text)
    assert seen.text.count("<b>&2: 2 operations") == 1 and "float32[7, 3]" in seen.text and text.count("<details>") == 2
    assert "prefers-color-scheme:dark" in text and 'class="dropped"' in text


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        ([(7, 3), (4,)], "[N]"),
        ([(20, 25), (20, 25)], "2 × [20, N]"),
        ([()], "()"),
        ([(3,), (9, 9), (2, 2), (1,)], "[9, 9], [2, 2], … 4 arrays"),
    ],
)
def test_shapes_are_said_in_few_words(shapes, text):
    assert graph.edge_text(drawing([]), Edge(0, 1, tuple(Value(shape, "float32") for shape in shapes), False)) == text
