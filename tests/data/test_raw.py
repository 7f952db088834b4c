"""Raw files: found, downloaded from a local web server, and refused unless they are the published ones."""

import contextlib
import gzip
import http.server
import shutil
import threading
import time

import numpy as np
import pytest

from l2lcli.data import raw
from l2lcli.data.loader import load
from tests.support import NAMES, idx, message, publish, same

pytestmark = pytest.mark.usefixtures("home")


def test_raw_files_come_from_the_environment_and_from_the_cache(tiny, home, monkeypatch):
    arrays, _, raw_dir = tiny
    monkeypatch.setenv("L2L_RAW_DIR", str(raw_dir))
    assert same(load("mnist"), arrays)
    monkeypatch.delenv("L2L_RAW_DIR")
    shutil.rmtree(home)
    shutil.copytree(raw_dir, home / "raw")
    assert same(load("mnist"), arrays)


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
