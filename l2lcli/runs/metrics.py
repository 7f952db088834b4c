"""metrics.jsonl, the source of truth on a run: it grows by whole lines, and a last line without its end does not count."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any

from l2lcli.runs.files import RunError, as_json, faults


def append_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Adds rows, whole lines, handed to the system when it returns. NaN and infinities become null. Raises RunError."""
    lines = "".join(json.dumps(as_json(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    with faults(path), open(path, "ab+") as file:
        _drop_torn_line(file)
        file.write(lines.encode())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows; none where there is no file. A last line without its end, which a killed process leaves, is not counted.

    Raises:
      RunError: any other line that is not a JSON object.
    """
    rows = []
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise RunError(f"{path}:{number}: not a JSON object; the file is damaged")
        rows.append(row)
    return rows


def keep_rows(path: Path, count: int) -> None:
    """Keeps the first `count` rows, byte for byte, and nothing of a torn line. Raises RunError where there are fewer."""
    lines = whole_lines(path)
    if len(lines) < count:
        raise RunError(f"{path}: {len(lines)} rows, but the checkpoint was made after {count}; the file is damaged")
    if path.exists():
        with faults(path), open(path, "rb+") as file:
            file.truncate(sum(len(line) + 1 for line in lines[:count]))
            os.fsync(file.fileno())


def flush_rows(path: Path) -> None:
    """Waits until the rows are on the disk; nothing to do where there are none. Raises RunError."""
    with faults(path):
        if path.exists():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def whole_lines(path: Path) -> list[bytes]:
    """The whole lines without their ends; none where there is no file. Raises RunError where it cannot be read."""
    with faults(path):
        return path.read_bytes().split(b"\n")[:-1] if path.exists() else []


def _drop_torn_line(file: IO[bytes]) -> None:
    """Cuts off a last line without its end, which is what a process killed in the midst of writing leaves."""
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
