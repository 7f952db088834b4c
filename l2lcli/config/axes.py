"""What varies in a sweep: `--over KEY=VALUES` read, the grid or a sample of it, and the points' names. Pure."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from l2lcli.config.yaml_read import Fault, Node, Place, parse, scalar, shown, unplaced

MOST = 2000  # points of a sweep
LONGEST = 100  # characters of a point's name, which is a folder's
FIXED = ("name", "imports", "extends")  # of the whole experiment: no axis
_RANGE = re.compile(r"(-?[0-9]{1,15})\.\.(-?[0-9]{1,15})")
_DRAWN = re.compile(r"(log|uniform)\(([^,()]*),([^,()]*)\)")


class Axis(NamedTuple):
    """A key that varies.

    Attributes:
      key: dotted, as in `--set`.
      values: the values that it takes; none of a continuous axis.
      low, high: the ends of a continuous axis, from which values are drawn; None of any other.
      log: whether they are drawn evenly in the logarithm.
    """

    key: str
    values: tuple[Any, ...]
    low: float | None = None
    high: float | None = None
    log: bool = False

    @property
    def drawn(self) -> bool:
        """Whether it is continuous."""
        return self.low is not None

    def record(self) -> dict[str, Any]:
        """What sweep.json says of it."""
        return {"range": [self.low, self.high], "log": self.log} if self.drawn else {"values": list(self.values)}


def read(texts: Iterable[str], faults: list[Fault]) -> list[Axis]:
    """The axes of `KEY=VALUES`, each KEY once. What cannot be read is a fault."""
    axes: list[Axis] = []
    for text in texts:
        key, equals, values = text.partition("=")
        place = Place(f"--over {key}")
        if not equals:
            faults.append(Fault(Place(f"--over {text}"), "expected KEY=VALUES"))
        elif key in {axis.key for axis in axes}:
            faults.append(Fault(place, "given twice: write all its values into one list"))
        elif (axis := of(key, Node(values, place), faults)) is not None:
            axes.append(axis)
    return axes


def of(key: str, found: Node, faults: list[Fault]) -> Axis | None:
    """The axis of a key and its VALUES; None, and a fault, where they cannot be read.

    VALUES are `0..4` (both ends count), a list of YAML values with commas, in brackets or not, or, to be drawn from,
    `log(1e-4,1e-1)` and `uniform(0,1)`. A list among the values stands in brackets of its own: `[[20],[20,20]]`.
    """
    if key in FIXED or "" in key.split("."):
        what = "is the whole experiment's, and cannot be varied" if key in FIXED else "is not a dotted key"
        faults.append(Fault(found.place, f"{shown(key)} {what}"))
        return None
    if isinstance(found.value, str) and (drawn := _DRAWN.fullmatch(found.value.strip())):
        return _continuous(key, drawn, found.place, faults)
    listed = _listed(found, faults)
    if listed is None:
        return None
    values: list[Any] = []
    for each in listed:
        value = unplaced(each)
        if not (isinstance(value, str) and (ends := _RANGE.fullmatch(value))):
            values.append(value)
            continue
        first, last = int(ends[1]), int(ends[2])
        if not 0 <= last - first < MOST:
            what = "is empty: the lower end comes first" if last < first else f"has more than {MOST:,} values"
            faults.append(Fault(found.place, f"{value} {what}"))
            return None
        values += range(first, last + 1)
    if not values:
        faults.append(Fault(found.place, "no values"))
        return None
    if twice := [text for text, count in Counter(map(json.dumps, values)).items() if count > 1]:
        faults.append(Fault(found.place, f"{twice[0]} is there twice"))
        return None
    return Axis(key, tuple(values))


def _listed(found: Node, faults: list[Fault]) -> list[Node] | None:
    """The values of an axis, before `0..4` is written out."""
    if not isinstance(found.value, str):
        return found.value if isinstance(found.value, list) else [found]
    tree, wrong = parse(f"[{found.value}]", found.place.source, located=False)
    faults += [fault._replace(place=found.place) for fault in wrong]
    if tree is None or wrong:
        return None
    items = tree.value
    return items[0].value if len(items) == 1 and isinstance(items[0].value, list) else items


def _continuous(key: str, drawn: re.Match[str], place: Place, faults: list[Fault]) -> Axis | None:
    try:
        low, high = (scalar(drawn[i].strip()) for i in (2, 3))
    except ValueError as error:
        faults.append(Fault(place, str(error)))
        return None
    log = drawn[1] == "log"
    numbers = [end for end in (low, high) if isinstance(end, int | float) and not isinstance(end, bool)]
    if len(numbers) < 2 or numbers[0] >= numbers[1] or (log and numbers[0] <= 0):
        wanted = "two numbers, the lower one first" + (" and above 0" if log else "")
        faults.append(Fault(place, f"{drawn[0]}: expected {wanted}"))
        return None
    return Axis(key, (), float(numbers[0]), float(numbers[1]), log)


def size(axes: Iterable[Axis]) -> int:
    """How many points the grid of these axes has, none of which is continuous."""
    return math.prod(len(axis.values) for axis in axes)


def grid(axes: list[Axis]) -> list[dict[str, Any]]:
    """Every combination of the values; the last axis varies fastest."""
    return [_at(axes, index) for index in range(size(axes))]


def sample(axes: list[Axis], count: int, seed: int) -> list[dict[str, Any]]:
    """`count` points, drawn: different ones of the grid, or, with a continuous axis, every value on its own.

    Python's `random()` alone is drawn from, which gives the same numbers in every version. Raises ValueError where the grid has
    fewer points.
    """
    draw = random.Random(seed).random
    if any(axis.drawn for axis in axes):
        return [{axis.key: _drawn(axis, draw()) for axis in axes} for _ in range(count)]
    if count > (whole := size(axes)):
        raise ValueError(f"{count} points of a grid that has {whole}")
    indices: dict[int, None] = {}
    while len(indices) < count:
        indices[int(draw() * whole)] = None
    return [_at(axes, index) for index in indices]


def _drawn(axis: Axis, share: float) -> Any:
    if axis.low is None or axis.high is None:
        return axis.values[int(share * len(axis.values))]
    if axis.log:
        value = math.exp(math.log(axis.low) + share * (math.log(axis.high) - math.log(axis.low)))
    else:
        value = axis.low + share * (axis.high - axis.low)
    return float(f"{value:.6g}")  # what a name and a command line can say


def _at(axes: list[Axis], index: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for axis in reversed(axes):
        index, place = divmod(index, len(axis.values))
        values[axis.key] = axis.values[place]
    return {axis.key: values[axis.key] for axis in axes}


def overrides(values: Mapping[str, Any]) -> list[str]:
    """A point's values as `--set` would say them."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def short(keys: Iterable[str]) -> dict[str, str]:
    """What each key is called in names: its last part, or the whole of it where another key ends alike."""
    keys = list(keys)
    ends = Counter(key.rpartition(".")[2] for key in keys)
    return {key: end if ends[end := key.rpartition(".")[2]] == 1 else key for key in keys}


def names(points: list[dict[str, Any]], first: str = "") -> list[str]:
    """A name for each point, `seed=0,hidden=8`, after `first` where there is one: a folder's on any system, no two alike."""
    labels = short(points[0]) if points else {}
    taken: Counter[str] = Counter()
    found = []
    for values in points:
        parts = [*([first] if first else []), *(f"{labels[key]}={_word(value)}" for key, value in values.items())]
        name = ",".join(parts)
        if len(name) > LONGEST:
            name = f"{name[: LONGEST - 12]}~{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        taken[name.lower()] += 1
        found.append(name if taken[name.lower()] == 1 else f"{name}~{taken[name.lower()]}")
    return found


def _word(value: Any) -> str:
    """A value as a folder's name can say it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value)
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", text)
    return plain if isinstance(value, int) else plain.strip("-") or "-"
