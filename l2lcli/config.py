"""Configurations: the ways to load, override, compare and write them. Loads no JAX.

    config = load("configs/digits.yaml", ["train.horizon=200"])

Everything wrong is reported at once, as ConfigError, one line a fault: `path:line:col: dotted.key: what is wrong`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from l2lcli import config_faults, config_files, config_tree, yaml_emit, yaml_strict
from l2lcli.config_faults import Finding
from l2lcli.config_specs import Config, config_class
from l2lcli.yaml_strict import DEFAULT, Fault, Node, plain, shown

COMMON = ("sgd", "momentum", "nag", "rmsprop", "adam", "adagrad", "adadelta")  # known without asking Optax, which loads JAX
EXTENDS = "Another file, relative to this one, whose keys this one adds to or replaces (all but its name)"


class ConfigError(ValueError):
    """A configuration that cannot be used. `faults` has one line for each thing that is wrong, and str() all of them."""

    def __init__(self, faults: Iterable[object]):
        """Takes one object a fault, whose str() is its line; equal ones count once."""
        self.faults = [" ".join(str(fault).splitlines()) for fault in dict.fromkeys(faults)]
        super().__init__("\n".join(self.faults))


def load(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Config:
    """The config of a file, and of those it extends, under overrides `a.b=v` with v in YAML. Raises ConfigError.

    A key's value is the last one of: the default, the file that `extends` names, the file, `--set`. Mappings merge, lists
    are replaced, and a new `kind` drops the other keys of its mapping.
    """
    return _settle(*config_files.read(path, overrides))


def provenance(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> dict[str, str]:
    """Dotted key -> who set it, "file:line", "--set" or "default", for every value of the loaded config. Raises ConfigError."""
    tree, faults, files = config_files.read(path, overrides)
    origin = {}
    for keys, _ in config_tree.leaves(_settle(tree, faults, files).model_dump(mode="json")):
        trail = config_tree.trail(tree, keys)
        place = trail[-1].place if len(trail) == len(keys) + 1 else DEFAULT
        origin[".".join(keys)] = f"{place.source}:{place.line}" if place.line else place.source.split(" ")[0]
    return origin


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """The config with dotted keys set to other values, by the rules of `load`. Raises ConfigError."""
    nodes, faults = [], []
    for dotted, value in changes.items():
        try:
            nodes.append((dotted, yaml_strict.node(value, DEFAULT)))
        except ValueError as error:
            faults.append(Fault(DEFAULT, f"{dotted}: {error}"))
    overlay = config_tree.nest(nodes, DEFAULT, faults)
    return _settle(config_tree.merge(_node(config), overlay), faults)


def variant(config: Config, name: str) -> Config:
    """The config under one of its variants; it has no variants itself. Raises ConfigError."""
    base, variants = config_tree.split(_node(config))
    if name not in variants:
        raise ConfigError([f"unknown variant {shown(name)}{config_faults.suggest(name, list(variants), all_known=True)}"])
    varied, faults = _vary(base, name, variants[name])
    if faults:
        raise ConfigError(faults)
    return varied


def dump(config: Config) -> str:
    """Complete YAML text, defaults included, from which `load` makes an equal config."""
    return yaml_emit.emit(config.model_dump(mode="json"))


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
    left, right = ({".".join(path): value for path, value in config_tree.leaves(c.model_dump(mode="json"))} for c in (a, b))
    pairs = [(key, left.get(key, ABSENT), right.get(key, ABSENT)) for key in left | right]
    return [(key, x, y) for key, x, y in pairs if repr(x) != repr(y)]  # 1, 1.0 and True are equal, and three values


def _node(config: Config) -> Node:
    return yaml_strict.node(config.model_dump(mode="json"), DEFAULT)


def _settle(tree: Node | None, faults: list[Fault], files: Sequence[str] = ()) -> Config:
    """The config of a tree that nothing is wrong with, its variants included; ConfigError if there are faults."""
    thorough = not faults  # or else what its fault left out would be judged by its default
    if tree is not None:
        config, findings = _check(plain(tree), thorough)
        faults = faults + [config_faults.locate(tree, finding) for finding in findings]
        base, variants = config_tree.split(tree)
        if config is not None:
            base, _ = config_tree.split(_node(config))
        for name, variant in variants.items():
            faults += _vary(base, name, variant, findings, thorough)[1]
    if faults or tree is None:
        rank = {file: i for i, file in enumerate(files)}
        raise ConfigError(sorted(faults, key=lambda f: (rank.get(f.place.source, len(rank)), f.place.line, f.place.column)))
    return config


def _vary(base: Node, name: str, variant: Node, known: Iterable[Finding] = (), thorough: bool = True) -> Any:
    """(config, faults) of a configuration without variants under one of its variants; `known` faults are the base's own."""
    prefix, faults = f"eval.variants.{name}: ", []
    changes = config_tree.nest(variant.value.items(), variant.place, faults, prefix)
    if len(config_tree.trail(changes, ("eval", "variants"))) > 2:
        return None, [*faults, Fault(variant.place, f"{prefix}a variant cannot change eval.variants")]
    config, findings = _check(plain(config_tree.merge(base, changes)), thorough)
    return config, faults + [config_faults.locate(changes, finding, prefix) for finding in findings if finding not in known]


def _check(value: Any, thorough: bool) -> tuple[Config | None, list[Finding]]:
    """The config of a plain mapping, which is repaired in place, or what is wrong with it."""
    while True:
        try:  # as JSON: strict about types, yet a list is a tuple
            config = config_class().model_validate_json(json.dumps(value))
        except ValidationError as error:
            errors = error.errors(include_url=False)
            repaired = [_repair(each, value) for each in errors]
            if not any(repaired):
                return None, _findings(errors, value)
        else:
            return config, list(_cross(config)) if thorough else []


def _cross(config: Config) -> Iterator[Finding]:
    """What only several fields together show to be wrong, and names that are Optax's to know."""
    horizon, window = config.train.horizon, getattr(config.train.estimator, "window", None)
    at = ("train", "estimator", "window")
    if window and horizon % window:
        yield Finding(at, f"{window} does not divide the horizon {horizon}", (("train", "horizon"),))
    elif window and window != horizon and config.train.weights == "last":
        yield Finding(("train", "weights"), f"last needs window = horizon, but these are {window} and {horizon}", (at,))
    baselines = config.eval.baselines
    named = [(("eval", "baselines", i), name) for i, name in enumerate(baselines)]
    for path, name in [(("train", "meta_optimizer", "name"), config.train.meta_optimizer.name), *named]:
        try:
            if name not in COMMON:
                importlib.import_module("l2lcli.optimizers.hand").check(name)
        except ValueError as error:
            yield Finding(path, str(error))
    yield from (Finding(path, f"{shown(n)} is there twice") for i, (path, n) in enumerate(named) if n in baselines[:i])
