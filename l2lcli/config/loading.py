"""Configurations: the ways to load, override, compare and write them. Loads no JAX.

    config = load("configs/digits.yaml", ["train.horizon=200"])

Everything wrong is reported at once, as ConfigError, one line a fault: `path:line:col: dotted.key: what is wrong`.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from l2lcli.config.baselines import hand_made
from l2lcli.config.faults import Finding, check, check_record, locate, suggest
from l2lcli.config.files import IMPORTS, read, settings, take_imports
from l2lcli.config.horizons import curriculum, drawn_horizons, listed_weights
from l2lcli.config.specs import Config, config_class
from l2lcli.config.tree import find, leaves, merge, nest, split
from l2lcli.config.yaml_read import DEFAULT, Fault, Node, node, shown, unplaced
from l2lcli.config.yaml_write import emit
from l2lcli.sinks import source as sinks

LONGEST = 300  # characters of a word in a message
RESERVED = ("latest", "reference", "evaluations", "scores")
EXTENDS = "Another file, relative to this one, whose keys this one adds to or replaces (all but its name)"


class ConfigError(ValueError):
    """A configuration that cannot be used. `faults` has one line for each thing that is wrong, and str() all of them."""

    def __init__(self, faults: Iterable[object]):
        """Takes one object a fault, whose str() is its line; equal ones count once."""
        self.faults = [_short(" ".join(str(fault).splitlines())) for fault in dict.fromkeys(faults)]
        super().__init__("\n".join(self.faults))


def _short(line: str) -> str:
    """The line without the middle of whatever is too long to read: what somebody wrote is quoted, not repeated."""
    return re.sub(rf"\S{{{LONGEST},}}", lambda word: f"{word[0][:80]}…{word[0][-40:]}", line)


def load(source: str | os.PathLike[str] | Mapping[str, Any], overrides: Iterable[str] = (), *, execute: bool = True) -> Config:
    """The config of a file, and of those it extends, under overrides `a.b=v` with v in YAML. Raises ConfigError.

    A mapping is taken as a file of the working directory that says the same. With `execute` false nothing is imported: what the
    imports register has to be there.

    A key's value is the last one of: the default, the file that `extends` names, the file, `--set`. Mappings merge, lists
    are replaced, and a new `kind` drops the other keys of its mapping.
    """
    return _settle(*read(source, overrides, execute))


def name_of(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> str | None:
    """The name of a file's experiment, nothing else of it looked at and nothing imported; None where it has none."""
    tree, _, _ = read(path, overrides, execute=False)
    found = None if tree is None else find(tree, ("name",))
    return found.value if found is not None and isinstance(found.value, str) else None


def values(config: Config) -> dict[str, Any]:
    """Dotted key -> value, for all that is no mapping itself, or an empty one."""
    return {".".join(map(str, path)): value for path, value in leaves(_dumped(config))}


def provenance(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> dict[str, str]:
    """Dotted key -> who set it, "file:line", "--set" or "default", for every value of the loaded config. Raises ConfigError."""
    tree, faults, files = read(path, overrides)
    origin = {}
    for keys, _ in leaves(_dumped(_settle(tree, faults, files))):
        node = tree and find(tree, keys)
        place = node.place if node else DEFAULT
        origin[".".join(map(str, keys))] = f"{place.source}:{place.line}" if place.line else place.source.split(" ")[0]
    return origin


def override(config: Config, changes: Mapping[str, Any], overrides: Iterable[str] = ()) -> Config:
    """The config with dotted keys set to other values, then those of `a.b=v`, by the rules of `load`. Raises ConfigError."""
    nodes: list[tuple[str, Node]] = []
    faults: list[Fault] = []
    for dotted, value in changes.items():
        try:
            nodes.append((dotted, node(value, DEFAULT)))
        except ValueError as error:
            faults.append(Fault(DEFAULT, f"{dotted}: {error}"))
    nodes += settings(overrides, faults)
    changed = nest(nodes, DEFAULT, faults)
    imports = [each.value for each in take_imports(changed, faults)]
    tree = merge(_node(config), changed)
    tree.value["imports"] = node([*dict.fromkeys([*config.imports, *imports])], DEFAULT)
    return _settle(None if any(fault.message.startswith(IMPORTS) for fault in faults) else tree, faults)


def variant(config: Config, name: str) -> Config:
    """The config under one of its variants; it has no variants itself. Raises ConfigError."""
    base, variants = split(_node(config))
    if name not in variants:
        raise ConfigError([f"unknown variant {shown(name)}{suggest(name, list(variants), all_known=True)}"])
    varied, faults = _vary(base, name, variants[name])
    if varied is None or faults:
        raise ConfigError(faults)
    return varied


def alone(config: Config) -> Config:
    """The config without its variants, which no override takes away."""
    return config.model_copy(update={"eval": config.eval.model_copy(update={"variants": {}})})


def from_record(record: Mapping[str, Any]) -> tuple[Config, list[str], list[str]]:
    """The config that a file of any version of l2l recorded, such as an artefact's.

    Returns:
      The config; the dotted keys that this version does not know, which are left out; those that the record has not, which
      take their defaults.

    Raises ConfigError where a value is none for this version.
    """
    value = copy.deepcopy(dict(record))
    config, findings, unknown = check_record(config_class(), value)
    if config is None:
        raise ConfigError(locate(node({}, DEFAULT), finding) for finding in findings)
    known = {".".join(map(str, path)) for path, _ in leaves(value)}
    missing = [key for key in values(config) if key not in known]
    return config, [".".join(map(str, path)) for path in unknown], missing


def dump(config: Config) -> str:
    """Complete YAML text, defaults included, from which `load` makes an equal config."""
    return emit(_dumped(config))


def schema() -> dict[str, Any]:
    """The JSON schema of a config file, for editors."""
    whole = config_class().model_json_schema()
    whole["properties"] = {"extends": {"type": "string", "description": EXTENDS}} | whole["properties"]
    return whole


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


ABSENT = _Absent()  # what `diff` gives where a config has no such key


def diff(a: Config, b: Config) -> list[tuple[str, Any, Any]]:
    """(dotted key, its value in a, in b) for each value that differs; ABSENT where one has no such key."""
    left, right = values(a), values(b)
    pairs = [(key, left.get(key, ABSENT), right.get(key, ABSENT)) for key in left | right]
    return [(key, x, y) for key, x, y in pairs if repr(x) != repr(y)]  # 1, 1.0 and True are equal, and three values


def _dumped(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _node(config: Config) -> Node:
    return node(_dumped(config), DEFAULT)


def _settle(tree: Node | None, faults: list[Fault], files: Sequence[str] = ()) -> Config:
    """The config of a tree that nothing is wrong with, its variants included; ConfigError if there are faults."""
    config: Config | None = None
    found: list[Fault] = []
    if tree is not None:
        thorough = not faults  # or else what its fault left out would be judged by its default
        config, findings = _check(tree, thorough)
        found += [locate(tree, finding) for finding in findings]
        base, variants = split(tree)
        if config is not None:
            base, _ = split(_node(config))
        for name, variant in variants.items():
            found += _vary(base, name, variant, findings, thorough)[1]
    if faults or found or config is None:
        rank = {file: i for i, file in enumerate(files)}  # faults that are in no file come last
        place = lambda fault: (rank.get(fault.place.source, len(rank)), fault.place[1:])
        ordered: list[Fault] = sorted([*faults, *found], key=place)
        raise ConfigError(ordered)
    return config


def _vary(
    base: Node, name: str, variant: Node, known: Iterable[Finding] = (), thorough: bool = True
) -> tuple[Config | None, list[Fault]]:
    """What `base`, which has no variants, is under one of them, and the faults that are not `known` as the base's own."""
    prefix = f"eval.variants.{name}: "
    faults: list[Fault] = []
    changes = nest(variant.value.items(), variant.place, faults, prefix)
    for kept in (("eval", "variants"), ("imports",)):
        if find(changes, kept):
            return None, [*faults, Fault(variant.place, f"{prefix}a variant cannot change {'.'.join(kept)}")]
    config, findings = _check(merge(base, changes), thorough)
    return config, faults + [locate(changes, finding, prefix) for finding in findings if finding not in known]


def _check(tree: Node, thorough: bool) -> tuple[Config | None, list[Finding]]:
    """The config of a tree, and what is wrong with it."""
    config, findings = check(config_class(), unplaced(tree))
    return config, list(_cross(config)) if config and thorough else findings


def _cross(config: Config) -> Iterator[Finding]:
    """What only several fields together show to be wrong, and names that are Optax's to know."""
    horizon, window = config.train.horizon, getattr(config.train.estimator, "window", None)
    at = ("train", "estimator", "window")
    if window and horizon % window:
        yield Finding(at, f"{window} does not divide the horizon {horizon}", (("train", "horizon"),))
    elif window and window != horizon and config.train.weights == "last":
        yield Finding(("train", "weights"), f"last needs window = horizon, but these are {window} and {horizon}", (at,))
    elif isinstance(config.train.weights, list):
        yield from listed_weights(config.train.weights, horizon, window or horizon)
    if config.train.curriculum is not None:
        yield from curriculum(config, config.train.curriculum, window or horizon)
    if config.train.imitation is not None and config.few_shot:
        yield Finding(("train", "imitation"), "not for few-shot problems, whose networks no hand-made optimizer trains alone")
    if config.eval.equal_time and config.few_shot:
        yield Finding(("eval", "equal_time"), "not for few-shot problems, which are judged by the number of updates")
    if config.train.horizons is not None:
        yield from drawn_horizons(config, window or horizon)
    if window and window != horizon and getattr(config.optimizer, "learn_start", False):
        message = f"a learned start needs window = horizon, but these are {window} and {horizon}"
        yield Finding(("optimizer", "learn_start"), message, (at, ("optimizer",)))
    for i, episode in enumerate(config.train.keep):
        if episode > config.train.episodes:
            fault = f"{episode} is after the last of the {config.train.episodes} episodes"
            yield Finding(("train", "keep", i), fault, (("train", "episodes"),))
    if config.name in RESERVED:
        yield Finding(("name",), f"{shown(config.name)} is a folder of its own in runs/: choose another name")
    known = list(sinks.known()) if config.sinks else []
    for i, name in enumerate(config.sinks):
        if name in config.sinks[:i]:
            yield Finding(("sinks", i), f"{shown(name)} is there twice")
        elif name not in known:
            yield Finding(("sinks", i), f"unknown sink {shown(name)}{suggest(name, known)}")
    if config.name in config.eval.variants:  # their curves would share a file
        yield Finding(("eval", "variants", config.name), "has the experiment's own name")
    yield from hand_made(config)
