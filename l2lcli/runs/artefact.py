"""The artefact: a trained phi as one file, and what it says of itself."""

from __future__ import annotations

import io
import json
import lzma
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from l2lcli.runs.files import RunError, as_json, faults, one_line, replacing

FORMAT = 1  # raised whenever an older reader would misread the file


def write_artefact(path: Path, phi: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Replaces an artefact: an .npz of phi's leaves under '/'-joined keys, and `__meta__`, JSON text. Its folder must exist.

    Equal content gives equal bytes.

    Raises:
      ValueError: a dtype that is not bool or a number, a key `__meta__`, or a meta key `format`.
      RunError: it could not be written.
    """
    content = packed(phi, meta)
    with replacing(Path(path)) as file:
        file.write(content)


def packed(phi: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> bytes:
    """The bytes of an artefact. Raises ValueError as `write_artefact`."""
    arrays, about = content(phi, meta)
    text, whole = json.dumps(about, allow_nan=False), io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for key, leaf in [*arrays.items(), ("__meta__", np.array(text))]:
            # ZipInfo's own date is 1980: no clock in the bytes
            with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, leaf, allow_pickle=False)
    return whole.getvalue()


def content(phi: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What a file of either kind holds: the leaves, contiguous and sorted, and meta with the format number, fit for JSON.

    Raises ValueError as `write_artefact`.
    """
    if "__meta__" in phi or "format" in meta:
        raise ValueError("phi's key '__meta__' and meta's key 'format' are the file's own")
    arrays = {key: np.asarray(phi[key], order="C") for key in sorted(phi)}
    for key, leaf in arrays.items():
        check_dtype(key, leaf)
    # Sorted at the top alone: the order in which a config has its groups says which one comes first.
    return arrays, as_json({"format": FORMAT, **dict(sorted(meta.items()))})


def read_artefact(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """phi's leaves under their '/'-joined keys, and meta, of an artefact, or of one packed as .xz. Nothing in it is executed.

    Raises:
      RunError: no such file, damaged or no .npz at all, without `__meta__`, or of a newer format.
    """
    path = Path(path)
    arrays = {}
    with faults(path):
        data = path.read_bytes()
    try:
        data = lzma.decompress(data) if path.suffix == ".xz" else data
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                leaf = io.BytesIO(archive.read(member))  # whole, so that its CRC is looked at
                arrays[member.removesuffix(".npy")] = np.lib.format.read_array(leaf, allow_pickle=False)
        meta = json.loads(str(arrays.pop("__meta__"))) if "__meta__" in arrays else None
    except Exception as error:  # a flipped byte surfaces as nearly any exception of zipfile, zlib, struct or NumPy
        raise RunError(f"{path}: damaged, or not an .npz file: {one_line(error)}") from None
    return arrays, known(path, meta)


def known(path: Path, meta: Any) -> dict[str, Any]:
    """What a file says of itself, without the format number. Raises RunError if it has none, or a newer one."""
    if not isinstance(meta, dict) or not isinstance(meta.get("format"), int):
        raise RunError(f"{path}: not a file of l2l: it has no __meta__ with a format number")
    if meta["format"] > FORMAT:
        raise RunError(f"{path}: format {meta['format']} is newer than this l2l knows ({FORMAT}); update l2l")
    return {key: value for key, value in meta.items() if key != "format"}


def check_dtype(key: str, leaf: np.ndarray) -> None:
    """Raises ValueError unless the array's dtype is bool or a number that NumPy itself knows."""
    if leaf.dtype.kind not in "biufc":
        raise ValueError(f"{key}: cannot store dtype {leaf.dtype}")
