"""Checkpoints: the exact bits come back, the right ones are kept, and no damage is silent."""

import math
import os
import shutil
import subprocess

import numpy as np
import pytest

from l2lcli.runs import rundir
from l2lcli.runs.files import RunError
from tests.support import assert_same, hidden, leaves, python, steps


@pytest.fixture
def run(tmp_path):
    with rundir.create(tmp_path / "runs", "digits", "name: digits\n") as run:
        yield run


def test_checkpoint_round_trip_and_which_are_kept(run):
    assert run.restore(pytest.fail) is None
    meta = {"rows": 12, "history": [0.1, 1e-300, None], "text": "é", "9": {"10": 1, "2": 2}}
    kept = []
    for step, best in [(1, 5.0), (3, 2.0), (4, math.nan), (6, 3.0), (9, None), (12, 2.5)]:
        run.save(step, leaves(step), meta | {"step": step}, best)
        kept.append(steps(run))
        found = run.restore(pytest.fail)
        assert (found.step, found.meta) == (step, meta | {"step": step})
        assert_same(found.arrays, leaves(step))
    assert kept == [[1], [1, 3], [3, 4], [3, 4, 6], [3, 6, 9], [3, 9, 12]]
    found.arrays["nan"][0] = 1.0  # what comes back can be written to
    run.save(12, leaves(99), {}, 0.0)  # the same step: nothing happens
    assert_same(run.restore(pytest.fail).arrays, leaves(12))
    with pytest.raises(RunError, match="cannot save checkpoint 11"):
        run.save(11, leaves(11), {})
    assert not hidden(run.path)
    assert sorted(os.listdir(run.path / "checkpoints")) == ["12", "3", "9"]
    run.close()
    with rundir.open_run(run.path) as again:  # the best is known to the next process too
        again.lock()
        again.save(20, leaves(20), {}, 8.0)
        assert steps(again) == [3, 12, 20]


@pytest.mark.parametrize("arrays", [{}, {"a": np.zeros(0)}, {"a": np.array(["x"])}, {"a": np.array([None])}])
def test_unsuitable_arrays_are_refused(run, arrays):
    with pytest.raises(ValueError, match=r"array|dtype"):
        run.save(1, arrays, {})
    assert run.restore(pytest.fail) is None


def damages(data):
    """Damaged versions of a file: gone, cut, and one bit flipped at several places."""
    yield None
    yield data[: len(data) // 2]
    for place in sorted({0, len(data) // 3, len(data) // 2, len(data) - 1}):
        yield data[:place] + bytes([data[place] ^ 0x04]) + data[place + 1 :]


def test_every_damage_of_every_file_is_found_or_harmless(run):
    folder, gold = run.path / "checkpoints", run.path / "gold"
    run.save(2, leaves(2), {"n": 2}, 2.0)
    run.save(5, leaves(5), {"n": 5}, 5.0)
    shutil.copytree(folder, gold)
    files = [file.relative_to(gold) for file in (gold / "5").rglob("*") if file.is_file()]
    fell_back = set()
    for file in files:
        for data in damages((gold / file).read_bytes()):
            if data is None:
                (folder / file).unlink()
            else:
                (folder / file).write_bytes(data)
            warnings = []
            found = rundir.Run(run.path).restore(warnings.append)
            assert_same(found.arrays, leaves(found.step))
            assert found.meta == {"n": found.step}
            assert [found.step, len(warnings)] in ([5, 0], [2, 1])
            if warnings:
                fell_back.add(file.parts[1])
                assert str(folder / "5") in warnings[0]
                assert "\n" not in warnings[0]
            (folder / file).write_bytes((gold / file).read_bytes())
    assert fell_back >= {"header", "leaves", "metrics"}
    assert_same(run.restore(pytest.fail).arrays, leaves(5))


@pytest.mark.parametrize("damage", ["half-written", "emptied", "metrics", "index", "a file"])
def test_a_resumed_run_sets_damage_aside_and_saves_the_step_again(run, damage):
    folder = run.path / "checkpoints"
    for step in (2, 5):
        run.save(step, leaves(step), {"n": step}, float(step))
    run.close()
    if damage == "half-written":
        shutil.rmtree(folder / "5" / "leaves")
        shutil.copytree(folder / "2", folder / "7.orbax-checkpoint-tmp")
    elif damage == "metrics":
        (folder / "5" / "metrics" / "metrics").write_text("{")
    elif damage == "index":
        (folder / "5" / "_CHECKPOINT_METADATA").write_text("{")
    else:
        shutil.rmtree(folder / "5")
        (folder / "5").mkdir() if damage == "emptied" else (folder / "5").write_text("")
    with rundir.open_run(run.path) as again:
        warnings = []
        assert again.restore(warnings.append).step == (5 if damage == "index" else 2)
        assert steps(again) == [2, 5], "a reader without the lock changes nothing"
        again.lock()
        found = again.restore(warnings.append)
        assert len(warnings) == (0 if damage == "index" else 2)
        for step in (5, 7):
            again.save(step, leaves(step), {}, float(step))
        assert found.step == (5 if damage == "index" else 2)
        assert_same(again.restore(pytest.fail).arrays, leaves(7))
        assert steps(again) == [2, 5, 7]
        assert not list(folder.glob("*tmp*"))


def test_all_damaged_is_an_error(run):
    run.save(2, leaves(2), {})
    run.save(5, leaves(5), {})
    for step in (2, 5):
        shutil.rmtree(run.path / "checkpoints" / str(step) / "header")
    warnings = []
    with pytest.raises(RunError, match=r"every checkpoint is damaged \(2\)"):
        run.restore(warnings.append)
    assert len(warnings) == 2
    assert steps(run) == [2, 5]


def test_a_checkpoint_that_does_not_fit_is_one_line_and_the_run_goes_on(run):
    run.save(1, leaves(1), {})
    run.close()
    code = """
import resource, sys
import numpy as np
from l2lcli.runs import rundir
from l2lcli.runs.files import RunError
run = rundir.open_run(sys.argv[1])
run.lock()
run.restore(print)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
try:
    run.save(2, {"a": np.random.default_rng(0).standard_normal(50_000)}, {})
except RunError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
print(run.restore(print).step)
run.save(2, {"a": np.ones(3)}, {})
"""
    said, logged = python(code, run.path, stderr=subprocess.PIPE).communicate()
    fault, step = said.splitlines()
    assert "cannot save checkpoint 2" in fault
    assert "File too large" in fault
    assert step == "1"
    assert logged == ""
    assert steps(run) == [1, 2]
