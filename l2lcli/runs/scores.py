"""Scores as they lie on disk: a suite and its digest, baselines that are kept for all optimizers, a score's own folder."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from l2lcli.runs.artefact import read_artefact, write_artefact
from l2lcli.runs.files import RunError, faults, read_json, replacing, strict_json
from l2lcli.runs.trained import NAME, ROOT, SHIPPED, SOURCES, Trained

SCORES = ROOT / "scores"


class Suite(NamedTuple):
    """A folder of experiment files, each a problem to be scored on."""

    folder: Path
    digest: str  # sha256 over the files' names and contents
    tasks: dict[str, Path]  # a file's stem -> it, sorted

    @property
    def mark(self) -> str:
        """What folders are named after."""
        return self.digest[:8]


def suite(folder: Path) -> Suite:
    """Read which tasks there are. Raises RunError of a folder that is not there, or has no experiment files."""
    with faults(folder):
        if not folder.is_dir():
            raise RunError(f"{folder}: no such folder")
        files = sorted(folder.glob("*.yaml"))
        if not files:
            raise RunError(f"{folder}: no experiment files (*.yaml) in it")
        digest = hashlib.sha256()
        for file in files:
            digest.update(f"{file.name}\n".encode() + file.read_bytes() + b"\0")
    return Suite(folder, digest.hexdigest(), {file.stem: file for file in files})


def write_reference(path: Path, reference: Any, about: dict[str, Any]) -> None:
    """Keep an `evaluation.score.Reference`, whose losses are written as float32. Raises RunError."""
    arrays = {f"losses/{name}": losses.astype(np.float32) for name, losses in reference.losses.items()}
    arrays |= {f"tests/{name}/{metric}": values for name, of in reference.tests.items() for metric, values in of.items()}
    arrays["envelope"] = reference.envelope.astype(np.float32)
    costs = {
        name: [[rate, cost if math.isfinite(cost) else None] for rate, cost in sorted(of.items())]
        for name, of in reference.costs.items()
    }
    with faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_artefact(path, arrays, {"rates": reference.rates, "costs": costs, "about": about})


def read_reference(name: str, mark: str, about: dict[str, Any]) -> dict[str, Any] | None:
    """The fields of the `Reference` that was kept for a task of a suite; None if there is none that is `about` the same.

    Those that were tuned here come before the committed ones.
    """
    for folder in (SCORES / f"baselines-{mark}", ROOT / "reference" / f"suite-{mark}", SOURCES / "reference" / f"suite-{mark}"):
        path = folder / f"{name}.npz"
        if not path.is_file():
            continue
        arrays, meta = read_artefact(path)
        if meta.get("about") != json.loads(json.dumps(about)):
            continue
        tests: dict[str, dict[str, np.ndarray]] = {}
        for key, values in arrays.items():
            kind, _, rest = key.partition("/")
            if kind == "tests":
                optimizer, _, metric = rest.rpartition("/")
                tests.setdefault(optimizer, {})[metric] = values
        losses = {key[len("losses/") :]: of.astype(np.float64) for key, of in arrays.items() if key.startswith("losses/")}
        costs = {name: {rate: math.inf if cost is None else cost for rate, cost in of} for name, of in meta["costs"].items()}
        return {
            "rates": meta["rates"],
            "costs": costs,
            "losses": losses,
            "tests": {name: tests.get(name, {}) for name in losses},
            "envelope": arrays["envelope"].astype(np.float64),
        }
    return None


def baselines_folder(mark: str) -> Path:
    """Where baselines that are tuned here are kept."""
    return SCORES / f"baselines-{mark}"


def write_task(folder: Path, name: str, entry: dict[str, Any], losses: np.ndarray | None, optimizer: str) -> None:
    """Keep one task's entry, with which optimizer it is of, and its losses [S, T+1]. Raises RunError."""
    with faults(folder):
        for part in ("tasks", "curves"):
            (folder / part).mkdir(parents=True, exist_ok=True)
    if losses is not None:
        write_artefact(folder / "curves" / f"{name}.npz", {"losses": losses.astype(np.float32)}, {})
    with replacing(folder / "tasks" / f"{name}.json") as file:
        file.write(strict_json({"optimizer": optimizer, "entry": entry}))


def read_task(folder: Path, name: str, optimizer: str) -> dict[str, Any] | None:
    """The entry that was kept of that optimizer; None if there is none."""
    path = folder / "tasks" / f"{name}.json"
    held = read_json(path) if path.is_file() else None
    return held["entry"] if isinstance(held, dict) and held.get("optimizer") == optimizer else None


def read_losses(folder: Path, name: str) -> np.ndarray:
    """The losses [S, T+1] that were kept of a task. Raises RunError."""
    return read_artefact(folder / "curves" / f"{name}.npz")[0]["losses"].astype(np.float64)


def write_score(folder: Path, score: dict[str, Any]) -> None:
    """Write score.json. Raises RunError."""
    with replacing(folder / "score.json") as file:
        file.write(strict_json(score))


def of(found: Trained) -> list[dict[str, Any]]:
    """The scores of this very optimizer, one for each suite: those committed with the project, then those made here.

    Of a committed one the name says which optimizer it is of, of the others the digest that their tasks were kept with.
    """
    there: dict[str, dict[str, Any]] = {}
    for root in (ROOT, SOURCES):
        for path in sorted(root.glob("reference/suite-*/scores/*/score.json")):
            name = path.parent.name
            files = root / "reference" / name.replace("-seed-", "/seed-") / NAME, SHIPPED / f"{name}.npz"
            if any(_same(file, found) for file in files if file.is_file()):
                there.setdefault(path.parent.parent.parent.name, read_json(path) or {})
    for path in sorted(SCORES.glob("*/score.json")):
        tasks = sorted((path.parent / "tasks").glob("*.json"))
        if tasks and all((read_json(task) or {}).get("optimizer") == found.mark for task in tasks):
            score = read_json(path) or {}
            there.setdefault(f"suite-{score['suite'][:8]}", score)
    return list(there.values())


def _same(file: Path, found: Trained) -> bool:
    phi, meta = read_artefact(file)
    alike = phi.keys() == found.phi.keys() and all(np.array_equal(phi[key], leaf) for key, leaf in found.phi.items())
    return alike and meta["config"]["optimizer"] == found.record["optimizer"]


def kept(name: str) -> list[Path]:
    """The score files of an optimizer, those committed with the project first."""
    committed = [path for root in (ROOT, SOURCES) for path in sorted(root.glob(f"reference/suite-*/scores/{name}/score.json"))]
    return [*committed, *sorted(SCORES.glob(f"{name}-*/score.json"))]
