"""Trained optimizers as they lie on disk: finding one by what a user types, and reading it. Loads no JAX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from l2lcli.config import Config, config_class
from l2lcli.runs import rundir
from l2lcli.runs.artefact import read_artefact
from l2lcli.runs.files import RunError
from l2lcli.runs.rundir import Run

ROOT = Path("runs")
NAME = "optimizer.npz"
START = "start.npz"  # beside it: what --init-from named
EVALUATIONS = ROOT / "evaluations"  # of what belongs to no run


class Trained(NamedTuple):
    """A trained optimizer.

    Attributes:
      artefact: its file.
      run: the run directory that the file lies in, if it lies in one.
      phi: its leaves under '/'-joined keys.
      config: the whole config that it was trained under.
    """

    artefact: Path
    run: Run | None
    phi: dict[str, np.ndarray]
    config: Config


def read(name: str | Path | None = None) -> Trained:
    """Read a trained optimizer.

    Args:
      name: a run directory, an artefact file, or the name of an optimizer shipped in runs/reference/ ("digits",
        "digits/seed-1"); None is the newest finished run below runs/.

    Raises RunError if there is none, or if it is damaged.
    """
    artefact, run = _find(name)
    phi, meta = read_artefact(artefact)
    try:
        config = config_class().model_validate_json(json.dumps(meta.get("config")))  # as JSON: strict, yet a list is a tuple
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "config"
        raise RunError(f"{artefact}: was trained under a config that this l2l does not know: {where}: {first['msg']}") from None
    return Trained(artefact, run, phi, config)


def kept(episode: int | str) -> str:
    """The file, beside the final optimizer's, of phi as it stood after that many episodes ("*": a pattern)."""
    return f"optimizer-{episode}.npz"


def _find(name: str | Path | None) -> tuple[Path, Run | None]:
    path = Path(rundir.newest(ROOT, finished=True) if name is None else name)
    if path.is_file():
        in_run = path.name == NAME and all((path.parent / name).is_file() for name in ("config.yaml", "status.json"))
        return path, rundir.open_run(path.parent) if in_run else None
    if not path.exists() and not path.is_absolute():
        for root in (ROOT, Path(__file__).parent.parent / "runs"):
            if (shipped := root / "reference" / path / NAME).is_file():
                return shipped, None
    if not path.exists() and len(path.parts) == 1:
        raise RunError(f"{name}: no run directory, no optimizer file, and none of that name is shipped")
    run = rundir.open_run(path)
    if not (run.path / NAME).is_file():
        raise RunError(f"{run.path}: no trained optimizer in it ({NAME} is missing)")
    return run.path / NAME, run
