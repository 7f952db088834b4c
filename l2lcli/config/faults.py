"""What is wrong with a plain mapping, as pydantic finds it and a reader understands it: one finding a fault, with hints."""

from __future__ import annotations

import difflib
import functools
import json
import operator
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from l2lcli.config.tree import find, trail
from l2lcli.config.yaml_read import DEFAULT, Fault, Node, Path, Place, shown

Model = TypeVar("Model", bound=BaseModel)

EXPECTED = {  # pydantic's types of error, less "_type" -> what should have stood there
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "model_attributes": "a mapping",
    "none": "null",
}
LIMITS = {"greater_than": "more than", "greater_than_equal": "at least", "less_than": "less than", "less_than_equal": "at most"}


class Finding(NamedTuple):
    """One thing that is wrong, by its path."""

    path: Path
    message: str
    also: tuple[Path, ...] = ()  # where the blame lies if `path` itself was left to its default
    unknown: bool = False  # a key that the model has not


def check(model: type[Model], value: dict[str, Any]) -> tuple[Model | None, list[Finding]]:
    """The instance that a plain mapping describes, or what is wrong with it. The mapping is repaired in place."""
    while True:
        try:  # as JSON: strict about types, yet a list is a tuple
            return model.model_validate_json(json.dumps(value)), []
        except ValidationError as error:
            errors = error.errors(include_url=False)
        repaired = [_repair(model, each, value) for each in errors]  # every one of them, not up to the first
        if not any(repaired):
            return None, _findings(model, errors, value)


def check_record(model: type[Model], value: dict[str, Any]) -> tuple[Model | None, list[Finding], list[Path]]:
    """The same of what another version wrote: keys that the model has not are taken out, and returned besides."""
    removed: list[Path] = []
    while True:
        found, findings = check(model, value)
        strange = [finding.path for finding in findings if finding.unknown]
        if not strange:
            return found, findings, removed
        for path in strange:
            holder = _holder(path, value)
            del holder[path[-1]]
        removed += strange


def locate(tree: Node, finding: Finding, prefix: str = "") -> Fault:
    """The fault of a finding: it points at the value, at what made it wrong, or at the innermost mapping around it."""
    exact = [find(tree, path) for path in (finding.path, *finding.also)]
    around = reversed(trail(tree, finding.path))
    places = [node.place for node in (*exact, *around) if node and node.place != DEFAULT]
    place = places[0] if places else tree.place
    dotted = ".".join(map(str, finding.path))
    said = not prefix and place == Place(f"--set {dotted}")
    return Fault(place, prefix + (finding.message if said or not dotted else f"{dotted}: {finding.message}"))


def suggest(name: Any, known: Sequence[str], *, all_known: bool = False) -> str:
    """The end of a message about an unknown name: the known one that it resembles, or else all of them."""
    close = difflib.get_close_matches(str(name), known, 1)
    if not close:
        return f"; known: {', '.join(known)}"
    return f"; did you mean {close[0]!r}?" + (f" Known: {', '.join(known)}" if all_known else "")


def _path(loc: Path, value: Any) -> Path:
    """A pydantic location without the union members' names that pydantic puts between the keys."""
    path: Path = ()
    tagged = False
    for step in loc:
        inside: Any = value
        if isinstance(value, dict) and step == value.get("kind") and not tagged:
            tagged = True
        elif (isinstance(value, dict) and step in value) or (isinstance(value, list) and isinstance(step, int)):
            path, value, tagged = (*path, step), inside[step], False
    return path


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The models, mappings and lists that an annotation allows."""
    if get_origin(annotation) in (dict, list) or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        yield annotation
    else:
        for argument in get_args(annotation):
            yield from _alternatives(argument)


def _at(alternative: Any, step: Any) -> Any:
    """The annotation of what stands at a key, or in a list."""
    if get_origin(alternative) in (dict, list):
        return get_args(alternative)[-1]
    return _own(alternative)[step].annotation if step in _own(alternative) else None


def _holder(path: Path, value: Any) -> Any:
    """The mapping or list that holds what is at the path."""
    return functools.reduce(operator.getitem, path[:-1], value)


def _fields(model: type[BaseModel], path: Path, value: Any) -> dict[str, Any]:
    """The fields that the mapping at `path` may have."""
    found: list[Any] = [model]
    for step in path:
        value = value[step]
        found = [new for old in found for new in _alternatives(_at(old, step))]
        kind = value.get("kind") if isinstance(value, dict) else None
        found = [m for m in found if "kind" in _own(m) and _own(m)["kind"].default == kind] or found
    return {name: field for each in found for name, field in _own(each).items()}


def _own(alternative: Any) -> dict[str, Any]:
    return {} if get_origin(alternative) in (dict, list) else alternative.model_fields


def _repair(model: type[BaseModel], error: Any, value: Any) -> bool:
    """Does in place what strict models leave to the reader: 1e3 for a whole number, and the kind that goes without saying."""
    path = _path(error["loc"], value)
    *above, last = path or ("",)
    holder = _holder(path, value)
    got: Any = error["input"]
    if error["type"] == "int_type" and isinstance(got, float) and got.is_integer() and abs(got) < 1e18:
        holder[last] = int(got)
        return True
    if error["type"] == "union_tag_not_found" and (field := _fields(model, tuple(above), value).get(str(last))):
        kind = getattr(field.get_default(call_default_factory=True), "kind", None)
        given: dict[str, Any] = error["input"]
        holder[last] = given | ({"kind": kind} if kind else {})
        return bool(kind)
    return False


def _findings(model: type[BaseModel], errors: list[Any], value: Any) -> list[Finding]:
    mistyped: dict[Path, list[Any]] = {}  # a value that may be of several types has an error for each
    found, paths = [], [_path(error["loc"], value) for error in errors]
    for error, path in zip(errors, paths, strict=True):
        if error["type"] == "literal_error" and any(len(p) > len(path) and p[: len(path)] == path for p in paths):
            continue  # a list that is no word either: what is wrong is further in
        if error["type"].removesuffix("_type") in EXPECTED:
            mistyped.setdefault(_path(error["loc"], value), []).append(error)
        else:
            found.append(_explain(model, error, value))
    elsewhere = [finding.path for finding in found]
    for path, those in mistyped.items():
        # An alternative that fits better than this one has a fault further in, or one about more than the type
        better = [other for other in (*mistyped, *elsewhere) if other[: len(path)] == path]
        if better == [path]:
            wanted = dict.fromkeys(EXPECTED[error["type"].removesuffix("_type")] for error in those)
            found.append(Finding(path, f"expected {' or '.join(wanted)}, got {shown(those[0]['input'])}"))
    return found


def _explain(model: type[BaseModel], error: Any, value: Any) -> Finding:
    path, kind, got, context = _path(error["loc"], value), error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        if path == ("extends",):  # a file's own has been read and is gone
            return Finding(path, "only a file can say this")
        known = [*_fields(model, path[:-1], value), *(["extends"] if len(path) == 1 else [])]
        return Finding(path, "unknown key" + suggest(path[-1], known), unknown=True)
    if kind == "missing":
        return Finding((*path, error["loc"][-1]), "must be given")
    if kind == "union_tag_not_found":
        return Finding((*path, "kind"), "must be given")
    if kind in ("union_tag_invalid", "literal_error"):
        known = context.get("expected_tags", context.get("expected")).replace(" or ", ", ").replace("'", "").split(", ")
        if kind == "union_tag_invalid":
            path, got = (*path, "kind"), got["kind"]
        unknown_kind = path[-1:] == ("kind",) and isinstance(got, str)
        what = f"unknown kind {shown(got)}" if unknown_kind else f"{shown(got)} is not allowed here"
        return Finding(path, what + suggest(got, known, all_known=True))
    if kind in LIMITS:
        return Finding(path, f"must be {LIMITS[kind]} {next(iter(context.values()))}, got {shown(got)}")
    if kind == "string_pattern_mismatch":
        return Finding(path, f"{shown(got)} does not match {context['pattern']}")
    if kind in ("too_long", "string_too_long"):
        return Finding(path, f"must have at most {context['max_length']} {'characters' if kind[0] == 's' else 'items'}")
    if kind in ("too_short", "string_too_short"):
        return Finding(path, "must not be empty")
    return Finding(path, str(context.get("error", error["msg"])))
