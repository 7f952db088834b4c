"""What a data set is to the loader, and the decorator that adds one. Importing it loads neither TFDS nor JAX.

A new data set is one new file in this package:

    @register("mnist", "handwritten digits …", classes=10, scale=255.0, files=(RawFile(…), …))
    def mnist(files: Mapping[str, Path]) -> Splits: ...
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from l2lcli import plugins
from l2lcli.registry import NAME, import_entries

if TYPE_CHECKING:
    import numpy as np

Splits: TypeAlias = "dict[str, dict[str, np.ndarray]]"  # split -> {"image": uint8 [n, ...], "label": uint8 or int32 [n], …}


class DataError(Exception):
    """A data set cannot be had. The message is one line that says what to do."""


class RawFile(NamedTuple):
    """One file as its publisher gives it out.

    Attributes:
      name: the published file name.
      size: bytes.
      sha256: of the published file, 64 hex digits.
      addresses: where to download it, tried in this order.
      subsets: sha256 of a known subset -> what it adds to the label ("[10000/1000]").
    """

    name: str
    size: int
    sha256: str
    addresses: tuple[str, ...]
    subsets: Mapping[str, str] = {}


class Source(NamedTuple):
    """One data set before it is prepared.

    Attributes:
      name: what a config calls it.
      description: one line.
      classes: number of classes; labels are 0 … classes - 1.
      scale: images divided by it lie in 0 … 1.
      files: the raw files; none if the data come with an installed package.
      read: raw file name -> path, to the splits "train" and "test", and "validation" where that is part of the data set.
        Raises ValueError if a file does not parse.
      folder: the folder of the raw files, below that of all raw files.
      version: counted up ("1.1.0") when `read` changes what it returns, so that what is in the cache is prepared anew.
      state: of raw files that have no checksums; what was prepared under another one is prepared anew.
    """

    name: str
    description: str
    classes: int
    scale: float
    files: tuple[RawFile, ...]
    read: Callable[[Mapping[str, Path]], Splits]
    folder: str
    version: str = "1.0.0"
    state: str = ""


sources: dict[str, Source] = {}  # filled by `register` as the package's modules are imported


def register(
    name: str,
    description: str,
    *,
    classes: int,
    scale: float,
    files: tuple[RawFile, ...] = (),
    folder: str | None = None,
    version: str = "1.0.0",
) -> Callable[[Callable[[Mapping[str, Path]], Splits]], Callable[[Mapping[str, Path]], Splits]]:
    """Decorate the function that reads the raw files of data set `name`; the arguments are those of `Source`; the folder is the
    name where none is given.

    Raises RegistrationError if the name is taken, or none.
    """

    if not NAME.fullmatch(name):
        raise plugins.RegistrationError(f"{name!r} is no name of a data set: small letters, digits and underscores")

    def decorate(read: Callable[[Mapping[str, Path]], Splits]) -> Callable[[Mapping[str, Path]], Splits]:
        if not read.__module__.startswith("l2lcli.data."):
            import_entries("l2lcli.data")  # before anybody else's name: one of ours stays ours
        if name in sources and sources[name].read.__module__ != read.__module__:
            raise plugins.RegistrationError(f"data set {name!r} is registered already, by {sources[name].read.__module__}")
        sources[name] = Source(name, description, classes, scale, files, read, folder or name, version)
        plugins.registered.append(f"data set {name!r}")
        return read

    return decorate


def named(name: str) -> Source:
    """The registered source. Raises DataError for an unknown name."""
    if name in sources:
        return sources[name]
    close = difflib.get_close_matches(name, sources, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise DataError(f"unknown data set {name!r}{hint} (known: {', '.join(sorted(sources))})")
