"""What `--over` can say, the points it gives, and their names."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2lcli.config import axes


def one(text):
    faults = []
    (axis,) = axes.read([text], faults)
    assert not faults
    return axis


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("k=0..4", (0, 1, 2, 3, 4)),
        ("k=-2..0", (-2, -1, 0)),
        ("k=3..3", (3,)),
        ("k=8,20,32", (8, 20, 32)),
        ("k=0..1,7", (0, 1, 7)),
        ("k=1e-3, 0.5", (1e-3, 0.5)),
        ("k=adam,'a,b',null,true", ("adam", "a,b", None, True)),
        ("k=[8,20]", (8, 20)),
        ("k=[[20],[20,20]]", ([20], [20, 20])),
        ("k=[20],[20,20]", ([20], [20, 20])),
        ("k=[[20,20]]", ([20, 20],)),
        ("k={kind: sgd},{kind: adam, b: 1}", ({"kind": "sgd"}, {"kind": "adam", "b": 1})),
    ],
)
def test_values(text, values):
    axis = one(text)
    assert axis.values == values and [*map(type, axis.values)] == [*map(type, values)]
    assert not axis.drawn


def test_ranges_to_draw_from():
    assert one("a.b=log(1e-4, 1e-1)") == axes.Axis("a.b", (), 1e-4, 1e-1, True)
    assert one("k=uniform(-1,1)") == axes.Axis("k", (), -1.0, 1.0, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed", "--over seed: expected KEY=VALUES"),
        ("seed=", "--over seed: no values"),
        ("seed=4..0", "--over seed: 4..0 is empty: the lower end comes first"),
        ("seed=0..9999", "--over seed: 0..9999 has more than 2,000 values"),
        ("seed=1,1", "--over seed: 1 is there twice"),
        ("seed=0..2,1", "--over seed: 1 is there twice"),
        ("k=no,1", "--over k: no is ambiguous: write true or false, or quote it if it is text"),
        ("k=[1", "--over k: not valid YAML: expected ',' or ']', but got '<stream end>' (while parsing a flow sequence)"),
        ("k=log(0,1)", "--over k: log(0,1): expected two numbers, the lower one first and above 0"),
        ("k=uniform(2,1)", "--over k: uniform(2,1): expected two numbers, the lower one first"),
        ("k=uniform(a,1)", "--over k: uniform(a,1): expected two numbers, the lower one first"),
        ("a..b=1", "--over a..b: 'a..b' is not a dotted key"),
        ("name=x", "--over name: 'name' is the whole experiment's, and cannot be varied"),
    ],
)
def test_faults(text, message):
    faults = []
    assert axes.read([text], faults) == []
    assert [*map(str, faults)] == [message]


def test_a_key_is_given_once():
    faults = []
    axes.read(["seed=1", "seed=2"], faults)
    assert [*map(str, faults)] == ["--over seed: given twice: write all its values into one list"]


VALUES = st.lists(st.integers(-99, 99), min_size=1, max_size=5, unique=True)


@given(st.lists(VALUES, min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_the_grid_is_the_product(lists):
    of = [one(f"k{i}={','.join(map(str, values))}") for i, values in enumerate(lists)]
    assert [tuple(point.values()) for point in axes.grid(of)] == [*itertools.product(*lists)]


@given(st.lists(VALUES, min_size=1, max_size=3), st.integers(0, 2**31), st.data())
@settings(max_examples=50, deadline=None)
def test_a_sample_of_a_grid_is_different_points_of_it(lists, seed, data):
    of = [axes.Axis(f"k{i}", tuple(values)) for i, values in enumerate(lists)]
    count = data.draw(st.integers(1, axes.size(of)))
    drawn = [tuple(point.values()) for point in axes.sample(of, count, seed)]
    assert len(set(drawn)) == count and set(drawn) <= {*itertools.product(*lists)}
    assert drawn == [tuple(point.values()) for point in axes.sample(of, count, seed)]
    with pytest.raises(ValueError, match=f"{axes.size(of) + 1} points of a grid that has {axes.size(of)}"):
        axes.sample(of, axes.size(of) + 1, seed)


def test_draws_are_evenly_spread():
    of = [one("rate=log(1e-4,1e-1)"), one("scale=uniform(-1,3)"), one("seed=0..3")]
    points = axes.sample(of, 2000, 7)
    thirds = [sum(low <= math.log10(point["rate"]) < low + 1 for point in points) for low in (-4, -3, -2)]
    assert sum(thirds) == 2000 and max(thirds) - min(thirds) < 120  # 667 of each expected, their deviation 21
    assert abs(sum(point["scale"] for point in points) / 2000 - 1) < 0.1 and all(-1 <= point["scale"] <= 3 for point in points)
    assert all(420 < sum(point["seed"] == seed for point in points) < 580 for seed in range(4))
    assert axes.sample(of, 3, 7) == points[:3] and axes.sample(of, 3, 8) != points[:3]


def test_names_are_short_plain_and_unique():
    assert axes.names(axes.grid([one("seed=0,1"), one("optimizer.hidden=8")])) == ["seed=0,hidden=8", "seed=1,hidden=8"]
    both = axes.names([{"optimizer.hidden": 8, "problem.hidden": [20, 20], "seed": 1}])
    assert both == ["optimizer.hidden=8,problem.hidden=20-20,seed=1"]
    odd = [{"k": value} for value in ("a/b", "a b", "..", "", None, True, -1, 1e-5, "É", {"kind": "sgd"})]
    names = axes.names(odd, "digits")
    assert names[:2] == ["digits,k=a-b", "digits,k=a-b~2"] and names[6:8] == ["digits,k=-1", "digits,k=1e-05"]
    assert len({name.lower() for name in names}) == len(odd) and not any(set(name) & set("/\\ :\0'\"") for name in names)
    long = axes.names([{"k": "x" * 500}, {"k": "x" * 501}])
    assert len(set(long)) == 2 and all(len(name) <= axes.LONGEST for name in long)


def test_what_a_sample_draws_stays_the_same():
    """A sweep that is started again has the same points, in any version of Python: these numbers are pinned."""
    of = [one("rate=log(1e-4,1e-1)"), one("seed=0..4")]
    assert axes.sample(of, 2, 0) == [{"rate": 0.0341402, "seed": 3}, {"rate": 0.0018269, "seed": 1}]
