"""From files, the files that they extend, and `--set`, to one tree. The only part of a configuration that reads a disk."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path as FilePath

from l2lcli.config.tree import merge, nest
from l2lcli.config.yaml_read import DEFAULT, Fault, Node, Place, parse, shown

MAX_BYTES = 1_000_000


def read(path: str | os.PathLike[str], overrides: Iterable[str]) -> tuple[Node | None, list[Fault], list[str]]:
    """The tree of a file, of those it extends and of `--set`; the faults of their text; the files, that one first.

    The tree is None if nothing can be said of the rest.
    """
    faults: list[Fault] = []
    trees, files = _chain(os.fspath(path), faults)
    changes = nest(settings(overrides, faults), Place(os.fspath(path), 1, 1), faults)
    if None in trees:
        return None, faults, files
    tree = merge(functools.reduce(merge, reversed(trees)), changes)
    tree.value.setdefault("name", Node(FilePath(path).stem, DEFAULT))
    return tree, faults, files


def _chain(path: str, faults: list[Fault]) -> tuple[list[Node | None], list[str]]:
    """The trees of a file, of the one it extends, and so on, up to a None where one cannot be had; and the files' names."""
    trees: list[Node | None] = []
    files: dict[str, str] = {}  # real path -> as written
    source, named = path, None  # where `extends` named it
    while True:
        try:
            data = _content(source)
        except ValueError as error:
            faults.append(Fault(named, f"extends: {source}: {error}") if named else Fault(Place(source, 1, 1), str(error)))
            return [*trees, None], list(files.values())
        if (real := os.path.realpath(source)) in files:
            faults.append(Fault(named, f"extends: a cycle: {' -> '.join([*files.values(), source])}"))
            return [*trees, None], list(files.values())
        files[real] = source
        tree = _mapping(data, source, faults)
        parent = tree and tree.value.pop("extends", None)
        if trees and tree:
            tree.value.pop("name", None)  # two experiments under one name would share a folder
        trees.append(tree)
        if parent is None:
            return trees, list(files.values())
        if not (isinstance(parent.value, str) and parent.value):
            faults.append(Fault(parent.place, f"extends: expected a file's name, got {shown(parent.value)}"))
            return [*trees, None], list(files.values())
        source, named = os.path.join(os.path.dirname(source), parent.value), parent.place


def _content(path: str) -> bytes:
    """The bytes of a file. Raises ValueError with the reason if it cannot be read or holds more than 1 MB."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ValueError(f"cannot be read: {getattr(error, 'strerror', None) or error}".lower()) from None
    if len(data) > MAX_BYTES:
        raise ValueError("is larger than 1 MB")
    return data


def _mapping(data: bytes, source: str, faults: list[Fault]) -> Node | None:
    tree, found = parse(data, source)
    faults += found
    if tree is None or isinstance(tree.value, dict):
        return tree
    faults.append(Fault(tree.place, f"expected keys with values at the top, got {shown(tree.value)}"))
    return None


def settings(overrides: Iterable[str], faults: list[Fault]) -> list[tuple[str, Node]]:
    """(dotted key, value) of each `a.b=v` that can be read."""
    changes = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            faults.append(Fault(Place(f"--set {text}"), "expected KEY=VALUE"))
            continue
        node, found = parse(value, f"--set {key}", located=False)
        faults += found
        if node is not None:
            changes.append((key, node))
    return changes
