"""Files that are whole or not there at all, their faults in one line, and the artefact: a trained phi as one file."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import secrets
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

FORMAT = 1  # raised whenever an older reader would misread the file


class RunError(Exception):
    """A fault of a run directory or an artefact that the user can act on, in one line."""


def write_artefact(path: Path, phi: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Replaces an artefact: an .npz of phi's leaves under '/'-joined keys, and `__meta__`, JSON text. Its folder must exist.

    Equal content gives equal bytes.

    Raises:
      ValueError: a dtype that is not bool or a number, a key `__meta__`, or a meta key `format`.
      RunError: it could not be written.
    """
    if "__meta__" in phi or "format" in meta:
        raise ValueError("phi's key '__meta__' and meta's key 'format' are the file's own")
    # Sorted at the top alone: the order in which a config has its groups says which one comes first.
    text = json.dumps(plain({"format": FORMAT, **dict(sorted(meta.items()))}), allow_nan=False)
    arrays = {key: np.asarray(leaf, order="C") for key, leaf in phi.items()}
    for key, leaf in arrays.items():
        check_dtype(key, leaf)
    with replacing(Path(path)) as file, zipfile.ZipFile(file, "w") as archive:
        for key, leaf in [*sorted(arrays.items()), ("__meta__", np.array(text))]:
            # ZipInfo's own date is 1980: no clock in the bytes
            with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, leaf, allow_pickle=False)


def read_artefact(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """phi's leaves under their '/'-joined keys, and meta, of an artefact. Nothing in the file is executed.

    Raises:
      RunError: no such file, damaged or no .npz at all, without `__meta__`, or of a newer format.
    """
    path = Path(path)
    arrays = {}
    with faults(path):
        data = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                leaf = io.BytesIO(archive.read(member))  # whole, so that its CRC is looked at
                arrays[member.removesuffix(".npy")] = np.lib.format.read_array(leaf, allow_pickle=False)
        meta = json.loads(str(arrays.pop("__meta__"))) if "__meta__" in arrays else None
    except Exception as error:  # a flipped byte surfaces as nearly any exception of zipfile, zlib, struct or NumPy
        raise RunError(f"{path}: damaged, or not an .npz file: {one_line(error)}") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("format"), int):
        raise RunError(f"{path}: not a file of l2l: it has no __meta__ with a format number")
    if meta["format"] > FORMAT:
        raise RunError(f"{path}: format {meta['format']} is newer than this l2l knows ({FORMAT}); update l2l")
    del meta["format"]
    return arrays, meta


def check_dtype(key: str, leaf: np.ndarray) -> None:
    """Raises ValueError unless the array's dtype is bool or a number that NumPy itself knows."""
    if leaf.dtype.kind not in "biufc":
        raise ValueError(f"{key}: cannot store dtype {leaf.dtype}")


def plain(value: Any) -> Any:
    """`value` as strict JSON can hold it: NaN and infinities are None, NumPy scalars and arrays numbers and lists."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value


def strict_json(value: Any) -> bytes:
    """`value` as a JSON file's bytes: UTF-8, indented, NaN and infinities null."""
    return (json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file to write that takes `path`'s place at the end, or vanishes where the writing fails. Its folder must exist."""
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    with faults(path):
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException as error:
            with suppress(OSError):
                temporary.unlink()
            if isinstance(error, OSError) and error.filename == str(temporary):
                error.filename = str(path)  # the name that means something to the user
            raise


def replace_csv(path: Path, columns: list[str], rows: Iterable[tuple[Any, ...]]) -> None:
    """Replaces a CSV file; floats are written in the shortest form that reads back to the same bits. Raises RunError."""
    with replacing(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        # csv takes the repr of a np.float64, which is "np.float64(0.1)"; str is the shortest form of every NumPy float.
        writer.writerows([str(cell) if isinstance(cell, np.generic) else cell for cell in row] for row in rows)
        text.flush()
        text.detach()


@contextmanager
def faults(path: Path) -> Iterator[None]:
    """Turns what the system refuses into a RunError that names the file and the reason."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{error.filename or path}: {error.strerror or error}") from error


def one_line(error: BaseException) -> str:
    """The first line of an error's text, or its type where it has none. TensorStore's are long and end with the reason."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 200 else f"{line[:80]} … {line[-110:]}"
