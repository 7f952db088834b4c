"""The folders of runs before they are runs: what a new one is called, what may lie in it, and the link to the newest."""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from l2lcli.runs.files import RunError, faults
from l2lcli.runs.status import read_status

FIRST = {"status.json", "start.npz", "env.json", "imports"}  # what `create` may write before config.yaml makes the folder a run
SWEEP = "sweep.json"  # in the folder around runs that are a sweep's points
UNFINISHED = re.compile(r"\.lock|\.(status\.json|start\.npz|env\.json|config\.yaml)\.[0-9a-f]{8}")


def new_folder(root: Path, name: str, kind: str = "") -> Path:
    """Makes `<root>/<name>/<kind><UTC yyyymmdd-hhmmss>-<hash4>`. Raises RunError where the name is none or the disk refuses."""
    if name in ("", ".", "..", "latest") or "/" in name or "\0" in name:
        raise RunError(f"{name!r} cannot be the name of a run: it must be that of one folder other than the link to the newest")
    with faults(root / name):
        attempts_left = 16  # of a hundred runs started in one second, some draw the same four digits
        while True:
            path = root / name / f"{kind}{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
            try:
                path.mkdir(parents=True)
                return path
            except FileExistsError:
                attempts_left -= 1
                if not attempts_left:
                    raise


def demand_new(folder: Path) -> None:
    """Raises RunError unless the folder is empty, or holds no more than a process killed in `create` leaves."""
    entries = {entry.name for entry in folder.iterdir() if not UNFINISHED.fullmatch(entry.name)}
    with suppress(RunError):
        if "status.json" in entries and entries <= FIRST and read_status(folder)["state"] == "starting":
            return
    if entries:
        resume = f", or go on with the run in it: --resume {folder}" if {"config.yaml", "status.json"} <= entries else ""
        raise RunError(f"{folder} is not empty; name a new folder{resume}")


def point_latest(root: Path, run: Path) -> None:
    """Makes `<root>/latest` a relative link to `run`, if it lies below root. Raises RunError where a folder is in its place."""
    root, run = root.resolve(), run.resolve()
    if root in run.parents:
        link = root / f".latest-{secrets.token_hex(4)}"
        link.symlink_to(run.relative_to(root))
        try:
            os.replace(link, root / "latest")
        except OSError as error:
            link.unlink()
            raise RunError(f"{root / 'latest'}: {error.strerror}") from error
