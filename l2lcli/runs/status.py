"""Who is at work in a run directory and how far it came: the lock, which ends with its process, and status.json."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from l2lcli.runs.files import RunError, faults, replacing, strict_json

State = Literal["starting", "running", "stopped", "done", "failed", "diverged"]


def take_lock(folder: Path) -> int:
    """The descriptor that holds the folder for this process alone; closing it, or the end of the process, lets go.

    Raises:
      RunError: another descriptor, of this process or of another, holds it.
    """
    with faults(folder):
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            for attempt in range(5):
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if attempt == 4:  # is_locked holds the lock for an instant, another run for good
                        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
                        raise RunError(f"{folder} is in use by process {holder or 'unknown'}") from None
                    time.sleep(0.02)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def is_locked(folder: Path) -> bool:
    """Whether some process holds the lock."""
    try:
        descriptor = os.open(folder / ".lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # not ours to look at, so nothing says that the process is gone
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def read_status(folder: Path) -> dict[str, Any]:
    """What status.json says, word for word. Raises RunError where it is not there or damaged."""
    path = folder / "status.json"
    try:
        with faults(path):
            status = json.loads(path.read_bytes())
    except ValueError as error:
        raise RunError(f"{path}: not JSON: {error}") from None
    if not isinstance(status, dict) or "state" not in status:
        raise RunError(f"{path}: no state in it")
    return status


def write_status(folder: Path, state: State, step: int | None, reason: str | None, **more: Any) -> None:
    """Rewrites status.json. A step of None keeps the one written before; `started` is the run's first start.

    Raises:
      ValueError: no such state.
      RunError: it could not be written.
    """
    if state not in get_args(State):
        raise ValueError(f"state {state!r} is none of {', '.join(get_args(State))}")
    now = datetime.now(UTC).isoformat()
    before: Mapping[str, Any] = {}
    with suppress(RunError):
        before = read_status(folder)
    status = {
        "state": state,
        "pid": os.getpid(),
        "step": before.get("step") if step is None else step,
        "reason": reason,
        "started": before.get("started", now),
        "updated": now,
        **more,
    }
    with replacing(folder / "status.json") as file:
        file.write(strict_json(status))
