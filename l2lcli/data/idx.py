"""MNIST and Fashion-MNIST: the idx format, gzip-compressed."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from l2lcli.data.source import RawFile, Splits, register

if TYPE_CHECKING:
    import numpy as np

_MNIST = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
_FASHION = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
)
_PREFIXES = {"train": "train", "test": "t10k"}


def _file(mirrors: tuple[str, ...], name: str, size: int, sha256: str) -> RawFile:
    return RawFile(name, size, sha256, tuple(mirror + name for mirror in mirrors))


def parse(path: Path, axes: int) -> np.ndarray:
    """The uint8 array in an idx file of bytes, gzip-compressed.

    The format (yann.lecun.com/exdb/mnist): two zero bytes, 8 for uint8, the number of axes, each axis as big-endian uint32,
    then the values, last axis fastest.

    Args:
      path: the file.
      axes: how many axes it must have.

    Raises ValueError if it is not such a file, or is cut off.
    """
    import numpy as np

    try:
        with gzip.open(path) as file:
            content = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: not a whole gzip file: {error}") from error
    start = 4 + 4 * axes
    if len(content) < start or content[:4] != bytes([0, 0, 8, axes]):
        raise ValueError(f"{path}: not an idx file of bytes with {axes} axes")
    shape = struct.unpack(f">{axes}I", content[4:start])
    values = np.frombuffer(content, np.uint8, offset=start)
    if values.size != np.prod(shape, dtype=object):  # as Python integers: a false header could overflow
        raise ValueError(f"{path}: {values.size} values where its header says {'x'.join(map(str, shape))}")
    return values.reshape(shape)


def _read(files: Mapping[str, Path]) -> Splits:
    splits: Splits = {}
    for split, prefix in _PREFIXES.items():
        image = parse(files[f"{prefix}-images-idx3-ubyte.gz"], axes=3)
        label = parse(files[f"{prefix}-labels-idx1-ubyte.gz"], axes=1)
        if len(image) != len(label):
            raise ValueError(f"{split}: {len(image)} images, but {len(label)} labels")
        splits[split] = {"image": image, "label": label}
    return splits


@register(
    "mnist",
    "handwritten digits, 28x28 grey, 10 classes, 60,000 + 10,000",
    classes=10,
    scale=255.0,
    files=(
        _file(
            _MNIST,
            "train-images-idx3-ubyte.gz",
            9912422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        _file(_MNIST, "train-labels-idx1-ubyte.gz", 28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        _file(_MNIST, "t10k-images-idx3-ubyte.gz", 1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        _file(_MNIST, "t10k-labels-idx1-ubyte.gz", 4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    ),
)
def mnist(files: Mapping[str, Path]) -> Splits:
    """uint8 images [60000, 28, 28] and [10000, 28, 28] with values 0 … 255; LeCun, Cortes and Burges."""
    return _read(files)


@register(
    "fashion_mnist",
    "articles of clothing, 28x28 grey, 10 classes, 60,000 + 10,000",
    classes=10,
    scale=255.0,
    files=(
        _file(
            _FASHION,
            "train-images-idx3-ubyte.gz",
            26421880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        _file(
            _FASHION, "train-labels-idx1-ubyte.gz", 29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
        ),
        _file(
            _FASHION, "t10k-images-idx3-ubyte.gz", 4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
        ),
        _file(_FASHION, "t10k-labels-idx1-ubyte.gz", 5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    ),
)
def fashion_mnist(files: Mapping[str, Path]) -> Splits:
    """uint8 images [60000, 28, 28] and [10000, 28, 28] with values 0 … 255; Xiao, Rasul and Vollgraf 2017."""
    return _read(files)
