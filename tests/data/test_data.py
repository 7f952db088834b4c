"""The loader against scikit-learn's own digits and hand-made idx files; the cache under damage of every kind."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import l2lcli.data
from l2lcli.data import cache, loader, source
from l2lcli.data.loader import load
from tests.support import message, same

pytestmark = pytest.mark.usefixtures("home")


RAW = os.environ.get("L2L_RAW_DIR")


ROOT = Path(l2lcli.data.__path__[0]).parents[1]


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    for dataset in (load("digits"), load("digits")):  # as prepared, and as read back
        train, test = dataset.splits["train"], dataset.splits["test"]
        assert (train["image"].shape, test["image"].shape) == ((1437, 8, 8), (360, 8, 8))
        assert train["image"].dtype == np.uint8
        assert (dataset.label, dataset.classes, dataset.scale) == ("digits", 10, 16.0)
        assert train["image"].max() == dataset.scale
        image = np.concatenate([train["image"], test["image"]]).reshape(-1, 64)
        label = np.concatenate([train["label"], test["label"]])
        assert sorted(map(tuple, np.c_[image, label].tolist())) == sorted(
            map(tuple, np.c_[bunch.data, bunch.target].astype(int).tolist())
        )
        parts = train_test_split(bunch.images, bunch.target, test_size=0.2, random_state=0)
        for ours, theirs in zip((train["image"], test["image"], train["label"], test["label"]), parts, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert dataset.fingerprint == "e4b142a35b85a5a2"


def test_two_processes_prepare_at_once_and_a_third_reads_without_scikit_learn(home):
    code = "from l2lcli.data.loader import load; import sys; print(load('digits').fingerprint)"
    for process in [python(code), python(code)]:
        assert process.communicate(timeout=60) == ("e4b142a35b85a5a2\n", "")  # nothing that TFDS says gets out
    heavy = "print(sorted({'sklearn', 'jax', 'tensorflow'} & set(sys.modules)))"
    assert python(f"{code}; {heavy}").communicate(timeout=60) == ("e4b142a35b85a5a2\n[]\n", "")
    assert sorted(path.name for path in (home / "tfds").iterdir()) == [".digits.lock", "digits"]


def test_the_names_come_without_tfds():
    code = (
        "import sys; from l2lcli.data import loader; print(*loader.names()); "
        "print(sorted({'tensorflow_datasets', 'jax', 'sklearn'} & set(sys.modules)))"
    )
    out, err = python(code).communicate(timeout=60)
    names, heavy = out.splitlines()
    assert {"digits", "mnist", "fashion_mnist"} <= set(names.split())
    assert (heavy, err) == ("[]", "")
    assert [name for name, _ in loader.describe()] == loader.names()
    assert all(line and "\n" not in line for _, line in loader.describe())


def test_idx_files_are_read_once(tiny):
    arrays, _, raw_dir = tiny
    first = load("mnist", raw_dir)
    assert same(first, arrays)
    assert (first.label, first.classes, first.scale) == ("mnist", 10, 255.0)
    shutil.rmtree(raw_dir)
    again = load("mnist", raw_dir)
    assert same(again, arrays)
    assert again.fingerprint == first.fingerprint == loader.fingerprint(arrays)


def test_the_fingerprint_sees_every_bit_shape_and_type(tiny):
    arrays = tiny[0]
    mark = loader.fingerprint(arrays)
    image = arrays["test"]["image"]
    flipped = image.copy()
    flipped[-1, -1, -1] ^= 1
    for other in (flipped, image.reshape(7, 2, 3), image.view(np.int8)):
        assert loader.fingerprint(arrays | {"test": arrays["test"] | {"image": other}}) != mark


def test_an_unknown_name_gets_a_hint():
    assert "did you mean 'mnist'" in message("minst")
    said = message("imagenet")
    assert "did you mean" not in said
    assert "digits" in said


def test_a_cache_that_cannot_be_written(tmp_path, tiny, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("L2L_CACHE", str(tmp_path / "file" / "cache"))
    said = message(raw_dir=tiny[2])
    assert str(tmp_path / "file") in said
    assert "L2L_CACHE" in said


def test_where_the_cache_lies(monkeypatch, tmp_path):
    assert cache.folder() == tmp_path / "cache"
    monkeypatch.delenv("L2L_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder() == tmp_path / "xdg" / "l2l"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.folder() == tmp_path / ".cache" / "l2l"
    monkeypatch.setenv("L2L_CACHE", "~/mine")
    assert cache.folder() == tmp_path / "mine"


def flip(path):
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(content)


def rewrite(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


TRAIN = "mnist-train.array_record-00000-of-00001"


DAMAGES = {
    "no record": lambda folder: (folder / "prepared.json").unlink(),
    "half a record": lambda folder: (folder / "prepared.json").write_text('{"label": "mn'),
    "record of another kind": lambda folder: (folder / "prepared.json").write_text("[1]"),
    "other fingerprint": lambda folder: rewrite(folder / "prepared.json", fingerprint="0" * 16),
    "no arrays": lambda folder: (folder / TRAIN).unlink(),
    "empty arrays": lambda folder: os.truncate(folder / TRAIN, 0),
    "arrays cut off": lambda folder: os.truncate(folder / TRAIN, 1000),
    "a flipped byte": lambda folder: flip(folder / TRAIN),
    "another split's arrays": lambda folder: shutil.copy(folder / TRAIN.replace("train", "test"), folder / TRAIN),
    "no features": lambda folder: (folder / "features.json").unlink(),
    "no information": lambda folder: (folder / "dataset_info.json").write_text("{}"),
    "a file in its place": lambda folder: (shutil.rmtree(folder), folder.write_text("")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_prepared_again(tiny, home, damage):
    arrays, _, raw_dir = tiny
    load("mnist", raw_dir)
    DAMAGES[damage](home / "tfds" / "mnist" / "1.0.0")
    (home / "tfds" / ".mnist.preparing" / "mnist").mkdir(parents=True)  # as a killed process leaves it
    assert same(load("mnist", raw_dir), arrays)
    shutil.rmtree(raw_dir)
    assert same(load("mnist", raw_dir), arrays)
    assert sorted(path.name for path in (home / "tfds").iterdir()) == [".mnist.lock", "mnist"]


def test_a_lock_held_for_good_is_reported(tiny, home, monkeypatch):
    arrays, _, raw_dir = tiny
    (home / "tfds").mkdir(parents=True)
    monkeypatch.setattr(cache, "LOCK_SECONDS", 0.1)
    with (home / "tfds" / ".mnist.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another process holds" in message(raw_dir=raw_dir)
    assert same(load("mnist", raw_dir), arrays)


def test_a_name_is_registered_once():
    loader.names()
    with pytest.raises(ValueError, match="registered already"):
        source.register("digits", "others", classes=2, scale=1.0)(lambda files: {})


@pytest.mark.parametrize(
    ("name", "mean", "counts", "mark"),
    [
        # Means as everybody normalises with them; the classes of MNIST are not balanced, those of Fashion-MNIST are.
        ("mnist", 0.1307, [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949], "5ef7f261b078242c"),
        ("fashion_mnist", 0.2860, [6000] * 10, "c28dc17d19f66cf0"),
    ],
)
def test_the_real_files(name, mean, counts, mark):
    if not RAW:
        pytest.skip("needs the raw files: L2L_RAW_DIR is not set")
    if not (Path(RAW) / name).is_dir():
        pytest.skip(f"L2L_RAW_DIR holds no {name}")
    load(name, RAW)
    dataset = load(name)
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert (train["image"].shape, test["image"].shape) == ((60000, 28, 28), (10000, 28, 28))
    assert np.bincount(train["label"]).tolist() == counts
    assert len(test["label"]) == 10000
    assert train["image"].mean() / dataset.scale == pytest.approx(mean, abs=5e-5)
    assert (dataset.label, dataset.fingerprint) == (name, mark)


def python(code):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
