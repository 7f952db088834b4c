"""Omniglot: handwritten characters of many alphabets, 20 drawings of each (Lake, Salakhutdinov and Tenenbaum 2015)."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeAlias

from l2lcli.data.source import RawFile, Splits, register

if TYPE_CHECKING:
    import numpy as np

SIZE = 28  # the drawings have 105 x 105 pixels; the literature on few-shot learning takes 28 x 28
_AT = "https://github.com/brendenlake/omniglot/raw/master/python/"
# Alphabets of the two small sets that training does not see. Greek and Latin stand in both files and count once.
SMALL = {"validation": ("Early_Aramaic",), "test": ("Sanskrit", "Tagalog")}
VALIDATION = 5  # alphabets of the background set, the last ones by name, that the full set's training does not see

Drawings: TypeAlias = "dict[tuple[str, str], dict[str, np.ndarray]]"  # (alphabet, character) -> file -> uint8 [28, 28]


def _file(name: str, size: int, sha256: str) -> RawFile:
    return RawFile(name, size, sha256, (_AT + name,))


@register(
    "omniglot",
    "handwritten characters, 28x28 grey, 1,623 classes of 50 alphabets, 20 images each",
    classes=1623,
    scale=255.0,
    files=(
        _file("images_background.zip", 9464212, "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640"),
        _file("images_evaluation.zip", 6462886, "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee"),
    ),
)
def omniglot(files: Mapping[str, Path]) -> Splits:
    """uint8 images [n, 28, 28], strokes 255 on 0; labels number the characters, "alphabet" [n] the alphabets, of all splits.

    The publisher's split by alphabet: the 20 of images_evaluation.zip are the test set, the 30 of images_background.zip are
    for training, its last 5 by name for validation. Raises ValueError if an archive or an image in it does not parse.
    """
    background, evaluation = _read(files["images_background.zip"]), _read(files["images_evaluation.zip"])
    last = sorted({alphabet for alphabet, _ in background})[-VALIDATION:]
    of = dict.fromkeys(last, "validation") | dict.fromkeys((alphabet for alphabet, _ in evaluation), "test")
    return _splits(background | evaluation, of)


@register(
    "omniglot_small",
    "handwritten characters, 28x28 grey, 242 classes of 8 alphabets, 20 images each: Omniglot's two minimal sets",
    classes=242,
    scale=255.0,
    files=(
        _file("images_background_small1.zip", 1319022, "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4"),
        _file("images_background_small2.zip", 1580917, "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f"),
    ),
    folder="omniglot",
)
def omniglot_small(files: Mapping[str, Path]) -> Splits:
    """As `omniglot`, of the two small sets: Sanskrit and Tagalog to test on, Early Aramaic to validate, five to train on."""
    drawings: Drawings = {}
    for path in files.values():
        for character, images in _read(path).items():
            drawings.setdefault(character, {}).update(images)
    return _splits(drawings, {alphabet: split for split, alphabets in SMALL.items() for alphabet in alphabets})


def _splits(drawings: Drawings, of: Mapping[str, str]) -> Splits:
    """Arrays of each split; an alphabet that `of` does not name is for training."""
    import numpy as np

    alphabets = sorted({alphabet for alphabet, _ in drawings})
    found: dict[str, list[tuple[np.ndarray, int, int]]] = {"train": [], "validation": [], "test": []}
    for label, ((alphabet, _), images) in enumerate(sorted(drawings.items())):
        rows = [(images[name], label, alphabets.index(alphabet)) for name in sorted(images)]
        found[of.get(alphabet, "train")] += rows
    if empty := [split for split, rows in found.items() if not rows]:
        raise ValueError(f"no alphabet for {', '.join(empty)} among {', '.join(alphabets)}")
    return {
        split: {"image": np.stack(image), "label": np.array(label, np.int32), "alphabet": np.array(alphabet, np.int32)}
        for split, rows in found.items()
        for image, label, alphabet in [zip(*rows, strict=True)]
    }


def _read(path: Path) -> Drawings:
    """The drawings of an archive with members <archive>/<alphabet>/<character>/<drawing>.png."""
    drawings: Drawings = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in map(PurePosixPath, archive.namelist()):
                if member.suffix == ".png":
                    if len(member.parts) != 4:
                        raise ValueError(f"{path}: {member} is not <archive>/<alphabet>/<character>/<drawing>.png")
                    _, alphabet, character, name = member.parts
                    image = _image(archive.read(str(member)), f"{path}: {member}")
                    drawings.setdefault((alphabet, character), {})[name] = image
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path}: not a whole zip file: {error}") from error
    return drawings


def _image(content: bytes, name: str) -> np.ndarray:
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            # Grey first: of images of one bit Pillow gives 0 and 1, and resizes them to the nearest pixel, which breaks lines.
            small = image.convert("L").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{name}: not an image: {error}") from error
    return 255 - np.asarray(small)
