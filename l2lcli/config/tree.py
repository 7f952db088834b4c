"""Configurations before they are checked: trees of nodes that know their places, and how one tree is laid over another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from l2lcli.config.specs import KINDS
from l2lcli.config.yaml_read import MAX_DEPTH, Fault, Node, Path, Place, shown

# Mappings whose keys are names that a user made up.
NAMED = (("problem", "members"), ("eval", "variants"), ("optimizer", "groups"), ("train", "meta_optimizer", "factors"))


def trail(tree: Node, path: Path) -> list[Node]:
    """The nodes from the top along the path, as far as it goes."""
    nodes = [tree]
    for step in path:
        value: Any = nodes[-1].value
        inside = step in value if isinstance(value, dict) else isinstance(value, list) and step in range(len(value))
        if not inside:
            break
        nodes.append(nodes[-1].value[step])
    return nodes


def find(tree: Node, path: Path) -> Node | None:
    """The node at the path; None if there is none."""
    nodes = trail(tree, path)
    return nodes[-1] if len(nodes) == len(path) + 1 else None


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """(path, value) for all in a plain mapping that is no mapping itself, or an empty one."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    else:
        yield path, value


def merge(parent: Node, child: Node, path: Path = ()) -> Node:
    """Mappings merge, all else is replaced; under another kind the parent's other keys mean nothing, and go.

    An empty mapping takes the place of one of `NAMED`: nothing else could say that none of the parent's is wanted.
    """
    if not (isinstance(parent.value, dict) and isinstance(child.value, dict)) or (path in NAMED and not child.value):
        return child
    old, new = parent.value, child.value
    if "kind" in new:
        before = old["kind"].value if "kind" in old else KINDS.get(path, new["kind"].value)
        if before != new["kind"].value:
            return child
    merged = {key: merge(old[key], item, (*path, key)) if key in old else item for key, item in new.items()}
    return Node(old | merged, child.place)


def nest(changes: Iterable[tuple[str, Node]], place: Place, faults: list[Fault], prefix: str = "") -> Node:
    """Dotted keys as one nested mapping, later ones laid over earlier ones."""
    tree = Node({}, place)
    for dotted, node in changes:
        parts = dotted.split(".")
        if "" in parts or len(parts) > MAX_DEPTH:
            faults.append(Fault(node.place, f"{prefix}{shown(dotted)} is not a dotted key"))
            continue
        if parts[:2] == ["eval", "variants"] and len(parts) > 4:
            parts[3:] = [".".join(parts[3:])]  # a variant's own keys are dotted
        for part in reversed(parts):
            node = Node({part: node}, node.place)
        # Not at the top: the default kinds are none here, as a change without a kind means the one that the file has
        tree = Node(merge(tree, node, ("",)).value, place)
    return tree


def split(tree: Node) -> tuple[Node, dict[str, Node]]:
    """A configuration without its variants, and those of them that are mappings."""
    variants = find(tree, ("eval", "variants"))
    if variants is None:
        return tree, {}
    evaluation = tree.value["eval"]
    rest = Node({key: item for key, item in evaluation.value.items() if key != "variants"}, evaluation.place)
    named = variants.value.items() if isinstance(variants.value, dict) else []
    sound = {name: variant for name, variant in named if isinstance(variant.value, dict)}
    return Node(tree.value | {"eval": rest}, tree.place), sound
