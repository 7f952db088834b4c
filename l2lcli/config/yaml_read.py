"""YAML as everybody expects it: nothing is guessed, everything refused has a line and a column, and all faults come at once.

The text is read through PyYAML's events, never through its constructors, because those guess (`no`, `010`, `1:30`), let
the last of two equal keys win, expand aliases without limit and read `1e-3` as text. Here a plain scalar is null, a boolean,
a decimal number or text; what YAML 1.1 and 1.2 read differently is a fault that says how to write it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import yaml
from yaml.reader import Reader

MAX_DEPTH = 20
MAX_DIGITS = 20
MAX_KEY = 128  # characters; YAML itself stops at 1024, which escapes could otherwise reach

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
_REFUSED = [  # pattern, why; {0} is the scalar
    (r"(?i)yes|no|on|off", "{0} is ambiguous: write true or false, or quote it if it is text"),
    (r"[-+]?0[xXoObB]\w*", "{0} is ambiguous: write whole numbers in decimal, or quote it if it is text"),
    (r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?", "{0} is ambiguous (a number in base 60): quote it if it is text"),
    (r"(?=.*_)[-+]?(\.[0-9_]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9_]+)?", "{0}: write numbers without underscores"),
    (r"[-+]?0[0-9]+(\..*|[eE].*)?", "{0} is ambiguous (octal): drop the leading zero, or quote it if it is text"),
    (r"(?i)[-+]?\.(nan|inf)", "{0}: NaN and infinity are not allowed"),
]

Path: TypeAlias = tuple[str | int, ...]  # keys and list indices, from the top


class Place(NamedTuple):
    """Where something was written. Line 0: not in a file (`--set a.b`, or a default)."""

    source: str
    line: int = 0  # from 1
    column: int = 0  # from 1

    def __str__(self) -> str:
        """As compilers write it: source:line:column."""
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


DEFAULT = Place("default")


class Fault(NamedTuple):
    """One thing that is wrong, and where."""

    place: Place
    message: str

    def __str__(self) -> str:
        """Its line for the reader."""
        return f"{self.place}: {self.message}" if self.place != DEFAULT else self.message


class Node(NamedTuple):
    """A value and its place: its key's for an entry of a mapping, its own for an item of a list."""

    value: Any  # dict[str, Node], list[Node], or a scalar
    place: Place


class _StopReadingError(Exception):
    """Reading cannot go on; the fault is recorded already."""


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:56] + " ..."


def shown(value: Any) -> str:
    """A value as error messages show it: on one line, and short."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return _short(repr(value) if isinstance(value, str) else json.dumps(value))


def scalar(text: str) -> bool | int | float | str | None:
    """The value of a plain (unquoted) scalar. Raises ValueError, saying what to write instead, for an ambiguous one."""
    if (word := text.lower()) in _WORDS and text in (word, word.upper(), word.capitalize()):
        return _WORDS[word]
    for pattern, reason in _REFUSED:
        if re.fullmatch(pattern, text):
            raise ValueError(reason.format(_short(text)))
    if _INTEGER.fullmatch(text):
        if len(text.lstrip("+-")) > MAX_DIGITS:
            raise ValueError(f"a whole number of more than {MAX_DIGITS} digits")
        return int(text)
    if _FLOAT.fullmatch(text):
        if math.isinf(number := float(text)):
            raise ValueError(f"{_short(text)} is too large for a floating-point number")
        return number
    return text


class _Builder:
    """Events -> nodes. A node that is None was faulty; its fault is recorded, so nothing more is said about it."""

    def __init__(self, events: Iterator[yaml.Event], place: Callable[[Any], Place]):
        self.events, self.place, self.faults = events, place, []

    def fault(self, mark: Any, message: str) -> None:
        self.faults.append(Fault(self.place(mark), message))

    def document(self) -> Node | None:
        event = next(self.events)
        while isinstance(event, yaml.StreamStartEvent | yaml.DocumentStartEvent):
            event = next(self.events)
        if isinstance(event, yaml.StreamEndEvent) or (
            isinstance(event, yaml.ScalarEvent) and event.implicit[0] and not event.value
        ):
            self.fault(event.start_mark, "is empty")
            raise _StopReadingError
        node = self.node(event, 1, self.place(event.start_mark))
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                self.fault(event.start_mark, "a second document: write one document only")
                raise _StopReadingError
        return node

    def node(self, event: Any, depth: int, place: Place) -> Node | None:
        if isinstance(event, yaml.AliasEvent):
            return self.fault(event.start_mark, f"alias *{event.anchor}: anchors, aliases and merge keys are not allowed")
        if event.anchor is not None:
            self.fault(event.start_mark, f"anchor &{event.anchor}: anchors, aliases and merge keys are not allowed")
        if event.tag is not None:
            self.fault(event.start_mark, f"tag {event.tag}: tags are not allowed")
        if isinstance(event, yaml.ScalarEvent):
            value, sound = self.scalar(event)
        elif depth > MAX_DEPTH:
            self.fault(event.start_mark, f"nested deeper than {MAX_DEPTH}")
            raise _StopReadingError  # PyYAML's time grows with the square of the depth
        else:
            value, sound = (self.mapping if isinstance(event, yaml.MappingStartEvent) else self.sequence)(depth)
        return Node(value, place) if sound and event.tag is None else None

    def scalar(self, event: yaml.ScalarEvent) -> tuple[Any, bool]:
        if Reader.NON_PRINTABLE.search(event.value):
            return self.fault(event.start_mark, "text with a control character"), False
        try:
            return (event.value if event.style else scalar(event.value)), True
        except ValueError as error:
            return self.fault(event.start_mark, str(error)), False

    def sequence(self, depth: int) -> tuple[list[Node], bool]:
        items = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(event, depth + 1, self.place(event.start_mark)))
        return items, None not in items

    def mapping(self, depth: int) -> tuple[dict[str, Node], bool]:
        entries: dict[str, Node] = {}
        places: dict[str, Place] = {}  # of faulty entries too, so that their duplicates are found
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            place = self.place(event.start_mark)
            key = self.key(event, depth)
            value = self.node(next(self.events), depth + 1, place)
            if key in places:
                self.faults.append(Fault(place, f"duplicate key {shown(key)}; the first is at {places[key]}"))
                if key == "kind":
                    entries.pop(key, None)  # neither of the two can be trusted
            elif key is not None:
                places[key] = place
                entries |= {key: value} if value else {}
        return entries, ("kind" in entries) == ("kind" in places)  # with another kind, the other keys mean something else

    def key(self, event: Any, depth: int) -> str | None:
        if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and not event.style:
            return self.fault(event.start_mark, "merge key <<: anchors, aliases and merge keys are not allowed")
        node = self.node(event, depth + 1, self.place(event.start_mark))
        if node is not None and not isinstance(node.value, str):
            return self.fault(event.start_mark, f"a key must be text, got {shown(node.value)}; quote it if it is text")
        if node is not None and len(node.value) > MAX_KEY:
            return self.fault(event.start_mark, f"a key of more than {MAX_KEY} characters")
        return node and node.value


def parse(data: bytes | str, source: str, *, located: bool = True) -> tuple[Node | None, list[Fault]]:
    """The node of the one document in `data`, and every fault; the node is None if nothing can be said of the rest.

    Entries with a fault are left out of the node. `source` is the file, or with located=False what stands for the whole
    place (`--set a.b`).
    """

    def at(before: str) -> Place:
        return Place(source, before.count("\n") + 1, len(before) - before.rfind("\n")) if located else Place(source)

    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return None, [Fault(at(error.object[: error.start].decode("utf-8", "replace")), "not a text file in UTF-8")]
    if odd := Reader.NON_PRINTABLE.search(text):
        return None, [Fault(at(text[: odd.start()]), f"not a text file: control character U+{ord(odd[0]):04X}")]
    events = yaml.parse(text, Loader=yaml.SafeLoader)
    builder = _Builder(events, lambda mark: Place(source, mark.line + 1, mark.column + 1) if located else Place(source))
    try:
        return builder.document(), builder.faults
    except _StopReadingError:
        pass
    except yaml.MarkedYAMLError as error:
        while_ = f" ({error.context})" if error.context else ""
        builder.fault(error.problem_mark or error.context_mark, f"not valid YAML: {error.problem}{while_}")
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # PyYAML lets chr() and int() fail on a wild escape
        builder.faults.append(Fault(at(""), f"not valid YAML: {error}"))
    return None, builder.faults


def node(value: Any, place: Place, depth: int = 1) -> Node:
    """A Python value as a node, wholly at `place`. Raises ValueError for what no file could say."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, Mapping):
        if bad := [key for key in value if not isinstance(key, str) or len(key) > MAX_KEY or Reader.NON_PRINTABLE.search(key)]:
            raise ValueError(f"{bad[0]!r:.60} is not a key")
        return Node({key: node(item, place, depth + 1) for key, item in value.items()}, place)
    if isinstance(value, list | tuple):
        return Node([node(item, place, depth + 1) for item in value], place)
    if not (value is None or type(value) in (bool, int, float, str)):
        raise ValueError(f"a {type(value).__name__} cannot be written to a file")
    if isinstance(value, str) and Reader.NON_PRINTABLE.search(value):
        raise ValueError("text with a control character")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("NaN and infinity are not allowed")
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        raise ValueError(f"a whole number of more than {MAX_DIGITS} digits")
    return Node(value, place)


def unplaced(tree: Node) -> Any:
    """A node as a Python value, without places; new containers."""
    if isinstance(tree.value, dict):
        return {key: unplaced(item) for key, item in tree.value.items()}
    return [unplaced(item) for item in tree.value] if isinstance(tree.value, list) else tree.value
