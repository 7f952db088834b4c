"""The cache folder, shared by everything that prepares a thing once: where it lies, and a lock between processes."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_SECONDS = 900.0  # a download on a slow line fits; a stopped process does not hold the others up for good


def folder() -> Path:
    """The cache folder: `$L2L_CACHE`, else `$XDG_CACHE_HOME/l2l`, else `~/.cache/l2l`. Absolute; it need not exist yet.

    Raises OSError where none of the three says anything, as for a user without a home folder.
    """
    if chosen := os.environ.get("L2L_CACHE"):
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(shared):  # the XDG rules: a relative path is to be ignored
        return Path(shared) / "l2l"
    try:
        return Path.home() / ".cache" / "l2l"
    except RuntimeError as error:
        raise OSError("there is no home folder for the cache: set L2L_CACHE to a folder that can be written") from error


@contextmanager
def lock(path: Path, seconds: float | None = None) -> Iterator[None]:
    """Hold the lock file `path` against other processes; it is made, with its folder, and stays behind empty.

    Args:
      path: the lock file.
      seconds: how long to wait for it; LOCK_SECONDS by default.

    Raises TimeoutError if another process holds it for longer, OSError if it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        last = time.monotonic() + (LOCK_SECONDS if seconds is None else seconds)
        # Asked again and again rather than waited for: flock has no time limit of its own.
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > last:
                    raise TimeoutError(f"another process holds {path} and does not let go") from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)  # which lets go of the lock
