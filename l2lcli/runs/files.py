"""Files that are whole or not there at all, and their faults in one line."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import yaml
from pydantic import TypeAdapter, ValidationError

Shape = TypeVar("Shape")


class RunError(Exception):
    """A fault of a run directory or an artefact that the user can act on, in one line."""


def as_json(value: Any) -> Any:
    """`value` as strict JSON can hold it: NaN and infinities are None, NumPy scalars and arrays numbers and lists."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: as_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(entry) for entry in value]
    return value


def strict_json(value: Any) -> bytes:
    """`value` as a JSON file's bytes: UTF-8, indented, NaN and infinities null."""
    return (json.dumps(as_json(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


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


@contextmanager
def making(folder: Path) -> Iterator[Path]:
    """An empty folder to fill that takes `folder`'s name at the end, or vanishes where the filling fails.

    Its parent must exist. Raises RunError where there is a file or a folder of that name.
    """
    temporary = folder.parent / f".{folder.name}.{secrets.token_hex(4)}"
    with faults(folder):
        try:
            temporary.mkdir()
            yield temporary
            temporary.rename(folder)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError) and error.filename == str(temporary):
                error.filename = str(folder)
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


def read_text(path: Path) -> str | None:
    """A text file, None where there is no file. Raises RunError where it is not UTF-8."""
    with faults(path):
        data = path.read_bytes() if path.is_file() else None
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        raise RunError(f"{path}: damaged: not UTF-8") from None


def read_yaml(path: Path, shape: type[Shape]) -> Shape:
    """What a YAML file holds, as `list[Claim]`, say. Raises RunError, in one line, where it is damaged, or not there."""
    text = read_text(path)
    if text is None:
        raise RunError(f"{path}: no such file")
    try:
        return TypeAdapter(shape).validate_python(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise RunError(f"{path}: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RunError(f"{path}: {'.'.join(map(str, first['loc'])) or 'the list'}: {first['msg']}") from None


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None where there is no file. Raises RunError where it is damaged."""
    if (text := read_text(path)) is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: damaged: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: damaged: expected a JSON object")
    return value
