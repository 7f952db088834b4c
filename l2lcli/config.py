"""What an experiment file can say: the models, and the ways to load, override, compare and write them. Loads no JAX.

    config = load("configs/digits.yaml", ["train.horizon=200"])

Everything wrong is reported at once, as ConfigError, one line a fault: `path:line:col: dotted.key: what is wrong`.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import json
import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import BaseModel, Field, JsonValue, StringConstraints, ValidationError, create_model

from l2lcli import registry, yaml_strict
from l2lcli.base import Spec
from l2lcli.yaml_strict import DEFAULT, Fault, Node, Path, Place, plain, shown

KINDS = {("problem",): "quadratic", ("optimizer",): "lstm", ("train", "estimator"): "auto"}  # where a file names none
COMMON = ("sgd", "momentum", "nag", "rmsprop", "adam", "adagrad", "adadelta")  # known without asking Optax, which loads JAX
EXTENDS = "Another file, relative to this one, whose keys this one adds to or replaces (all but its name)"

Positive = Annotated[int, Field(ge=1, le=1_000_000)]
Seeds = Annotated[int, Field(ge=2, le=100_000)]
Episodes = Annotated[int, Field(ge=1, le=10_000_000)]
VariantName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=60)]


class ConfigError(ValueError):
    """A configuration that cannot be used. `faults` has one line for each thing that is wrong, and str() all of them."""

    def __init__(self, faults: Iterable[object]):
        """Takes one object a fault, whose str() is its line; equal ones count once."""
        self.faults = [" ".join(str(fault).splitlines()) for fault in dict.fromkeys(faults)]
        super().__init__("\n".join(self.faults))


class DataSpec(Spec):
    """Where the raw data files are."""

    raw_dir: str | None = None
    """Directory with `<dataset>/<published file name>`; null for the data sets that need no files."""


class MetaOptimizerSpec(Spec):
    """What applies the meta-gradients to phi."""

    name: str = "adam"
    """An Optax optimizer."""
    learning_rate: float = Field(default=0.01, gt=0)
    """The learning rate, at its highest."""
    schedule: Literal["constant", "cosine", "linear", "exponential"] = "cosine"
    """How the learning rate falls over the meta-steps."""
    clip: float | None = Field(default=None, gt=0)
    """Global norm that meta-gradients are clipped to; null for no clipping."""


class TrainSpec(Spec):
    """Meta-training."""

    episodes: Episodes = 200
    """Episodes, each of one horizon for all tasks: horizon / window meta-steps."""
    tasks: Annotated[int, Field(ge=1, le=65_536)] = 4
    """Optimizees trained side by side (M)."""
    horizon: Positive = 100
    """Optimizee steps in an episode (T)."""
    estimator: Spec
    """How the meta-gradient is estimated."""
    meta_optimizer: MetaOptimizerSpec = MetaOptimizerSpec()
    """What applies the meta-gradients to phi."""
    validate_every: Episodes = 20
    """Episodes from one validation to the next."""
    validation_seeds: Seeds = 16
    """Fresh optimizees in a validation."""
    patience: Episodes | None = None
    """Validations without improvement after which training stops; null for never."""
    weights: Literal["all", "last"] = "all"
    """Which steps' losses of a window count: every one alike, or the last alone, which needs window = horizon."""
    checkpoint_seconds: float = Field(default=20, ge=0, le=86_400)
    """Least time from one checkpoint to the next, in seconds."""


class EvalSpec(Spec):
    """Evaluation against tuned baselines."""

    steps: Positive = 100
    """Optimizee steps."""
    seeds: Seeds = 20
    """Optimizees that every optimizer is reported on (S)."""
    tuning_seeds: Seeds = 10
    """Other optimizees, that the baselines' learning rates are tuned on."""
    baselines: list[str] = Field(default=["sgd", "momentum", "nag", "rmsprop", "adam"], max_length=100)
    """Optax optimizers to compare with."""
    metrics_every: Positive = 20
    """Steps from one measurement of the test metrics to the next."""
    variants: dict[VariantName, dict[str, JsonValue]] = Field(default={}, max_length=1000)
    """Further settings to evaluate on: name -> {dotted key: value}, changes to this file."""


class Config(Spec):
    """An experiment. Its fields' full types depend on what is registered: `config_class()` has them."""

    name: str = Field(default="experiment", pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=60)
    """Name of the experiment and of its folder of runs; the file's stem if left out."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """What all randomness derives from."""
    data: DataSpec = DataSpec()
    """Where the raw data files are."""
    problem: Spec
    """What is optimized: a distribution over optimizees."""
    optimizer: Spec
    """The learned optimizer."""
    train: TrainSpec
    """Meta-training."""
    eval: EvalSpec = EvalSpec()
    """Evaluation against tuned baselines."""


class _Finding(NamedTuple):
    path: Path
    message: str
    also: tuple[Path, ...] = ()  # where the blame lies if `path` itself was left to its default


def config_class() -> type[Config]:
    """The Config whose problem, optimizer and train.estimator are the registered specs, told apart by `kind`."""
    families = (registry.problem, registry.optimizer, registry.estimator)
    return _config_class(*(tuple(family.specs().items()) for family in families))


@functools.lru_cache(maxsize=8)
def _config_class(*families: tuple[tuple[str, type[Spec]], ...]) -> type[Config]:
    def union(base: type[Spec], path: Path, members: tuple[tuple[str, type[Spec]], ...]) -> dict[str, Any]:
        specs, (*_, field), kind = dict(members), path, KINDS[path]
        if kind not in specs:
            raise RuntimeError(f"{'.'.join(path)}: the default kind {kind!r} is not registered; known: {', '.join(specs)}")
        tag = {"discriminator": "kind"} if len(specs) > 1 else {}
        info = Field(default=specs[kind](), description=base.model_fields[field].description, **tag)
        return {field: (functools.reduce(operator.or_, specs.values()), info)}

    def model(base: type[Spec], **fields: Any) -> Any:
        return create_model(base.__name__, __base__=base, __module__=__name__, __doc__=base.__doc__, **fields)

    problem, optimizer, estimator = (path for path in KINDS)
    train = model(TrainSpec, **union(TrainSpec, estimator, families[2]))
    info = Field(default=train(), description=Config.model_fields["train"].description)
    unions = union(Config, problem, families[0]) | union(Config, optimizer, families[1])
    return model(Config, train=(train, info), **unions)


EXPECTED = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "text", "list": "a list"}
EXPECTED |= {"tuple": "a list", "dict": "a mapping", "model": "a mapping", "model_attributes": "a mapping", "none": "null"}
LIMITS = {"greater_than": "more than", "greater_than_equal": "at least", "less_than": "less than", "less_than_equal": "at most"}


def _path(loc: Path, value: Any) -> Path:
    """A pydantic location without the union members' names that pydantic puts between the keys."""
    path, tagged = (), False
    for step in loc:
        if isinstance(value, dict) and step == value.get("kind") and not tagged:
            tagged = True
        elif (isinstance(value, dict) and step in value) or (isinstance(value, list) and isinstance(step, int)):
            path, value, tagged = (*path, step), value[step], False
    return path


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _fields(path: Path, value: Any) -> dict[str, Any]:
    """The fields that the mapping at `path` may have."""
    models: list[type[BaseModel]] = [config_class()]
    for step in path:
        value = value[step]
        if isinstance(step, str):
            models = [new for old in models if step in old.model_fields for new in _models(old.model_fields[step].annotation)]
        kind = value.get("kind") if isinstance(value, dict) else None
        models = [m for m in models if kind and "kind" in m.model_fields and m.model_fields["kind"].default == kind] or models
    return {name: field for model in models for name, field in model.model_fields.items()}


def _repair(error: Any, value: Any) -> bool:
    """Does in place what strict models leave to the reader: 1e3 for a whole number, and the kind that goes without saying."""
    path = _path(error["loc"], value)
    *above, last = path or (None,)
    holder = functools.reduce(operator.getitem, above, value)
    got = error["input"]
    if error["type"] == "int_type" and isinstance(got, float) and got.is_integer() and abs(got) < 1e18:
        holder[last] = int(got)
        return True
    if error["type"] == "union_tag_not_found" and (field := _fields(tuple(above), value).get(last)):
        kind = getattr(field.get_default(call_default_factory=True), "kind", None)
        holder[last] = got | ({"kind": kind} if kind else {})
        return bool(kind)
    return False


def _suggest(name: Any, known: Sequence[str], *, all_known: bool = False) -> str:
    close = difflib.get_close_matches(str(name), known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return hint + (f"{' K' if hint else '; k'}nown: {', '.join(known)}" if all_known or not hint else "")


def _explain(error: Any, value: Any) -> _Finding:
    path, kind, got, context = _path(error["loc"], value), error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        known = [*_fields(path[:-1], value), *(["extends"] if len(path) == 1 else [])]
        return _Finding(path, "unknown key" + _suggest(path[-1], known))
    if kind == "missing":
        return _Finding((*path, error["loc"][-1]), "must be given")
    if kind == "union_tag_not_found":
        return _Finding((*path, "kind"), "must be given")
    if kind in ("union_tag_invalid", "literal_error"):
        known = context.get("expected_tags", context.get("expected")).replace(" or ", ", ").replace("'", "").split(", ")
        if kind == "union_tag_invalid":
            path, got = (*path, "kind"), got["kind"]
        what = f"unknown kind {shown(got)}" if path[-1:] == ("kind",) else f"{shown(got)} is not allowed here"
        return _Finding(path, what + _suggest(got, known, all_known=True))
    if kind in LIMITS:
        return _Finding(path, f"must be {LIMITS[kind]} {next(iter(context.values()))}, got {shown(got)}")
    if kind == "string_pattern_mismatch":
        return _Finding(path, f"{shown(got)} does not match {context['pattern']}")
    if kind in ("too_long", "string_too_long"):
        return _Finding(path, f"must have at most {context['max_length']} {'characters' if kind[0] == 's' else 'items'}")
    return _Finding(path, str(context.get("error", error["msg"])))


def _findings(errors: list[Any], value: Any) -> list[_Finding]:
    expected = [(_path(error["loc"], value), error) for error in errors if error["type"].removesuffix("_type") in EXPECTED]
    found = [_explain(error, value) for error in errors if error["type"].removesuffix("_type") not in EXPECTED]
    for path in dict.fromkeys(path for path, _ in expected):
        # An alternative that fits better than this one has a fault further in, or one about more than the type
        further = [p for p, _ in expected if p != path] + [finding.path for finding in found]
        if not any(other[: len(path)] == path for other in further):
            mine = [error for p, error in expected if p == path]
            wanted = dict.fromkeys(EXPECTED[error["type"].removesuffix("_type")] for error in mine)
            found.append(_Finding(path, f"expected {' or '.join(wanted)}, got {shown(mine[0]['input'])}"))
    return found


def _cross(config: Config) -> Iterator[_Finding]:
    """What only several fields together show to be wrong, and names that are Optax's to know."""
    horizon, window = config.train.horizon, getattr(config.train.estimator, "window", None)
    at = ("train", "estimator", "window")
    if window and horizon % window:
        yield _Finding(at, f"{window} does not divide the horizon {horizon}", (("train", "horizon"),))
    elif window and window != horizon and config.train.weights == "last":
        yield _Finding(("train", "weights"), f"last needs window = horizon, but these are {window} and {horizon}", (at,))
    baselines = config.eval.baselines
    named = [(("eval", "baselines", i), name) for i, name in enumerate(baselines)]
    for path, name in [(("train", "meta_optimizer", "name"), config.train.meta_optimizer.name), *named]:
        try:
            if name not in COMMON:
                importlib.import_module("l2lcli.optimizers.hand").check(name)
        except ValueError as error:
            yield _Finding(path, str(error))
    yield from (_Finding(path, f"{shown(n)} is there twice") for i, (path, n) in enumerate(named) if n in baselines[:i])


def _check(value: Any, thorough: bool) -> tuple[Config | None, list[_Finding]]:
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


def _trail(tree: Node, path: Path) -> list[Node]:
    """The nodes from the top along the path, as far as it goes."""
    trail = [tree]
    for step in path:
        value = trail[-1].value
        if not (step in value if isinstance(value, dict) else isinstance(value, list) and step in range(len(value))):
            break
        trail.append(value[step])
    return trail


def _fault(tree: Node, finding: _Finding, prefix: str = "") -> Fault:
    trails = [(path, _trail(tree, path)) for path in (finding.path, *finding.also)]
    exact = [trail[-1].place for path, trail in trails if len(trail) == len(path) + 1]
    places = [*exact, *(node.place for node in reversed(trails[0][1]))]
    place = next((place for place in places if place != DEFAULT), tree.place)
    dotted = ".".join(map(str, finding.path))
    here = not prefix and place == Place(f"--set {dotted}")
    return Fault(place, prefix + (finding.message if here or not dotted else f"{dotted}: {finding.message}"))


def _merge(parent: Node, child: Node, path: Path = ()) -> Node:
    """Mappings merge, all else is replaced; under another kind the parent's other keys mean nothing, and go."""
    if not (isinstance(parent.value, dict) and isinstance(child.value, dict)):
        return child
    old, new = parent.value, child.value
    if "kind" in new:
        before = old["kind"].value if "kind" in old else KINDS.get(path, new["kind"].value)
        if before != new["kind"].value:
            return child
    merged = {key: _merge(old[key], item, (*path, key)) if key in old else item for key, item in new.items()}
    return Node(old | merged, child.place)


def _overlay(changes: Iterable[tuple[str, Node]], place: Place, faults: list[Fault], prefix: str = "") -> Node:
    """Dotted keys as one nested mapping."""
    tree = Node({}, place)
    for dotted, node in changes:
        parts = dotted.split(".")
        if "" in parts or len(parts) > yaml_strict.MAX_DEPTH:
            faults.append(Fault(node.place, f"{prefix}{shown(dotted)} is not a dotted key"))
            continue
        if parts[:2] == ["eval", "variants"]:
            parts[3:] = filter(None, [".".join(parts[3:])])  # a variant's own keys are dotted
        for part in reversed(parts):
            node = Node({part: node}, node.place)
        tree = Node(_merge(tree, node, ("",)).value, place)  # a path that no kind goes without saying at
    return tree


def _split(tree: Node) -> tuple[Node, dict[str, Node]]:
    """A configuration without its variants, and these."""
    if len(trail := _trail(tree, ("eval", "variants"))) < 3:
        return tree, {}
    _, evaluation, variants = trail
    rest = {key: item for key, item in evaluation.value.items() if key != "variants"}
    named = variants.value.items() if isinstance(variants.value, dict) else []
    sound = {name: variant for name, variant in named if isinstance(variant.value, dict)}
    return Node(tree.value | {"eval": Node(rest, evaluation.place)}, tree.place), sound


def _vary(base: Node, name: str, variant: Node, known: Iterable[_Finding] = (), thorough: bool = True) -> Any:
    """(config, faults) of a configuration without variants under one of its variants; `known` faults are the base's own."""
    prefix, faults = f"eval.variants.{name}: ", []
    changes = _overlay(variant.value.items(), variant.place, faults, prefix)
    if len(_trail(changes, ("eval", "variants"))) > 2:
        return None, [*faults, Fault(variant.place, f"{prefix}a variant cannot change eval.variants")]
    config, findings = _check(plain(_merge(base, changes)), thorough)
    return config, faults + [_fault(changes, finding, prefix) for finding in findings if finding not in known]


def _settle(tree: Node | None, faults: list[Fault], files: Sequence[str] = ()) -> Config:
    """The config of a tree that nothing is wrong with, its variants included; ConfigError if there are faults."""
    thorough = not faults  # or else what its fault left out would be judged by its default
    if tree is not None:
        config, findings = _check(plain(tree), thorough)
        faults = faults + [_fault(tree, finding) for finding in findings]
        base, variants = _split(tree)
        if config is not None:
            base, _ = _split(_node(config))
        for name, variant in variants.items():
            faults += _vary(base, name, variant, findings, thorough)[1]
    if faults or tree is None:
        rank = {file: i for i, file in enumerate(files)}
        raise ConfigError(sorted(faults, key=lambda f: (rank.get(f.place.source, len(rank)), f.place.line, f.place.column)))
    return config


def _read(path: str | os.PathLike[str], overrides: Iterable[str]) -> tuple[Node | None, list[Fault], list[str]]:
    """The tree of a file, of those it extends and of `--set`; the faults of their text; the files, that one first."""
    faults: list[Fault] = []
    trees: list[Node | None] = []
    files: dict[str, str] = {}  # real path -> as written
    source, named = os.fspath(path), None
    while source:
        tree = None
        try:
            data = yaml_strict.content(source)
        except ValueError as error:
            faults.append(Fault(named, f"extends: {source}: {error}") if named else Fault(Place(source, 1, 1), str(error)))
        else:
            if (real := os.path.realpath(source)) in files:
                faults.append(Fault(named, f"extends: a cycle: {' -> '.join([*files.values(), source])}"))
                return None, faults, list(files.values())
            files[real] = source
            tree, found = yaml_strict.parse(data, source)
            faults += found
        if tree is not None and not isinstance(tree.value, dict):
            faults.append(Fault(tree.place, f"expected keys with values at the top, got {shown(tree.value)}"))
            tree = None
        parent = tree and tree.value.pop("extends", None)
        if trees and tree:
            tree.value.pop("name", None)  # two experiments under one name would share a folder
        trees.append(tree)
        if parent and not (isinstance(parent.value, str) and parent.value):
            faults.append(Fault(parent.place, f"extends: expected a file's name, got {shown(parent.value)}"))
            trees.append(None)
            break
        source, named = (os.path.join(os.path.dirname(source), parent.value), parent.place) if parent else ("", None)
    changes = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if equals:
            node, found = yaml_strict.parse(value, f"--set {key}", located=False)
            faults += found
            changes += [(key, node)] if node else []
        else:
            faults.append(Fault(Place(f"--set {text}"), "expected KEY=VALUE"))
    tree = None if None in trees else functools.reduce(_merge, reversed(trees))
    overlay = _overlay(changes, Place(os.fspath(path), 1, 1), faults)
    if tree is not None:
        tree = Node(_merge(tree, overlay).value, overlay.place)
        tree.value.setdefault("name", Node(FilePath(path).stem, DEFAULT))
    return tree, faults, list(files.values())


def _node(config: Config) -> Node:
    return yaml_strict.node(config.model_dump(mode="json"), DEFAULT)


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    else:
        yield path, value


def load(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Config:
    """The config of a file, and of those it extends, under overrides `a.b=v` with v in YAML. Raises ConfigError.

    A key's value is the last one of: the default, the file that `extends` names, the file, `--set`. Mappings merge, lists
    are replaced, and a new `kind` drops the other keys of its mapping.
    """
    return _settle(*_read(path, overrides))


def provenance(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> dict[str, str]:
    """Dotted key -> who set it, "file:line", "--set" or "default", for every value of the loaded config. Raises ConfigError."""
    tree, faults, files = _read(path, overrides)
    origin = {}
    for keys, _ in _leaves(_settle(tree, faults, files).model_dump(mode="json")):
        trail = _trail(tree, keys)
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
    overlay = _overlay(nodes, DEFAULT, faults)
    return _settle(_merge(_node(config), overlay), faults)


def variant(config: Config, name: str) -> Config:
    """The config under one of its variants; it has no variants itself. Raises ConfigError."""
    base, variants = _split(_node(config))
    if name not in variants:
        raise ConfigError([f"unknown variant {shown(name)}{_suggest(name, list(variants), all_known=True)}"])
    varied, faults = _vary(base, name, variants[name])
    if faults:
        raise ConfigError(faults)
    return varied


def dump(config: Config) -> str:
    """Complete YAML text, defaults included, from which `load` makes an equal config."""
    return yaml_strict.emit(config.model_dump(mode="json"))


def schema() -> dict[str, Any]:
    """The JSON schema of a config file, for editors."""
    whole = config_class().model_json_schema()
    whole["properties"] = {"extends": {"type": "string", "description": EXTENDS}} | whole["properties"]
    return whole


ABSENT = type(
    "Absent", (), {"__repr__": lambda self: "(absent)", "__doc__": "What `diff` gives where a config has no such key."}
)()


def diff(a: Config, b: Config) -> list[tuple[str, Any, Any]]:
    """(dotted key, its value in a, in b) for each value that differs; ABSENT where one has no such key."""
    left, right = ({".".join(path): value for path, value in _leaves(c.model_dump(mode="json"))} for c in (a, b))
    pairs = [(key, left.get(key, ABSENT), right.get(key, ABSENT)) for key in left | right]
    return [(key, x, y) for key, x, y in pairs if repr(x) != repr(y)]  # 1, 1.0 and True are equal, and three values
