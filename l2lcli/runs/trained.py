"""Trained optimizers as they lie on disk: finding one by what a user types, and reading it. Loads no JAX."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError

from l2lcli import registry
from l2lcli.base import KindSpec
from l2lcli.config import Config, ConfigError, from_record
from l2lcli.config.faults import suggest
from l2lcli.runs import rundir
from l2lcli.runs.artefact import packed, read_artefact
from l2lcli.runs.files import RunError, faults
from l2lcli.runs.rundir import Run
from l2lcli.runs.safetensors import SUFFIX, read_safetensors

ROOT = Path("runs")
NAME = "optimizer.npz"
MODEL = f"model{SUFFIX}"  # of a folder as the Hugging Face Hub has them
START = "start.npz"  # beside it: what --init-from named
EVALUATIONS = ROOT / "evaluations"  # of what belongs to no run
SHIPPED = Path(__file__).parent.parent / "shipped"  # in the package: <name>.npz
SOURCES = Path(__file__).parent.parent.parent / "runs"  # beside the package in its repository
NAMED = 6  # keys that a warning names at most


class Trained(NamedTuple):
    """A trained optimizer.

    Attributes:
      artefact: its file.
      run: the run directory that the file lies in, if it lies in one.
      phi: its leaves under '/'-joined keys.
      optimizer: the spec of its family, which is all that applying it needs.
      record: the whole config that it was trained under, as the version of l2l that trained it wrote it down.
      about: what else the file says: `step`, meta-steps, and `validation_loss`.
    """

    artefact: Path
    run: Run | None
    phi: dict[str, np.ndarray]
    optimizer: KindSpec
    record: dict[str, Any]
    about: dict[str, Any]

    @property
    def meta(self) -> dict[str, Any]:
        """All that its file says, as `artefact.write_artefact` takes it."""
        return {"config": self.record, **self.about}

    def npz(self) -> bytes:
        """It as an artefact's bytes: those of its own file, if that is one. Raises RunError."""
        if self.artefact.suffix == SUFFIX:
            return packed(self.phi, self.meta)
        with faults(self.artefact):
            return self.artefact.read_bytes()

    @property
    def mark(self) -> str:
        """SHA-256 of `npz`, which is the same whatever kind of file it lies in."""
        return hashlib.sha256(self.npz()).hexdigest()

    def config(self, warn: Callable[[str], None]) -> Config:
        """The whole config that it was trained under, to evaluate it on its own problem.

        What is missing takes its default, which is what there was before there was a key. `warn` is called with a line if there
        is something that this version does not know, which is left out. Raises RunError where it names what is not registered,
        or a value that is none.
        """
        try:
            # An evaluation tells no sinks, and one of somebody's own need not be at hand.
            config, unknown, missing = from_record({key: value for key, value in self.record.items() if key != "sinks"})
        except ConfigError as error:
            said = error.faults[0]
            how = f"; {_how(self.run)}" if "unknown kind" in said or "unknown data set" in said else ""
            raise RunError(f"{self.artefact}: was trained under a config that this l2l does not know: {said}{how}") from None
        parts = {"unknown keys, left out": unknown, "missing keys, at their defaults": missing if unknown else []}
        if said := "; ".join(f"{what}: {_few(keys)}" for what, keys in parts.items() if keys):
            warn(f"warning: {self.artefact}: its config is of another version of l2l ({said})")
        return config


def read(name: str | Path | None = None) -> Trained:
    """Read a trained optimizer. No code that it names is imported.

    Args:
      name: a run directory, an artefact file, what `l2l export` made of one (a .safetensors file, a folder), or the name of a
        shipped optimizer ("digits"); in a checkout of the repository of any in runs/reference/ ("digits/seed-1"); None is the
        newest finished run below runs/.

    Raises RunError if there is none, if it is damaged, or if nothing of its kind is registered.
    """
    artefact, run = _find(name)
    phi, meta = read_safetensors(artefact) if artefact.suffix == SUFFIX else read_artefact(artefact)
    record = meta.get("config")
    if not isinstance(record, dict) or not isinstance(section := record.get("optimizer"), dict):
        raise RunError(f"{artefact}: does not say what optimizer it is of (no config.optimizer)")
    specs = registry.optimizer.specs()
    for kind in _kinds(section):
        if kind not in specs:
            raise RunError(f"{artefact}: no optimizer of kind {kind!r} is registered{suggest(kind, list(specs))}; {_how(run)}")
    try:  # as JSON: strict, yet a list is a tuple
        spec = TypeAdapter(registry.union(specs.values())).validate_json(json.dumps(section))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(f"{artefact}: its optimizer is not one that this l2l knows: {where}: {first['msg']}") from None
    about = {key: value for key, value in meta.items() if key != "config"}
    return Trained(artefact, run, phi, spec, record, about)


def _kinds(section: dict[str, Any]) -> list[Any]:
    """The kind of an optimizer, and of those that it is made of."""
    groups = section.get("groups")
    inner = [group.get("optimizer") for group in groups.values() if isinstance(group, dict)] if isinstance(groups, dict) else []
    return [section.get("kind"), *(each.get("kind") for each in inner if isinstance(each, dict))]


def _how(run: Run | None) -> str:
    """How one's own is imported; of a run's, the copy that it keeps."""
    copies = sorted((run.path / "imports").glob("*.py")) if run else []
    named = " ".join(f"--import {copy}" for copy in copies) or "--import FILE"
    return f"import what registers it (l2l eval: {named}; Python: l2lcli.import_file)"


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:NAMED]) + (f", … ({len(keys)} in all)" if len(keys) > NAMED else "")


def kept(episode: int | str) -> str:
    """The file, beside the final optimizer's, of phi as it stood after that many episodes ("*": a pattern)."""
    return f"optimizer-{episode}.npz"


def _find(name: str | Path | None) -> tuple[Path, Run | None]:
    path = Path(rundir.newest(ROOT, finished=True) if name is None else name)
    if path.is_file():
        in_run = path.name == NAME and _is_run(path.parent)
        return path, rundir.open_run(path.parent) if in_run else None
    if not path.exists() and not path.is_absolute():
        for shipped in (ROOT / "reference" / path / NAME, SHIPPED / f"{path}.npz", SOURCES / "reference" / path / NAME):
            if shipped.is_file():
                return shipped, None
    if not path.exists() and len(path.parts) == 1:
        there = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.npz")))
        raise RunError(f"{name}: no run directory, no optimizer file, and none of that name is shipped ({there})")
    for file in (path / NAME, path / MODEL):  # a reference result, as tab completion names it; an exported folder
        if file.is_file() and not _is_run(path):
            return file, None
    run = rundir.open_run(path)
    if not (run.path / NAME).is_file():
        raise RunError(f"{run.path}: no trained optimizer in it ({NAME} is missing)")
    return run.path / NAME, run


def _is_run(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("config.yaml", "status.json"))
