"""From files, the files that they extend, and `--set`, to one tree. The only part of a configuration that reads a disk."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path as FilePath
from typing import Any

from l2lcli import plugins
from l2lcli.config.tree import merge, nest
from l2lcli.config.yaml_read import DEFAULT, Fault, Node, Place, node, parse, shown

MAX_BYTES = 1_000_000
IMPORTS = "imports: "  # how the fault of an import begins


def read(
    source: str | os.PathLike[str] | Mapping[str, Any], overrides: Iterable[str], execute: bool = True
) -> tuple[Node | None, list[Fault], list[str]]:
    """The tree of a file or mapping, of those it extends and of `--set`; the faults of their text; the files, that one first.

    What they import is imported, unless `execute` is false, and listed in the tree by where it lies. The tree is None if
    nothing can be said of the rest.
    """
    faults: list[Fault] = []
    first = source if isinstance(source, Mapping) else os.fspath(source)
    trees, files, complete = _chain(first, faults)
    changes = nest(settings(overrides, faults), DEFAULT if isinstance(first, Mapping) else Place(first, 1, 1), faults)
    imports = []
    for tree, file in reversed([*zip(trees, files, strict=False)]):  # what is extended comes first
        imports += take_imports(tree, faults, os.path.dirname(file), execute)
    imports += take_imports(changes, faults, execute=execute)
    if not complete or any(fault.message.startswith(IMPORTS) for fault in faults):
        return None, faults, files  # of kinds that were to be imported nothing can be said
    tree = merge(functools.reduce(merge, reversed(trees)), changes)
    if isinstance(first, str):
        tree.value.setdefault("name", Node(FilePath(first).stem, DEFAULT))
    if imports:
        tree.value["imports"] = Node([*{each.value: each for each in imports}.values()], imports[0].place)
    return tree, faults, files


def read_alone(path: str, faults: list[Fault]) -> Node | None:
    """The mapping of one file, as it stands: nothing extended, nothing imported; None, and a fault, where it is none."""
    try:
        return _mapping(_content(path), path, faults)
    except ValueError as error:
        faults.append(Fault(Place(path, 1, 1), str(error)))
        return None


def take_imports(tree: Node, faults: list[Fault], folder: str = "", execute: bool = True) -> list[Node]:
    """Take `imports` out of a tree, import what it names, files relative to `folder`, and return their places.

    What is no list of texts stays in the tree, where the model says so.
    """
    listed = tree.value.get("imports")
    if listed is None or not isinstance(listed.value, list) or not all(isinstance(each.value, str) for each in listed.value):
        return []
    del tree.value["imports"]
    found = []
    for each in listed.value:
        file = plugins.is_file(each.value)
        name = os.path.normpath(os.path.join(folder, each.value)) if file else each.value
        try:
            if execute:
                plugins.take_file(name) if file else plugins.take_module(name)
            name = name if not file or plugins.is_file(name) else os.path.join(".", name)  # still a file's to who reads it next
            found.append(Node(name, each.place))
        except plugins.PluginError as error:
            faults.append(Fault(each.place, f"{IMPORTS}{error}"))
    return found


def _chain(first: str | Mapping[str, Any], faults: list[Fault]) -> tuple[list[Node], list[str], bool]:
    """The trees of a file or mapping, of the one it extends, and so on; the files' names; whether all of them could be had."""
    trees: list[Node] = []
    files: dict[str, str] = {}  # real path -> as written
    source = "" if isinstance(first, Mapping) else first
    named: Place | None = None  # where `extends` named it
    while True:
        try:
            data = first if isinstance(first, Mapping) and named is None else _content(source)
        except ValueError as error:
            faults.append(Fault(named, f"extends: {source}: {error}") if named else Fault(Place(source, 1, 1), str(error)))
            return trees, list(files.values()), False
        if named and os.path.realpath(source) in files:
            faults.append(Fault(named, f"extends: a cycle: {' -> '.join([*files.values(), source])}"))
            return trees, list(files.values()), False
        files[os.path.realpath(source)] = source
        tree = _mapping(data, source, faults)
        if tree is None:
            return trees, list(files.values()), False
        parent = tree.value.pop("extends", None)
        if trees:
            tree.value.pop("name", None)  # two experiments under one name would share a folder
        trees.append(tree)
        if parent is None:
            return trees, list(files.values()), True
        if not (isinstance(parent.value, str) and parent.value):
            faults.append(Fault(parent.place, f"extends: expected a file's name, got {shown(parent.value)}"))
            return trees, list(files.values()), False
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


def _mapping(data: bytes | Mapping[str, Any], source: str, faults: list[Fault]) -> Node | None:
    if isinstance(data, Mapping):
        try:
            return node(data, DEFAULT)
        except ValueError as error:
            faults.append(Fault(DEFAULT, str(error)))
            return None
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
        value_node, found = parse(value, f"--set {key}", located=False)
        faults += found
        if value_node is not None:
            changes.append((key, value_node))
    return changes
