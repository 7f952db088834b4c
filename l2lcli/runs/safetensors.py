"""An artefact as a .safetensors file, which other frameworks read; the package safetensors is an extra.

That format has no checksum, so that a flipped byte would be read as another number: a digest of everything is kept in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from l2lcli.runs.artefact import content, known
from l2lcli.runs.files import RunError, faults, one_line

SUFFIX = ".safetensors"
META = "__meta__"  # alone in the file's metadata, whose entries come to lie in any order
EXTRA = "needs the package safetensors, which is not installed: pip install 'l2lcli[hf]'"


def packed(phi: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> bytes:
    """The bytes of phi's leaves under their '/'-joined keys, and of `__meta__`, JSON text, in the metadata.

    Equal content gives equal bytes.

    Raises:
      ValueError: as `artefact.write_artefact`, or a meta key `sha256`.
      RunError: the package is not installed, or cannot keep a leaf's dtype.
    """
    try:
        from safetensors.numpy import save
    except ImportError:
        raise RunError(f"a {SUFFIX} file {EXTRA}") from None
    if "sha256" in meta:
        raise ValueError("meta's key 'sha256' is the file's own")
    arrays, about = content(phi, meta)
    text = lambda digest: json.dumps(about | {"sha256": digest}, allow_nan=False)
    # As they will be read, for the digest is over their bytes.
    arrays = {key: leaf.astype(leaf.dtype.newbyteorder("<"), copy=False) for key, leaf in arrays.items()}
    try:
        return save(arrays, metadata={META: text(_digest(arrays, text("")))})
    except Exception as error:  # the package's own, which it does not tell apart from others
        raise RunError(f"cannot be kept as {SUFFIX}: {one_line(error)}") from None


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """phi's leaves under their '/'-joined keys, and meta, as `artefact.read_artefact` gives them.

    Raises:
      RunError: no such file, the package is not installed; damaged or no such file at all, without `__meta__`, or of a newer
        format.
    """
    path = Path(path)
    with faults(path):
        data = path.read_bytes()
    try:
        from safetensors.numpy import load
    except ImportError:
        raise RunError(f"{path}: reading it {EXTRA}") from None
    try:
        arrays = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        text = header.get("__metadata__", {}).get(META, "null")
        meta = json.loads(text)
    except Exception as error:  # a flipped byte surfaces as nearly any exception of safetensors, json or NumPy
        raise RunError(f"{path}: damaged, or not a {SUFFIX} file: {one_line(error)}") from None
    meta = known(path, meta)
    digest = meta.pop("sha256", None)
    if not isinstance(digest, str) or _digest(arrays, text.replace(digest, "", 1)) != digest:
        raise RunError(f"{path}: damaged: its numbers are not those that were written (SHA-256)")
    return arrays, meta


def _digest(arrays: Mapping[str, np.ndarray], text: str) -> str:
    """SHA-256 over meta's text, the digest itself left out of it, and over names, types, shapes and bytes of the leaves."""
    digest = hashlib.sha256(text.encode())
    for key in sorted(arrays):
        leaf = arrays[key]
        digest.update(json.dumps([key, leaf.dtype.str, leaf.shape]).encode() + leaf.tobytes())
    return digest.hexdigest()
