"""The JSON schema of an experiment file as a page a person can read: a section for each mapping, an entry for each key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

Schema = dict[str, Any]


class Section(NamedTuple):
    """A heading of the page, and the definitions whose keys stand under it."""

    level: int
    title: str
    anchor: str
    names: tuple[str, ...] = ()  # of definitions with the same keys; none of a heading alone
    intro: str = ""


def page_of(schema: Schema) -> str:
    """Markdown for the whole schema."""
    return "\n".join(Reference(schema).lines())


class Reference:
    """One schema, and where each of its mappings is described."""

    def __init__(self, schema: Schema) -> None:
        """Takes what `l2lcli.config.schema()` returns."""
        self.defs: dict[str, Schema] = schema["$defs"] | {"": schema}
        self.families: dict[frozenset[str], str] = {}  # what a family's key can be -> anchor of its heading
        self.sections = [*self._sections()]
        self.anchors = {name: section.anchor for section in self.sections for name in section.names}

    def lines(self) -> Iterator[str]:
        """Section after section."""
        for section in self.sections:
            yield from ("", f"({section.anchor})=", f"{'#' * section.level} {section.title}", "")
            if section.names:
                whole = self.defs[section.names[0]]
                yield from (section.intro or _prose(self._description(section.names)), "")
                yield from self._entries(whole)
            else:
                yield from (section.intro, "")

    def _sections(self) -> Iterator[Section]:
        root = self.defs[""]["properties"]
        train = self.defs[_ref(root["train"])]["properties"]
        yield Section(2, "Top of the file", "config-top", ("",), "The keys that stand at the left margin.")
        yield Section(2, "`data`", "config-data", (_ref(root["data"]),))
        yield from self._family("problem", root["problem"], "What is optimized")
        yield from self._family("optimizer", root["optimizer"], "The learned optimizer")
        yield Section(2, "`train`", "config-train", (_ref(root["train"]),))
        for name, key in self._parts(_ref(root["train"]), self._names(train["estimator"])):
            yield Section(2, f"`train.{key}`", f"config-train-{key}".replace("_", "-"), (name,))
        yield from self._family("train.estimator", train["estimator"], "How the meta-gradient is estimated")
        yield Section(2, "`eval`", "config-eval", (_ref(root["eval"]),))

    def _family(self, key: str, property_: Schema, what: str) -> Iterator[Section]:
        """A family's heading, a section for each of its kinds, and one for each mapping that a kind has as a part."""
        anchor, names = f"config-{key.replace('.', '-')}", self._names(property_)
        self.families[frozenset(names)] = anchor
        said = f"{what}; `kind` says which. By default `kind: {property_['default']['kind']}`; a kind's other keys are its own."
        yield Section(2, f"`{key}`", anchor, intro=said)
        parts: dict[str, str] = {}
        for alike in self._alike(names):
            kinds = [self._kind(name) for name in alike]
            heading = ", ".join(f"`kind: {kind}`" for kind in kinds) if len(kinds) == 1 else ", ".join(f"`{k}`" for k in kinds)
            yield Section(3, heading, f"{anchor}-{kinds[0]}".replace("_", "-"), tuple(alike))
            parts |= {name: path for name, path in self._parts(alike[0], names) if name not in parts}
        for name, path in parts.items():
            kind = self._kind(name)
            title = f"`{path}`" + (f" of `kind: {kind}`" if kind else "")
            yield Section(3, title, re.sub(r"[^a-z0-9]+", "-", f"{anchor}-{path}-{kind or 'keys'}"), (name,))

    def _alike(self, names: list[str]) -> list[list[str]]:
        """Kinds that differ in nothing but their name, together."""
        groups: dict[str, list[str]] = {}
        for name in names:
            whole, kind = self.defs[name], str(self._kind(name))
            keys = {key: value for key, value in whole["properties"].items() if key != "kind"}
            said = re.sub(rf"^{kind}\b", "", whole.get("description", ""))
            groups.setdefault(json.dumps([keys, said], sort_keys=True), []).append(name)
        return [*groups.values()]

    def _description(self, names: tuple[str, ...]) -> str:
        said = self.defs[names[0]].get("description", "")
        return said if len(names) == 1 else re.sub(rf"^{self._kind(names[0])}\b", "Each of them is itself", said)

    def _parts(self, name: str, kinds: list[str], above: str = "") -> Iterator[tuple[str, str]]:
        """(definition, dotted key) of the mappings among a kind's values and below them, but for those that are kinds."""
        for key, property_ in self.defs[name].get("properties", {}).items():
            for part in self._names(property_):
                if part not in kinds and "properties" in self.defs[part]:
                    path = f"{above}{key}" + (".<name>" if "patternProperties" in property_ else "")
                    yield part, path
                    yield from self._parts(part, kinds, f"{path}.")

    def _names(self, schema: Schema) -> list[str]:
        """The definitions that a value can be, or that its entries can be."""
        if "$ref" in schema:
            return [_ref(schema)]
        inner = [*schema.get("oneOf", ()), *schema.get("anyOf", ()), *schema.get("patternProperties", {}).values()]
        inner += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
        return [name for part in inner for name in self._names(part)]

    def _kind(self, name: str) -> str | None:
        return self.defs[name].get("properties", {}).get("kind", {}).get("const")

    def _entries(self, whole: Schema) -> Iterator[str]:
        keys = {key: property_ for key, property_ in whole["properties"].items() if key != "kind"}
        if not keys:
            yield from ("It has no keys of its own.", "")
        for key, property_ in keys.items():
            said = property_.get("description") or self.defs[_ref(property_)].get("description", "")
            default = "required" if key in whole.get("required", ()) else _default(property_)
            yield f"**`{key}`** {'; '.join(filter(None, (self._type(property_), default)))}"
            yield f":   {' '.join(_prose(said).split())}"
            yield ""

    def _type(self, schema: Schema) -> str:
        """What a value may be, in words."""
        names = frozenset(self._names(schema))
        for family, anchor in self.families.items():
            if "oneOf" in schema and names <= family:
                but = ", ".join(f"`{self._kind(name)}`" for name in sorted(family - names))
                return f"[one of the kinds](#{anchor})" + (f" but {but}" if but else "")
        if "$ref" in schema:
            return self._link(_ref(schema))
        for several in ("oneOf", "anyOf"):
            if several in schema:
                return _or([self._type(part) for part in schema[several]])
        if "const" in schema or "enum" in schema:
            return _or([f"`{value}`" for value in schema.get("enum", [schema.get("const")])])
        match schema.get("type"):
            case "array":
                return f"list of {_plural(self._type(schema['items']))}{_sized(schema)}"
            case "object":
                inner = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
                of = next((part for part in inner if isinstance(part, dict)), {})
                return f"mapping of names to {_plural(self._type(of))}" if of else "mapping"
            case "integer" | "number" as kind:
                return f"{kind}{_bounds(schema)}"
            case "string":
                return "text"
            case "boolean":
                return "`true` or `false`"
            case "null":
                return "`null`"
        return "value"

    def _link(self, name: str) -> str:
        kind = self._kind(name)
        title = f"`kind: {kind}`" if kind else "mapping"
        return f"[{title}](#{self.anchors[name]})" if name in self.anchors else "value"


def _ref(schema: Schema) -> str:
    return schema["$ref"].rpartition("/")[2]


def _default(schema: Schema) -> str:
    value = schema.get("default")
    if isinstance(value, dict) and "kind" in value:
        return f"by default `kind: {value['kind']}`"
    if "default" not in schema or "$ref" in schema:
        return ""  # of a mapping: that of each of its keys
    return f"default `{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}`"


def _bounds(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" from {low:,} to {high:,}"
    said = [f"at least {low:,}"] if low is not None else []
    said += [f"above {schema['exclusiveMinimum']:,}"] if "exclusiveMinimum" in schema else []
    said += [f"at most {high:,}"] if high is not None else []
    said += [f"below {schema['exclusiveMaximum']:,}"] if "exclusiveMaximum" in schema else []
    return f" {' and '.join(said)}" if said else ""


def _sized(schema: Schema) -> str:
    low, high = schema.get("minItems"), schema.get("maxItems")
    if low and high:
        return f", {low} to {high:,} of them"
    return f", up to {high:,} of them" if high else f", {low} or more" if low else ""


def _plural(said: str) -> str:
    said = re.sub(r"^\[mapping\]", "[mappings]", said)
    return re.sub(r"^(integer|number|text|mapping|value)\b", r"\1s", said)


def _or(parts: list[str]) -> str:
    return ", ".join(parts[:-1]) + " or " + parts[-1] if len(parts) > 1 else parts[0]


def _prose(text: str) -> str:
    """A docstring as Markdown: what is not code is escaped, and paragraphs stay."""
    pieces = re.split(r"(`[^`]*`)", text.strip())
    return "".join(piece if piece.startswith("`") else re.sub(r"([*<>_\[\]|#\\])", r"\\\1", piece) for piece in pieces)
