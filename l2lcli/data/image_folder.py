"""Images as people have them: files in a folder for each class, or in one folder with a table of their labels.

    <folder>/{train,val,test}/<class>/<image>
    <folder>/{train,val,test}.csv with columns filename,label, and <folder>/images/<filename>

The second is how the splits of miniImageNet (Ravi and Larochelle 2017) are handed on. There are no checksums: what is
prepared holds as long as the files' names, sizes and times stay.
"""

from __future__ import annotations

import csv
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from l2lcli.data import loader, raw
from l2lcli.data.source import DataError, Source, Splits

if TYPE_CHECKING:
    import numpy as np

SPLITS = {"train": "train", "validation": "val", "test": "test"}  # split -> how its folder or table is called
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
SCALE = 255.0


class Listing(NamedTuple):
    """What a folder holds, before any image is read.

    Attributes:
      root: the folder.
      classes: split -> class -> paths of its images; classes and paths are sorted.
    """

    root: Path
    classes: dict[str, dict[str, list[Path]]]


def listing(folder: str, raw_dir: str | os.PathLike[str] | None = None) -> Listing:
    """Find the classes and their images, in every split.

    Args:
      folder: absolute, or below the folder of all raw files (`raw.home(raw_dir)`).
      raw_dir: as of `loader.load`.

    Raises DataError, with a message of one line, if there is no such folder, if a split is missing or empty, if a table cannot
    be read, or if a class stands in two splits.
    """
    try:
        root = raw.home(raw_dir) / os.path.expanduser(folder)
        if not root.is_dir():
            raise DataError(f"no folder {root}: problem.folder is to be absolute, or below data.raw_dir or L2L_RAW_DIR")
        classes = {split: _split(root, name) for split, name in SPLITS.items()}
    except OSError as error:
        raise DataError(f"cannot be listed: {error}") from error
    seen: dict[str, str] = {}
    for split, found in classes.items():
        for name in found:
            if name in seen:
                raise DataError(f"{root}: class {name} stands in {SPLITS[seen[name]]} and in {SPLITS[split]}")
            seen[name] = split
    return Listing(root, classes)


def load(found: Listing, size: int) -> loader.Dataset:
    """The images as arrays [n, size, size, 3], from the cache if they were prepared before.

    Labels count the classes of all splits. Raises DataError if an image cannot be read or the cache not be written.
    """
    home = hashlib.sha256(f"{found.root.resolve()} {size}".encode()).hexdigest()[:12]
    source = Source(
        f"image_folder_{home}",
        f"images of {found.root.name}, {size}x{size} colour",
        classes=sum(map(len, found.classes.values())),
        scale=SCALE,
        files=(),
        read=lambda files: _read(found, size),
        folder=found.root.name,
        state=_state(found),
    )
    return loader.prepared(source)._replace(label=found.root.name)


def _split(root: Path, name: str) -> dict[str, list[Path]]:
    if (root / name).is_dir():
        classes = {
            folder.name: sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
            for folder in sorted((root / name).iterdir())
            if folder.is_dir() and not folder.name.startswith(".")
        }
    elif (root / f"{name}.csv").is_file():
        classes = _table(root / f"{name}.csv")
    else:
        raise DataError(f"{root}: neither a folder {name} with a folder for each class nor {name}.csv beside images/")
    if not classes:
        raise DataError(f"{root}: no classes in {name}")
    return classes


def _table(path: Path) -> dict[str, list[Path]]:
    classes: dict[str, set[Path]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"filename", "label"} <= set(rows.fieldnames or ()):
                raise DataError(f"{path}: its first line is to name the columns filename and label")
            for row in rows:
                if not row["filename"] or not row["label"]:
                    raise DataError(f"{path}:{rows.line_num}: needs a filename and a label")
                classes.setdefault(row["label"], set()).add(path.parent / "images" / row["filename"])
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a table of text: {error}") from error
    return {name: sorted(classes[name]) for name in sorted(classes)}


def _state(found: Listing) -> str:
    """Digest of every image's split, class, name, size and time. Raises DataError if one is missing."""
    digest = hashlib.sha256()
    for split, classes in found.classes.items():
        for name, paths in classes.items():
            digest.update(f"{split}/{name}\n".encode())
            for path in paths:
                try:
                    file = path.stat()
                except OSError as error:
                    raise DataError(f"{path}: {error.strerror}") from error
                digest.update(f"{path.name} {file.st_size} {file.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _read(found: Listing, size: int) -> Splits:
    import numpy as np

    splits: Splits = {}
    number = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter's lock
        for split, classes in found.classes.items():
            paths = [path for paths in classes.values() for path in paths]
            image = np.empty((len(paths), size, size, 3), np.uint8)
            for row, one in enumerate(pool.map(lambda path: _image(path, size), paths)):
                image[row] = one
            counts = [len(paths) for paths in classes.values()]
            label = np.repeat(np.arange(number, number + len(counts), dtype=np.int32), counts)
            splits[split] = {"image": image, "label": label}
            number += len(counts)
    return splits


def _image(path: Path, size: int) -> np.ndarray:
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged file makes Pillow's many readers raise
        raise DataError(f"{path}: not an image that can be read: {' '.join(str(error).split())}") from error
