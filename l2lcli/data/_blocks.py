"""Arrays written and read back through TensorFlow Datasets, without TensorFlow.

The stock builders need TensorFlow to prepare. This one takes arrays that are in memory already and stores them in blocks:
one TFDS example is up to 1,000 images and their labels as raw bytes, so that MNIST comes back in 0.2 s where 70,000 examples
of one image would take a minute. The format is array_record, which `tfds.data_source` reads without TensorFlow.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from l2lcli.data.source import Splits

BLOCK = 1000


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Not looked up in TFDS's bucket: nothing of ours lies there, and the look-up leaves a temporary folder behind."""


class Blocks(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A TFDS builder of arrays in memory, in their order. Not registered: the names are those of TFDS's own data sets.

    Args:
      name: of the data set, and of its folder.
      version: "1.0.0".
      description: one line.
      splits: split -> key -> array [n, ...]; keys and all but n and the values are the same in every split.
      data_dir: folder under which `<name>/<version>` is written.
    """

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # TFDS would look beside this file for checksums of downloads; there are none

    def __init__(self, name: str, version: str, description: str, splits: Splits, data_dir: Path) -> None:
        """Keeps the arrays; nothing is written before `download_and_prepare`."""
        self.name = name  # pyright: ignore[reportAttributeAccessIssue]  a class property to TFDS, which its own code sets, too
        self.VERSION = tfds.core.Version(version)
        self._description, self._splits = description, splits
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            key: tfds.features.Tensor(shape=(None, *array.shape[1:]), dtype=array.dtype, encoding="bytes")
            for key, array in next(iter(self._splits.values())).items()
        }
        return _Info(
            builder=self,
            description=self._description,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, np.ndarray]]]]:
        return {split: self._generate_examples(arrays) for split, arrays in self._splits.items()}

    def _generate_examples(self, arrays: dict[str, np.ndarray]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for start in range(0, len(next(iter(arrays.values()))), BLOCK):
            yield start, {key: np.ascontiguousarray(array[start : start + BLOCK]) for key, array in arrays.items()}


def write(name: str, version: str, description: str, splits: Splits, data_dir: Path) -> Path:
    """Write the arrays (see `Blocks`) and return the folder, `<data_dir>/<name>/<version>`. Raises what TFDS raises."""
    with _quiet():
        builder = Blocks(name, version, description, splits, data_dir)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return data_dir / name / version


def read(folder: Path) -> Splits:
    """The arrays that `write` put into a folder. Raises whatever TFDS and array_record raise for a damaged one."""
    with _quiet():
        sources: Any = tfds.builder_from_directory(folder).as_data_source()
        splits: Splits = {}
        for split, source in sources.items():
            blocks: list[Any] = list(source)
            splits[split] = {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}
    return splits


@contextmanager
def _quiet() -> Iterator[None]:
    """TFDS prints, draws bars and logs; none of it is about anything the user asked for."""
    tfds.disable_progress_bar()
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        log.setLevel(level)
