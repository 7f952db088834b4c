"""Raw files: found in a given folder or downloaded into the cache, and never used unless their checksum is a known one."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import BinaryIO

from l2lcli.data import cache
from l2lcli.data.source import DataError, RawFile, Source

SECONDS = 15.0  # for a connection, and for each silence on it
SLOWEST = 10_000  # bytes a second, over all a download so far: one that trickles is given up too
_CHUNK = 1 << 16


def given_folder(raw_dir: str | os.PathLike[str] | None) -> Path | None:
    """The folder of raw files that the caller names, or else `$L2L_RAW_DIR`; None if neither does."""
    chosen = raw_dir or os.environ.get("L2L_RAW_DIR")
    return None if not chosen else Path(os.path.abspath(os.path.expanduser(chosen)))


def home(raw_dir: str | os.PathLike[str] | None) -> Path:
    """The folder of all raw files: the one that the caller names, else `$L2L_RAW_DIR`, else `raw` in the cache folder."""
    return given_folder(raw_dir) or cache.folder() / "raw"


def find(source: Source, raw_dir: str | os.PathLike[str] | None) -> tuple[dict[str, Path], str]:
    """The raw files of a data set, each with a known checksum.

    They are looked for as `<home(raw_dir)>/<the source's folder>/<published file name>`; into the cache alone they are
    downloaded if they are missing.

    Returns:
      Published file name -> path; and the run's label for them, "cifar10" or, with a known subset, "cifar10[10000/1000]".

    Raises DataError if a file is missing, has an unknown checksum or cannot be downloaded, OSError if the disk refuses.
    """
    given = given_folder(raw_dir)
    folder = home(raw_dir) / source.folder
    paths = {file.name: folder / file.name for file in source.files}
    missing = [file for file in source.files if not paths[file.name].exists()]
    if missing and given is not None:
        setting = "L2L_RAW_DIR" if not raw_dir else "the raw data folder (data.raw_dir)"
        raise DataError(
            f"{source.name}: no {', '.join(file.name for file in missing)} in {folder}: "
            f"put the published file{'s' * (len(missing) > 1)} there, or leave {setting} unset to download"
        )
    for file in missing:
        _download(file, paths[file.name])
    marks = {_mark(file, paths[file.name]) for file in source.files} - {""}
    return paths, source.name + "".join(sorted(marks))


def _mark(file: RawFile, path: Path) -> str:
    """What the file adds to the label: nothing if it is the published one. Raises DataError for an unknown checksum."""
    if not path.is_file():
        raise DataError(f"{path}: not a file")
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read a raw file: {error}") from error
    if found == file.sha256:
        return ""
    if found in file.subsets:
        return file.subsets[found]
    raise DataError(
        f"{path}: not the published file ({path.stat().st_size} bytes with sha256 {found[:12]}…, "
        f"not {file.size} with {file.sha256[:12]}…): delete it, or put the published one in its place"
    )


def _download(file: RawFile, path: Path) -> None:
    """Download to `path`; what arrives is named so only when it is whole and its checksum right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for address in file.addresses:
        descriptor, partial = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                failure = _fetch(address, file, stream)
                stream.flush()
                os.fsync(stream.fileno())
            if failure is None:
                os.chmod(partial, 0o644)  # mkstemp's 0600 would shut out those one shares the cache with
                os.replace(partial, path)
                return
            failures.append(f"{address} ({failure})")
        finally:
            Path(partial).unlink(missing_ok=True)
    raise DataError(
        f"cannot download {' or '.join(failures)}: put the file by hand at {path}, "
        f"or set L2L_RAW_DIR to a folder that holds {path.parent.name}/{file.name}"
    )


def _fetch(address: str, file: RawFile, stream: BinaryIO) -> str | None:
    """Copy what is at `address` into `stream`. Returns what went wrong, in a line; None if nothing did."""
    digest, size, began = hashlib.sha256(), 0, time.monotonic()
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as response:
            while chunk := response.read1(_CHUNK):
                size += len(chunk)
                if size > file.size:
                    return f"more than the {file.size} bytes of the published file"
                digest.update(chunk)
                try:
                    stream.write(chunk)
                except OSError as error:  # a full disk is no matter of the address
                    raise DataError(f"cannot write {file.name} into the cache: {error}") from error
                elapsed = time.monotonic() - began
                if elapsed > SECONDS and size < elapsed * SLOWEST:
                    return f"too slow: {size} bytes in {elapsed:.0f} s"
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        return " ".join(str(reason).split()) or type(error).__name__
    if size < file.size:
        return f"broke off after {size} of {file.size} bytes"
    if digest.hexdigest() != file.sha256:
        return f"sha256 {digest.hexdigest()[:12]}…, not the published {file.sha256[:12]}…"
    return None
