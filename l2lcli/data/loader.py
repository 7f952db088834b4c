"""Names -> uint8 arrays in memory. A data set is prepared once, from its raw files into the cache, and read from there.

What is prepared lies in `<cache>/tfds/<name>/<version>` beside its own fingerprint, `prepared.json`. It gets there by one
rename, under a lock, and is read back and compared each time, so that a half-written or damaged one is never used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from l2lcli import plugins
from l2lcli.data import cache, raw
from l2lcli.data.source import DataError, Source, Splits, named, sources
from l2lcli.registry import import_entries

__all__ = ["DataError", "Dataset", "describe", "load", "names", "prepared"]

_RECORD = "prepared.json"


class Dataset(NamedTuple):
    """A data set in memory.

    Attributes:
      splits: "train" and "test", and "validation" where the data set has one -> {"image": uint8 [n, ...], "label": uint8 or
        int32 [n]}, and what else its reader says.
      label: what results on it are to be labelled with: "mnist", or "cifar10[10000/1000]" for a known subset.
      classes: number of classes; labels are 0 … classes - 1.
      scale: images divided by it lie in 0 … 1.
      fingerprint: first 16 hex digits of the sha256 of the arrays, with their names, types and shapes.
    """

    splits: Splits
    label: str
    classes: int
    scale: float
    fingerprint: str


def names() -> list[str]:
    """The names that `load` knows, sorted."""
    _list()
    return sorted(sources)


def describe() -> list[tuple[str, str]]:
    """(name, one line about it), sorted by name."""
    return [(name, sources[name].description) for name in names()]


def load(name: str, raw_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load a data set, preparing it first if the cache does not hold it whole.

    Args:
      name: one of `names()`.
      raw_dir: folder with the raw files, as `<raw_dir>/<name>/<published file name>`; default `$L2L_RAW_DIR`. With neither,
        they are taken from the cache's folder `raw`, and downloaded into it. Not needed once the data are prepared.

    Raises DataError, with a message of one line, for an unknown name, a raw file that is missing, wrong or cannot be
    downloaded, and a cache that cannot be written.
    """
    _list()
    return prepared(named(name), raw_dir)


def prepared(source: Source, raw_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """As `load`, of a source that need not be registered.

    What its `read` raises comes through, but for ValueError and OSError, which become DataError.
    """
    name = source.name
    try:
        home = cache.folder() / "tfds"
        target = home / name / source.version
        found = _prepared(source, target, raw_dir)
        if found is None:
            with cache.lock(home / f".{name}.lock"):
                # Again: another process may have prepared it while this one waited.
                found = _prepared(source, target, raw_dir) or _prepare(source, target, raw_dir)
    except OSError as error:
        raise DataError(
            f"{name}: cannot be prepared in the cache: {_line(error)}; L2L_CACHE names a folder to use instead"
        ) from error
    return found


def fingerprint(splits: Splits) -> str:
    """First 16 hex digits of the sha256 over every array with its split, key, type and shape."""
    import numpy as np

    digest = hashlib.sha256()
    for split, arrays in sorted(splits.items()):
        for key, array in sorted(arrays.items()):
            digest.update(f"{split}/{key} {array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def _list() -> None:
    import_entries("l2lcli.data")
    plugins.take_entry_points("l2l.datasets")


def _prepared(source: Source, folder: Path, raw_dir: str | os.PathLike[str] | None) -> Dataset | None:
    """What was prepared in `folder`; None if nothing was, if it is damaged, or if `raw_dir` holds another subset."""
    try:
        record = json.loads((folder / _RECORD).read_text())
        label, expected, sizes = record["label"], record["fingerprint"], dict(record["raw"])
        state = record.get("state", "")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if state != source.state or _another(source, sizes, raw_dir):
        return None
    from l2lcli.data import _blocks  # TFDS takes most of a second to import: not before there is something to read

    try:
        splits = _blocks.read(folder)
    except MemoryError:
        raise
    except Exception:  # whatever a damaged file makes TFDS, protobuf or array_record's C++ raise
        return None
    if fingerprint(splits) != expected:
        return None
    return Dataset(splits, str(label), source.classes, source.scale, expected)


def _another(source: Source, sizes: dict[str, Any], raw_dir: str | os.PathLike[str] | None) -> bool:
    """Whether the folder that the user names holds other files than those prepared from: the whole set and not the subset.

    Their sizes tell; hashing hundreds of megabytes at every load would not be worth it.
    """
    given = raw.given_folder(raw_dir)
    if given is None or not any(file.subsets for file in source.files):
        return False
    paths = [given / source.folder / file.name for file in source.files]
    return any(path.is_file() and path.stat().st_size != sizes.get(path.name) for path in paths)


def _prepare(source: Source, target: Path, raw_dir: str | os.PathLike[str] | None) -> Dataset:
    """Prepare into `target`, in place of whatever is there. The caller holds the lock."""
    files, label = raw.find(source, raw_dir)
    try:
        splits = source.read(files)
    except ValueError as error:
        raise DataError(f"{source.name}: {_line(error)}") from error
    from l2lcli.data import _blocks

    # One name is enough under the lock, and clears up after a kill.
    staging = target.parent.parent / f".{source.name}.preparing"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        mark = fingerprint(splits)
        try:
            made = _blocks.write(source.name, source.version, source.description, splits, staging)
            splits = _blocks.read(
                made
            )  # what this process gets is what later ones will: the same bytes, in arrays of their own
        except RuntimeError as error:  # so array_record's C++ reports a full disk
            raise OSError(_line(error)) from error
        if fingerprint(splits) != mark:
            raise OSError(f"what was written to {staging} reads back otherwise")
        sizes = {name: path.stat().st_size for name, path in files.items()}
        record = {"label": label, "fingerprint": mark, "raw": sizes, "state": source.state}
        (made / _RECORD).write_text(json.dumps(record, indent=1) + "\n")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            os.rename(target, staging / "damaged")
        os.rename(made, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Dataset(splits, label, source.classes, source.scale, mark)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
