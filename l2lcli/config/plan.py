"""What a sweep consists of: its points with their configs, and which of them start from which. Nothing is run or written.

A sweep is one experiment over axes, or a sweep file, which lists experiments:

    name: paper
    sweep:
      - configs: [../simple.yaml, ../polynomial.yaml]
      - configs: [../mnist-averages.yaml, ../mnist-pooled.yaml]
        over: {seed: 0..2}

Where `train.init_from` of a point names another experiment of the sweep, the point starts from that point of the other which
has the same values on the other's axes; it may also name a point.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import Field, JsonValue, StringConstraints

from l2lcli import plugins
from l2lcli.base import Spec
from l2lcli.config import axes as axis
from l2lcli.config.axes import Axis
from l2lcli.config.faults import check, locate
from l2lcli.config.files import read, read_alone
from l2lcli.config.loading import ConfigError, dump, load, values
from l2lcli.config.specs import Config
from l2lcli.config.tree import find
from l2lcli.config.yaml_read import Fault, Node, unplaced

FOLDERS = ("configs", "figures", "jobs")  # of a sweep's own, beside those of its points
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class ExperimentsSpec(Spec):
    """Experiments that vary alike."""

    configs: list[str] = Field(min_length=1, max_length=1000)
    """Experiment files, relative to this one."""
    over: dict[str, JsonValue] = Field(default={}, max_length=20)
    """Dotted key -> the values that it takes: a list, or a text as after `--over`."""


class SweepSpec(Spec):
    """A sweep file."""

    name: Annotated[str, StringConstraints(pattern=NAME, max_length=60)]
    """What the sweep is called, and its folder below runs/."""
    sweep: list[ExperimentsSpec] = Field(min_length=1, max_length=1000)
    """Its experiments."""


class Point(NamedTuple):
    """One run of a sweep.

    Attributes:
      name: its folder's.
      experiment: the name of its experiment.
      values: what it has on the axes.
      config: the whole of it.
      after: names of the points that it needs done: the one that it starts from.
    """

    name: str
    experiment: str
    values: dict[str, Any]
    config: Config
    after: tuple[str, ...] = ()


class Plan(NamedTuple):
    """A sweep that can be run.

    Attributes:
      name: its folder's, below runs/.
      axes: experiment -> its axes.
      sample: how many points were drawn; None for whole grids.
      digest: sha256 of all that was asked for, the same for the same command over unchanged files.
      points: in an order in which every one comes after those that it needs.
    """

    name: str
    axes: dict[str, list[Axis]]
    sample: int | None
    digest: str
    points: list[Point]


def plan(path: str | os.PathLike[str], over: Iterable[str], sample: int | None, sets: Iterable[str]) -> Plan:
    """The sweep of an experiment file over `KEY=VALUES` texts, or of a sweep file; `sets` change every point.

    Raises ConfigError: whatever is wrong with any point, with its name; what is wrong with all of them once.
    """
    faults: list[Fault] = []
    tree = read_alone(os.fspath(path), faults)
    if tree is None:
        raise ConfigError(faults)
    over, sets = list(over), list(sets)
    several = "sweep" in tree.value
    if several and (over or sample is not None):
        raise ConfigError([f"{path}: is a sweep file, and says itself what varies: no --over and no --sample"])
    if not several and not over:
        raise ConfigError([f"{path}: nothing varies: give --over KEY=VALUES, such as --over seed=0..4"])
    name, experiments = (
        _listed(os.fspath(path), tree, faults) if several else ("", [(os.fspath(path), axis.read(over, faults))])
    )
    if faults:
        raise ConfigError(faults)
    points: list[Point] = []
    axes: dict[str, list[Axis]] = {}
    wrong: list[object] = []
    for file, of in experiments:
        try:
            made = _points(file, of, sample, sets, several)
        except ConfigError as error:
            wrong += error.faults
            continue
        if (experiment := made[0].experiment) in axes:
            wrong.append(f"{file}: the sweep has an experiment {experiment!r} already")
        axes[experiment] = of
        points += made
    if len(points) > axis.MOST:
        wrong.append(f"{path}: {len(points):,} points, more than {axis.MOST:,}")
    if wrong:
        raise ConfigError(wrong)
    name = name or points[0].experiment
    asked = [name, [[point.name, dump(point.config), _sources(point.config)] for point in points]]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    return Plan(name, axes, sample, digest, _ordered(_linked(points, axes)))


def _listed(path: str, tree: Node, faults: list[Fault]) -> tuple[str, list[tuple[str, list[Axis]]]]:
    """The name of a sweep file, and its experiments' files with their axes."""
    spec, findings = check(SweepSpec, unplaced(tree))
    faults += [locate(tree, finding) for finding in findings]
    found = []
    for i, group in enumerate(spec.sweep if spec else ()):
        made = []
        for key in group.over:
            place = find(tree, ("sweep", i, "over", key))
            assert place is not None
            own: list[Fault] = []
            of = axis.of(key, place, own)
            if of is not None and of.drawn:
                own.append(Fault(place.place, "the axes of a sweep file are values, none of which is drawn"))
            faults += [fault._replace(message=f"{key}: {fault.message}") for fault in own]
            made += [of] if of else []
        found += [(os.path.normpath(os.path.join(os.path.dirname(path), file)), made) for file in group.configs]
    return spec.name if spec else "", found


def _points(file: str, of: list[Axis], sample: int | None, sets: list[str], several: bool) -> list[Point]:
    """The points of one experiment. Raises ConfigError."""
    base, faults, _ = read(file, sets)  # which need not be a config before its axes have values
    if base is None:
        raise ConfigError(faults)
    experiment, seed = (node.value if (node := find(base, (key,))) else None for key in ("name", "seed"))
    if sample is None:
        if drawn := [each.key for each in of if each.drawn]:
            raise ConfigError([f"--over {drawn[0]}: how many points are to be drawn? Give --sample N"])
        if (whole := axis.size(of)) > axis.MOST:
            raise ConfigError([f"{file}: {whole:,} points, more than {axis.MOST:,}: sample them (--sample N)"])
        combinations = axis.grid(of)
    else:
        try:
            combinations = axis.sample(of, sample, seed if isinstance(seed, int) else 0)
        except ValueError as error:
            raise ConfigError([f"--sample: {error}"]) from None
    wrong: dict[str, list[str]] = {}
    made = []
    for name, chosen in zip(axis.names(combinations, str(experiment) if several else ""), combinations, strict=True):
        try:
            config = load(file, [*sets, *axis.overrides(chosen)])
        except ConfigError as error:
            wrong[name] = [_over(fault, chosen) for fault in error.faults]
            continue
        made.append(Point(name, config.name, chosen, config))
        if name in FOLDERS:
            wrong[name] = [f"a sweep has a folder {name!r} itself: call the experiment otherwise"]
    if wrong:
        raise ConfigError(_told(wrong, len(combinations)))
    return made


def _over(fault: str, chosen: Mapping[str, Any]) -> str:
    """A fault of `--set`, which it was not that named the key."""
    for key in chosen:
        fault = fault.replace(f"--set {key}:", f"--over {key}:")
    return fault


def _told(wrong: dict[str, list[str]], count: int) -> list[str]:
    """What every point has is said once, all else with the point's name."""
    common = [fault for fault in next(iter(wrong.values())) if all(fault in faults for faults in wrong.values())]
    common = common if len(wrong) == count else []
    return [*common, *(f"{name}: {fault}" for name, faults in wrong.items() for fault in faults if fault not in common)]


def _sources(config: Config) -> list[str]:
    """Of which content the files are that a config imports."""
    return [plugins.take(name).sha256 for name in config.imports]


def _linked(points: list[Point], axes: Mapping[str, list[Axis]]) -> list[Point]:
    """The points, each with what it starts from. Raises ConfigError."""
    named = {point.name: point for point in points}
    found, wrong = [], []
    for point in points:
        source = point.config.train.init_from
        if source is None or source == point.experiment or not (source in named or source in axes):
            found.append(point)
            continue
        mine = values(point.config)
        others = [named[source]] if source in named else [other for other in points if other.experiment == source]
        keys = [] if source in named else [each.key for each in axes[source]]
        alike = [other for other in others if all(_same(values(other.config), mine, key) for key in keys)]
        if len(alike) == 1:
            found.append(point._replace(after=(alike[0].name,)))
        else:
            which = f"{len(alike)} of its points have" if alike else "none of its points has"
            wrong.append(f"{point.name}: train.init_from: {source}: {which} this one's {', '.join(keys)}")
    if wrong:
        raise ConfigError(wrong)
    return found


def _same(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> bool:
    """Whether two configs agree at a key, or in all below it."""
    keys = {name for name in (*one, *other) if name == key or name.startswith(f"{key}.")}
    return all(name in one and name in other and repr(one[name]) == repr(other[name]) for name in keys)


def _ordered(points: list[Point]) -> list[Point]:
    """Every point after those that it needs, otherwise as they are. Raises ConfigError where some wait for each other."""
    out: dict[str, Point] = {}
    left = points
    while left:
        before = len(out)
        for point in left:
            if all(name in out for name in point.after):
                out[point.name] = point
        left = [point for point in left if point.name not in out]
        if len(out) == before:
            raise ConfigError([f"{', '.join(point.name for point in left)}: each starts from another one of these"])
    return [*out.values()]
