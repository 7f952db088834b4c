"""CIFAR-10 from hand-made archives in the published layout, and from the real file where there is one."""

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from l2lcli.data import loader, source
from l2lcli.data.loader import load
from tests.support import message, same

RAW = os.environ.get("L2L_RAW_DIR")
ARCHIVE = "cifar-10-binary.tar.gz"
SIZES = {**{f"data_batch_{i}.bin": n for i, n in enumerate((3, 2, 0, 0, 4), 1)}, "test_batch.bin": 2}


pytestmark = pytest.mark.usefixtures("home")


def members():
    """File name -> records [n, 3073], labels first."""
    draw = np.random.default_rng(0)
    records = {name: draw.integers(0, 256, (n, 3073), np.uint8) for name, n in SIZES.items()}
    for record in records.values():
        record[:, 0] %= 10
    return records


def archive(contents):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def put(tmp_path, monkeypatch, content, known="published"):
    """The archive in a folder of raw files, its checksum known as the published one, as a subset's, or not at all."""
    (tmp_path / "raw" / "cifar10").mkdir(parents=True, exist_ok=True)
    (tmp_path / "raw" / "cifar10" / ARCHIVE).write_bytes(content)
    loader.names()
    mark, there = hashlib.sha256(content).hexdigest(), source.sources["cifar10"]
    if known == "published":
        file = there.files[0]._replace(sha256=mark, size=len(content))
    else:
        file = there.files[0]._replace(subsets={mark: "[9/2]"} if known == "subset" else {})
    monkeypatch.setitem(source.sources, "cifar10", there._replace(files=(file,)))
    return tmp_path / "raw"


def test_records_become_images_with_the_colour_last(tmp_path, monkeypatch):
    records = members()
    raw_dir = put(tmp_path, monkeypatch, archive({name: value.tobytes() for name, value in records.items()}))
    dataset = load("cifar10", raw_dir)
    train = np.concatenate([records[f"data_batch_{i}.bin"] for i in range(1, 6)])
    arrays = {}
    for split, of_split in (("train", train), ("test", records["test_batch.bin"])):
        image = np.empty((len(of_split), 32, 32, 3), np.uint8)
        for colour in range(3):  # 1,024 bytes of red, then green, then blue, each row by row
            image[..., colour] = of_split[:, 1 + 1024 * colour :][:, :1024].reshape(-1, 32, 32)
        arrays[split] = {"image": image, "label": of_split[:, 0]}
    assert same(dataset, arrays)
    assert (dataset.label, dataset.classes, dataset.scale) == ("cifar10", 10, 255.0)


def test_a_known_subset_labels_the_run_and_another_file_is_refused(tmp_path, monkeypatch):
    content = archive({name: value.tobytes() for name, value in members().items()})
    raw_dir = put(tmp_path, monkeypatch, content, "unknown")
    assert "not the published file" in message("cifar10", raw_dir)
    assert load("cifar10", put(tmp_path, monkeypatch, content, "subset")).label == "cifar10[9/2]"


def wrong_label(contents):
    return contents | {"data_batch_5.bin": b"\x0a" + contents["data_batch_5.bin"][1:]}


DAMAGES = {
    "not a whole tar.gz": lambda c: archive(c)[:-200],
    "not a whole tar.gz file": lambda c: b"something else",
    "not a whole tar.gz file:": lambda c: gzip.compress(gzip.decompress(archive(c))[:20_000]),
    "no cifar-10-batches-bin/test_batch.bin in it": lambda c: archive({k: v for k, v in c.items() if k[0] == "d"}),
    "data_batch_1.bin has 9218 bytes": lambda c: archive(c | {"data_batch_1.bin": c["data_batch_1.bin"][:-1]}),
    "data_batch_5.bin has a label 10, not 0 to 9": lambda c: archive(wrong_label(c)),
    "no images for test": lambda c: archive(c | {"test_batch.bin": b""}),
}


@pytest.mark.parametrize("complaint", DAMAGES)
def test_an_archive_that_does_not_parse(tmp_path, monkeypatch, complaint):
    content = DAMAGES[complaint]({name: value.tobytes() for name, value in members().items()})
    said = message("cifar10", put(tmp_path, monkeypatch, content))
    assert said.startswith("cifar10: ")
    assert complaint in said


def test_the_real_file():
    if not RAW or not (path := Path(RAW) / "cifar10" / ARCHIVE).is_file():
        pytest.skip("needs the raw file: L2L_RAW_DIR is not set, or holds no cifar10")
    dataset = load("cifar10", RAW)
    image, label = dataset.splits["train"]["image"], dataset.splits["train"]["label"]
    if path.stat().st_size == 170052171:
        assert (dataset.label, len(image), len(dataset.splits["test"]["label"])) == ("cifar10", 50_000, 10_000)
        assert np.bincount(label).tolist() == [5000] * 10
    else:
        assert (dataset.label, dataset.fingerprint) == ("cifar10[10000/1000]", "4baf4ed97918d1bb")
    # The means that everybody normalises with.
    np.testing.assert_allclose(image.mean((0, 1, 2)) / dataset.scale, [0.4914, 0.4822, 0.4465], atol=3e-3)
