"""Artefacts and the other files of a run: whole or not there, the same bits back, faults in one line."""

import csv
import json
import math
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from l2lcli.runs import rundir
from l2lcli.runs.artefact import read_artefact, write_artefact
from l2lcli.runs.files import RunError
from tests.support import DTYPES, assert_same, hidden, leaves


@pytest.fixture
def run(tmp_path):
    with rundir.create(tmp_path / "runs", "digits", "name: digits\n") as run:
        yield run


def test_json_is_strict_and_files_are_replaced_whole(run):
    run.write_json("deep/er/a.json", {"x": np.float32(0.5), "y": [math.nan, -math.inf, np.arange(2)], "z": (True, None, "é")})
    assert json.loads((run.path / "deep/er/a.json").read_text()) == {
        "x": 0.5,
        "y": [None, None, [0, 1]],
        "z": [True, None, "é"],
    }
    run.write_text("a.txt", "old")
    with pytest.raises(TypeError):
        run.write_json("a.txt", object())

    def rows():
        yield ("sgd", 0, 1.0)
        raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        run.write_curves("a.txt", ["a"], rows())
    assert (run.path / "a.txt").read_text() == "old"
    assert not hidden(run.path)


def test_faults_name_the_file_and_not_a_temporary_one(run):
    (run.path / "a.txt").mkdir()
    with pytest.raises(RunError, match=r"/a\.txt: Is a directory$"):
        run.write_text("a.txt", "")
    assert not hidden(run.path)


@given(st.lists(st.floats(width=64), min_size=1, max_size=5), st.lists(st.floats(width=32), min_size=1, max_size=5))
@settings(deadline=None, max_examples=30)
def test_curves_read_back_to_the_same_bits(tmp_path_factory, doubles, singles):
    run = rundir.Run(tmp_path_factory.mktemp("run"))
    row = ('a, "quoted"', 3, *doubles, *map(np.float64, doubles), *map(np.float32, singles))
    run.write_curves("curves/digits.csv", ["optimizer", "seed"], [row])
    with open(run.path / "curves/digits.csv", newline="") as file:
        header, got = csv.reader(file)
    assert header == ["optimizer", "seed"]
    assert got[:2] == ['a, "quoted"', "3"]
    n = len(doubles)
    np.testing.assert_array_equal(np.array(got[2 : 2 + n], float), doubles)
    np.testing.assert_array_equal(np.array(got[2 + n : 2 + 2 * n], float), doubles)
    np.testing.assert_array_equal(np.array(got[2 + 2 * n :], np.float32), np.array(singles, np.float32))
    assert max(map(len, got)) < 30


KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12).filter(
    lambda key: key != "__meta__"
)


ARRAYS = st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=3)))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(KEYS, ARRAYS, max_size=5), st.dictionaries(st.text(max_size=5), JSON, max_size=3))
@settings(deadline=None, max_examples=100)
def test_artefact_round_trip(tmp_path_factory, phi, meta):
    path = tmp_path_factory.getbasetemp() / "optimizer.npz"
    write_artefact(path, phi, meta)
    first = path.read_bytes()
    got, got_meta = read_artefact(path)
    assert_same(got, phi)
    assert got_meta == meta
    other = {key: np.asfortranarray(leaf) if leaf.ndim else leaf for key, leaf in reversed(phi.items())}
    write_artefact(path, other, dict(reversed(meta.items())))
    assert path.read_bytes() == first, "the same content in another order and layout gives the same bytes"


def test_artefact_is_a_plain_npz_and_has_no_clock(tmp_path):
    path = tmp_path / "optimizer.npz"
    write_artefact(path, {"lstm/bias": np.arange(3.0), "file": np.ones(1)}, {"kind": "lstm"})
    with np.load(path, allow_pickle=False) as archive:
        assert set(archive.files) == {"lstm/bias", "file", "__meta__"}
        assert json.loads(str(archive["__meta__"])) == {"format": 1, "kind": "lstm"}
        np.testing.assert_array_equal(archive["lstm/bias"], np.arange(3.0))
    assert {info.date_time for info in zipfile.ZipFile(path).infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert not hidden(tmp_path)


def test_artefact_refuses_what_it_cannot_keep(tmp_path):
    for phi, meta in [({"__meta__": np.ones(1)}, {}), ({}, {"format": 2}), ({"a": np.array([None])}, {})]:
        with pytest.raises(ValueError, match=r"__meta__|dtype"):
            write_artefact(tmp_path / "a.npz", phi, meta)
    assert not list(tmp_path.iterdir())


def test_artefact_faults_are_one_line_each(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(RunError, match=r"a.npz: No such file"):
        read_artefact(path)
    path.write_bytes(b"not a zip")
    with pytest.raises(RunError, match=r"not an .npz"):
        read_artefact(path)
    np.savez(path, a=np.ones(2))
    with pytest.raises(RunError, match="no __meta__"):
        read_artefact(path)
    np.savez(path, __meta__=np.array('{"format": 99}'))
    with pytest.raises(RunError, match="format 99 is newer"):
        read_artefact(path)
    np.savez(path, __meta__=np.array('{"format": 1}'), a=np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(RunError, match="damaged") as fault:
        read_artefact(path)
    assert "\n" not in str(fault.value)


def test_artefact_damage_is_never_silent(tmp_path):
    path = tmp_path / "a.npz"
    write_artefact(path, leaves(0), {"kind": "lstm"})
    data = path.read_bytes()
    for size in range(0, len(data), 37):
        path.write_bytes(data[:size])
        with pytest.raises(RunError):
            read_artefact(path)
    for place in range(0, len(data), 3):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            phi, meta = read_artefact(path)
        except RunError:
            continue
        assert_same(phi, leaves(0))
        assert meta == {"kind": "lstm"}
