"""The loader against scikit-learn's own digits, hand-made idx files, a local web server, and damage of every kind."""

import contextlib
import fcntl
import gzip
import hashlib
import http.server
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import l2lcli.data
from l2lcli.data import cache, loader, raw, source
from l2lcli.data.loader import DataError, load

RAW = os.environ.get("L2L_RAW_DIR")
ROOT = Path(l2lcli.data.__path__[0]).parents[1]
NAMES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty cache, and no raw files but those a test names."""
    monkeypatch.setenv("L2L_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("L2L_RAW_DIR", raising=False)
    return tmp_path / "cache"


def idx(array):
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + bytes(array.ravel().tolist()), mtime=0)


def publish(monkeypatch, contents, addresses=(), subsets=None):
    """Make these bytes the published files of mnist."""
    loader.names()
    files = tuple(
        source.RawFile(
            name,
            len(contents[name]),
            hashlib.sha256(contents[name]).hexdigest(),
            tuple(address + name for address in addresses),
            {hashlib.sha256(value).hexdigest(): mark for value, mark in (subsets or {}).get(name, ())},
        )
        for name in NAMES
    )
    monkeypatch.setitem(source.sources, "mnist", source.sources["mnist"]._replace(files=files))


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A little MNIST of 2,500 + 7 images of 3 x 2, in three blocks: (arrays, file contents, raw_dir holding them)."""
    draw = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 2500), ("test", 7)):
        image = draw.integers(0, 256, (n, 3, 2), dtype=np.uint8)
        arrays[split] = {"image": image, "label": draw.integers(0, 10, n, dtype=np.uint8)}
    values = [arrays[split][key] for split in ("train", "test") for key in ("image", "label")]
    contents = {name: idx(value) for name, value in zip(NAMES, values, strict=True)}
    folder = tmp_path / "raw" / "mnist"
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    publish(monkeypatch, contents)
    return arrays, contents, tmp_path / "raw"


def same(dataset, arrays):
    for split in ("train", "test"):
        for key in ("image", "label"):
            np.testing.assert_array_equal(dataset.splits[split][key], arrays[split][key], strict=True)
    assert set(dataset.splits) == {"train", "test"}
    return True


def message(name="mnist", raw_dir=None):
    with pytest.raises(DataError) as caught:
        load(name, raw_dir)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def python(code):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


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


def test_raw_files_come_from_the_environment_and_from_the_cache(tiny, home, monkeypatch):
    arrays, _, raw_dir = tiny
    monkeypatch.setenv("L2L_RAW_DIR", str(raw_dir))
    assert same(load("mnist"), arrays)
    monkeypatch.delenv("L2L_RAW_DIR")
    shutil.rmtree(home)
    shutil.copytree(raw_dir, home / "raw")
    assert same(load("mnist"), arrays)


def test_the_fingerprint_sees_every_bit_shape_and_type(tiny):
    arrays = tiny[0]
    mark = loader.fingerprint(arrays)
    image = arrays["test"]["image"]
    flipped = image.copy()
    flipped[-1, -1, -1] ^= 1
    for other in (flipped, image.reshape(7, 2, 3), image.view(np.int8)):
        assert loader.fingerprint(arrays | {"test": arrays["test"] | {"image": other}}) != mark


def test_missing_raw_files_are_named_with_the_folder(tiny, monkeypatch):
    _, _, raw_dir = tiny
    (raw_dir / "mnist" / NAMES[0]).unlink()
    said = message(raw_dir=raw_dir)
    assert NAMES[0] in said
    assert str(raw_dir / "mnist") in said
    assert "data.raw_dir" in said
    (raw_dir / "mnist" / NAMES[3]).unlink()
    monkeypatch.setenv("L2L_RAW_DIR", str(raw_dir))
    said = message()
    assert NAMES[3] in said
    assert "L2L_RAW_DIR" in said


@pytest.mark.parametrize("wrong", [b"", b"something else"])
def test_a_wrong_checksum_is_refused(tiny, wrong, home):
    _, contents, raw_dir = tiny
    path = raw_dir / "mnist" / NAMES[2]
    path.write_bytes(wrong or contents[NAMES[2]][:-1])
    said = message(raw_dir=raw_dir)
    assert str(path) in said
    assert "sha256" in said
    assert not (home / "tfds" / "mnist").exists()


@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        (NAMES[0], lambda content: content[:-9], "not a whole gzip file"),
        (NAMES[0], lambda content: content[:5], "not a whole gzip file"),
        (NAMES[0], lambda content: b"no gzip at all", "not a whole gzip file"),
        (NAMES[1], lambda content: gzip.compress(b"\0\0\x0d\x01" + bytes(2504)), "not an idx file"),
        (NAMES[1], lambda content: gzip.compress(b"\0\0"), "not an idx file"),
        (NAMES[1], lambda content: gzip.compress(gzip.decompress(content)[:-1]), "2499 values where its header says 2500"),
        (NAMES[0], lambda content: gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12), "0 values where its header says 4294967295x"),
        (NAMES[3], lambda content: idx(np.zeros(8, np.uint8)), "7 images, but 8 labels"),
    ],
)
def test_raw_files_that_do_not_parse(tiny, monkeypatch, name, damage, complaint):
    _, contents, raw_dir = tiny
    contents[name] = damage(contents[name])
    (raw_dir / "mnist" / name).write_bytes(contents[name])
    publish(monkeypatch, contents)
    said = message(raw_dir=raw_dir)
    assert said.startswith("mnist: ")
    assert complaint in said


def test_an_unknown_name_gets_a_hint():
    assert "did you mean 'mnist'" in message("minst")
    said = message("imagenet")
    assert "did you mean" not in said
    assert "digits" in said


def test_a_known_subset_labels_the_run_until_the_whole_set_is_named(tiny, monkeypatch, tmp_path):
    arrays, contents, raw_dir = tiny
    less = {key: value[:5] for key, value in arrays["train"].items()}
    part = {**contents, NAMES[0]: idx(less["image"]), NAMES[1]: idx(less["label"])}
    subsets = {NAMES[0]: [(part[NAMES[0]], "[5/7]")], NAMES[1]: [(part[NAMES[1]], "[5/7]")]}
    publish(monkeypatch, contents, subsets=subsets)
    (tmp_path / "part" / "mnist").mkdir(parents=True)
    for name, content in part.items():
        (tmp_path / "part" / "mnist" / name).write_bytes(content)
    for raw_dir_now in (tmp_path / "part", None):
        dataset = load("mnist", raw_dir_now)
        assert dataset.label == "mnist[5/7]"
        assert same(dataset, {"train": less, "test": arrays["test"]})
    assert load("mnist", raw_dir).label == "mnist"
    assert same(load("mnist"), arrays)


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


@contextlib.contextmanager
def serving(answer):
    """A web server on this machine; `answer(handler, name)` writes the answer. Gives its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            with contextlib.suppress(ConnectionError):
                answer(self, self.path.rsplit("/", 1)[1])

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


def send(handler, content, length=None):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    handler.wfile.write(content)


def test_a_download_goes_on_to_the_next_address(tiny, home, monkeypatch):
    arrays, contents, _ = tiny
    with serving(lambda handler, name: send(handler, contents[name])) as address:
        publish(monkeypatch, contents, ["http://127.0.0.1:1/", address])
        assert same(load("mnist"), arrays)
    assert {path.name: path.read_bytes() for path in (home / "raw" / "mnist").iterdir()} == contents


def trickle(handler, content):
    send(handler, content[:10], len(content))
    for byte in content[10:]:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (lambda handler, content: send(handler, content[:-5], len(content)), "broke off after"),
        (lambda handler, content: send(handler, content[:-5]), "broke off after"),
        (lambda handler, content: send(handler, content + b"more"), "more than the"),
        (lambda handler, content: send(handler, bytes(len(content))), "sha256"),
        (lambda handler, content: handler.send_error(404), "Not Found"),
        (lambda handler, content: handler.wfile.write(b"no HTTP\r\n\r\n"), "no HTTP"),
        (lambda handler, content: time.sleep(0.5), "timed out"),
        (trickle, "too slow"),
    ],
    ids=["cut off", "short", "long", "other bytes", "404", "no http", "silence", "trickle"],
)
def test_a_download_that_fails_leaves_nothing_behind(tiny, home, monkeypatch, answer, complaint):
    _, contents, _ = tiny
    monkeypatch.setattr(raw, "SECONDS", 0.2)
    with serving(lambda handler, name: answer(handler, contents[name])) as address:
        publish(monkeypatch, contents, [address])
        said = message()
    assert complaint in said
    assert address + NAMES[0] in said
    assert str(home / "raw" / "mnist" / NAMES[0]) in said
    assert list((home / "raw" / "mnist").iterdir()) == []


def test_no_network_is_one_line(tiny, home, monkeypatch):
    publish(monkeypatch, tiny[1], ["http://127.0.0.1:1/"])
    said = message()
    assert "http://127.0.0.1:1/" in said
    assert "refused" in said
    assert "L2L_RAW_DIR" in said


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
