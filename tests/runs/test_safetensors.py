"""Optimizers as .safetensors: the same leaves and record back, the same bytes, and no damage that goes unseen."""

import json
import sys

import numpy as np
import pytest

from l2lcli.runs import trained
from l2lcli.runs.artefact import read_artefact
from l2lcli.runs.files import RunError, making
from l2lcli.runs.safetensors import packed, read_safetensors
from tests.runs.test_trained import OLD
from tests.support import assert_same, hidden, leaves

META = {"config": {"optimizer": {"kind": "lstm"}, "é": [1, None, 1e-7]}, "step": 3, "validation_loss": 0.1 + 0.2}


@pytest.fixture
def saved():
    return pytest.importorskip("safetensors.numpy", reason="the extra hf is not installed")


@pytest.fixture
def path(tmp_path, saved):
    (tmp_path / "a.safetensors").write_bytes(packed(leaves(0), META))
    return tmp_path / "a.safetensors"


def safe_open(path):
    import safetensors

    return safetensors.safe_open(path, "np")


def said(path):
    with pytest.raises(RunError) as caught:
        read_safetensors(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    return str(caught.value)


def test_all_comes_back_and_equal_content_is_equal_bytes(path):
    phi, meta = read_safetensors(path)
    assert_same(phi, leaves(0))  # of every dtype, an empty one, a scalar, NaNs with a payload
    assert meta == META and list(meta["config"]) == list(META["config"])
    for leaf in phi.values():
        leaf[...] = 0  # one's own arrays, as those of an .npz are
    other = {key: np.asfortranarray(leaf) if leaf.ndim else leaf for key, leaf in reversed(leaves(0).items())}
    assert packed(other, dict(reversed(META.items()))) == path.read_bytes()
    swapped = {key: leaf.astype(leaf.dtype.newbyteorder(">")) for key, leaf in leaves(0).items()}
    assert packed(swapped, META) == path.read_bytes()


def test_the_file_is_one_that_others_read(path, saved):
    assert_same(saved.load_file(path), leaves(0))
    with safe_open(path) as file:
        text = file.metadata()
        assert list(text) == ["__meta__"]
        about = json.loads(text["__meta__"])
        assert len(about.pop("sha256")) == 64 and about == {"format": 1, **META}


def test_every_shipped_optimizer_goes_there_and_back_to_the_same_bytes(tmp_path, saved):
    for npz in sorted(trained.SHIPPED.glob("*.npz")):
        file = tmp_path / f"{npz.stem}.safetensors"
        file.write_bytes(packed(*read_artefact(npz)))
        found = trained.read(file)
        assert_same(found.phi, read_artefact(npz)[0])
        assert found.npz() == npz.read_bytes() and found.mark == trained.read(npz).mark


def test_no_flipped_byte_is_read(path):
    data, draw = path.read_bytes(), np.random.default_rng(0)
    for place, bits in zip(draw.integers(0, len(data), 200), draw.integers(1, 256, 200), strict=True):
        path.write_bytes(data[:place] + bytes([data[place] ^ int(bits)]) + data[place + 1 :])
        said(path)
    for size in range(0, len(data), 97):
        path.write_bytes(data[:size])
        said(path)


@pytest.mark.parametrize("change", ["renamed", "reshaped", "retyped", "fewer", "recorded"])
def test_what_another_program_changed_is_said(path, saved, change):
    phi = saved.load_file(path)
    with safe_open(path) as file:
        text = file.metadata()["__meta__"]
    key = "layer_0/float32"
    match change:
        case "renamed":
            phi["other"] = phi.pop(key)
        case "reshaped":
            phi[key] = phi[key].reshape(-1)
        case "retyped":
            phi[key] = phi[key].view(np.int32)
        case "fewer":
            del phi[key]
        case "recorded":
            text = text.replace('"step": 3', '"step": 4')
    saved.save_file(phi, path, {"__meta__": text})
    assert said(path).endswith("damaged: its numbers are not those that were written (SHA-256)")


def test_what_is_no_file_of_l2l_and_what_is_newer_is_said(path, saved):
    saved.save_file({"a": np.ones(2)}, path)
    assert said(path).endswith("not a file of l2l: it has no __meta__ with a format number")
    saved.save_file({"a": np.ones(2)}, path, {"__meta__": '{"format": 2, "other": 1}'})
    assert said(path).endswith("format 2 is newer than this l2l knows (1); update l2l")
    saved.save_file({"a": np.ones(2)}, path, {"__meta__": '{"format": 1}'})
    assert "SHA-256" in said(path)
    path.write_bytes(OLD.read_bytes())
    assert "damaged, or not a .safetensors file: " in said(path)
    path.unlink()
    assert said(path).endswith("No such file or directory")


def test_what_it_cannot_keep_is_refused(saved):
    for phi, meta in [({"__meta__": np.ones(1)}, {}), ({}, {"format": 2}), ({}, {"sha256": ""}), ({"a": np.array([None])}, {})]:
        with pytest.raises(ValueError, match=r"file's own|dtype"):
            packed(phi, meta)
    with pytest.raises(RunError, match=r"cannot be kept as \.safetensors: .*complex128"):
        packed({"a": np.ones(1, complex)}, {})


def test_without_the_package_one_line_names_the_extra(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    assert said(path).endswith("safetensors, which is not installed: pip install 'l2lcli[hf]'")
    with pytest.raises(RunError, match=r"a \.safetensors file needs .*pip install 'l2lcli\[hf\]'"):
        packed({}, {})


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "made"

    def make(folder, content):
        with making(folder) as place:
            (place / "a").write_text("half")
            (place / "a").write_bytes(content)
            assert not (folder / "a").exists() or (folder / "a").read_text() == "whole"

    with pytest.raises(TypeError):
        make(folder, None)
    assert not list(tmp_path.iterdir())
    make(folder, b"whole")
    assert [entry.name for entry in folder.iterdir()] == ["a"] and not hidden(tmp_path)
    with pytest.raises(RunError, match="made: Directory not empty"):
        make(folder, b"another")
    assert (folder / "a").read_text() == "whole" and not hidden(tmp_path)
    with pytest.raises(RunError, match=r"nowhere/made: No such file"):
        make(tmp_path / "nowhere/made", b"")
