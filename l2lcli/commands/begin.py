"""A run begun, or opened again: its folder, the copies of what it imports, and what has changed since."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from l2lcli import config as configs
from l2lcli import plugins, processes
from l2lcli.commands import sinks
from l2lcli.config import Config
from l2lcli.runs import rundir, trained
from l2lcli.runs.elsewhere import Elsewhere
from l2lcli.runs.files import RunError, faults, read_json, strict_json
from l2lcli.runs.rundir import Run

COPIES = "imports"  # the folder of a run with copies of the files that its config imports


class Begun(NamedTuple):
    """A run to work in.

    Attributes:
      run: its folder.
      config: the config that it runs under; files that it imports are named by the run's own copies, relative to the folder.
      devices: how many it began with; None to choose.
    """

    run: Run
    config: Config
    devices: int | None


def begin(config: Config, run_dir: Path | None, devices: int | None, argv: list[str]) -> Begun:
    """Make a run directory, locked, with all that going on with it needs. Raises RunError; ConfigError for a sink that is
    not installed.
    """
    sinks.demand(config)
    config, copies, about = copied(config)
    first: dict[str, Any] = {"argv": argv, "devices_used": devices} | ({"imports": about} if about else {})
    beside = {"env.json": strict_json(first), **copies}
    if config.train.init_from is not None:
        beside[trained.START] = trained.read(config.train.init_from).npz()
    return Begun(rundir.create(trained.ROOT, config.name, configs.dump(config), path=run_dir, beside=beside), config, devices)


def everywhere(begun: Callable[[], Begun]) -> Begun:
    """A run that the first process begins or opens, for all of them. The others read no more of its folder than its imports."""
    mine: list[Begun] = []

    def tell() -> tuple[Path, dict[str, Any], list[str], int | None]:
        mine.append(begun())
        run, config, devices = mine[0]
        imports = [str(run.path.absolute() / name) if plugins.is_file(name) else name for name in config.imports]
        return run.path, config.model_dump(mode="json", exclude={"imports"}), imports, devices

    path, said, imports, devices = processes.shared(tell)
    if mine:
        return mine[0]
    for name in imports:
        plugins.take(name)
    names = [os.path.relpath(name, path) if plugins.is_file(name) else name for name in imports]
    config = configs.load(said).model_copy(update={"imports": names})
    return Begun(Elsewhere(path), config, devices)


def copied(config: Config) -> tuple[Config, dict[str, bytes], dict[str, Any]]:
    """What a folder keeps of a config's imports.

    Returns:
      The config, whose imported files are named by their copies; the copies, by those names; what env.json says of each.
    """
    names: list[str] = []
    copies: dict[str, bytes] = {}
    about: dict[str, Any] = {}
    for name in config.imports:
        taken = plugins.take(name)
        if plugins.is_file(name) and taken.path is not None:
            place = _free(Path(name).stem, copies)
            with faults(taken.path):
                copies[place] = taken.path.read_bytes()
        else:
            place = name
        names.append(place)
        about[place] = {"file": None if taken.path is None else os.path.abspath(taken.path), "sha256": taken.sha256}
    return config.model_copy(update={"imports": names}), copies, about


def _free(stem: str, taken: dict[str, bytes]) -> str:
    number = 1
    while (place := f"{COPIES}/{stem}{'' if number == 1 else f'-{number}'}.py") in taken:
        number += 1
    return place


def reopen(run: Run, warn: Callable[[str], None]) -> Begun:
    """A run as it was begun, its imports done. `warn` hears of an imported file that has changed since.

    Raises RunError where a copy of the run's own is missing or another one, ConfigError where its config is none, or
    names a sink that is not installed.
    """
    env = read_json(run.path / "env.json") or {}
    for place, about in (env.get("imports") or {}).items():
        file, sha256 = about.get("file"), about.get("sha256")
        if place.startswith(f"{COPIES}/") and _sha256(run.path / place) != sha256:
            raise RunError(f"{run.path / place}: missing, or not the file that this run began with")
        if file is not None and (now := _sha256(Path(file))) != sha256:
            became = "is gone" if now is None else "has changed"
            kept = "the run goes on with its own copy" if place.startswith(f"{COPIES}/") else "bits may differ"
            warn(f"warning: {file} {became} since this run began: {kept}")
    config = configs.load(run.path / "config.yaml")
    sinks.demand(config)
    names = [os.path.relpath(name, run.path) if plugins.is_file(name) else name for name in config.imports]
    return Begun(run, config.model_copy(update={"imports": names}), env.get("devices_used"))


def _sha256(path: Path) -> str | None:
    """Of a file; None where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
