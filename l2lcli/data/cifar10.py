"""CIFAR-10: the binary version, records of one label byte and 3 x 32 x 32 pixel bytes in a gzip-compressed tar file."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from l2lcli.data.source import RawFile, Splits, register

if TYPE_CHECKING:
    import numpy as np

_NAME = "cifar-10-binary.tar.gz"
_FOLDER = "cifar-10-batches-bin"
_PARTS = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
_IMAGE = (3, 32, 32)  # as stored: a plane for each colour
_RECORD = 1 + 3 * 32 * 32
_MOST = 10_000  # records in a file
_CLASSES = 10


@register(
    "cifar10",
    "photographs of animals and vehicles, 32x32 colour, 10 classes, 50,000 + 10,000",
    classes=_CLASSES,
    scale=255.0,
    files=(
        RawFile(
            _NAME,
            170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            (f"https://www.cs.toronto.edu/~kriz/{_NAME}",),
            # data_batch_1 and the first 1,000 test images; the other batches are empty.
            {"af95a8464eee0e9dda146672833947032e341506d52c4b7bf2f225691d1b950c": "[10000/1000]"},
        ),
    ),
)
def cifar10(files: Mapping[str, Path]) -> Splits:
    """uint8 images [50000, 32, 32, 3] and [10000, 32, 32, 3] with values 0 … 255; Krizhevsky 2009, cs.toronto.edu/~kriz.

    Raises ValueError if the archive is cut off, lacks a file, or one of them is not whole records with labels 0 … 9.
    """
    import numpy as np

    path = files[_NAME]
    splits: Splits = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for split, names in _PARTS.items():
                records = np.concatenate([_records(archive, f"{_FOLDER}/{name}") for name in names])
                if not len(records):
                    raise ValueError(f"{path}: no images for {split}")
                image = records[:, 1:].reshape(-1, *_IMAGE).transpose(0, 2, 3, 1)
                splits[split] = {"image": np.ascontiguousarray(image), "label": records[:, 0].copy()}
    except (EOFError, zlib.error, tarfile.TarError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: not a whole tar.gz file: {error}") from error
    return splits


def _records(archive: tarfile.TarFile, name: str) -> np.ndarray:
    """The records of one file, [n, 3073] uint8; a subset's may be empty."""
    import numpy as np

    try:
        member = archive.getmember(name)
    except KeyError:
        raise ValueError(f"{archive.name}: no {name} in it") from None
    if member.size % _RECORD or member.size > _MOST * _RECORD or not member.isfile():
        raise ValueError(f"{archive.name}: {name} has {member.size} bytes, not up to {_MOST} records of {_RECORD}")
    file = archive.extractfile(member)
    content = b"" if file is None else file.read()
    if len(content) != member.size:
        raise ValueError(f"{archive.name}: {name} breaks off after {len(content)} of {member.size} bytes")
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    if len(records) and (highest := int(records[:, 0].max())) >= _CLASSES:
        raise ValueError(f"{archive.name}: {name} has a label {highest}, not 0 to {_CLASSES - 1}")
    return records
