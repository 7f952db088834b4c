"""Run directories: how they are made, found, shared out and told from what is none."""

import json
import math
import os
import shutil
import time

import numpy as np
import pytest

from l2lcli.runs import folders, rundir
from l2lcli.runs.artefact import write_artefact
from l2lcli.runs.files import RunError
from tests.support import hidden, leaves, python


@pytest.fixture
def run(tmp_path):
    with rundir.create(tmp_path / "runs", "digits", "name: digits\n") as run:
        yield run


def test_create_makes_the_contract_folder_and_latest(tmp_path):
    root = tmp_path / "runs"
    runs = [rundir.create(root, "digits", "name: digits\n") for _ in range(3)]
    assert len({run.path for run in runs}) == 3
    for run in runs:
        assert run.path.parent == root / "digits"
        stamp, _, salt = run.path.name.rpartition("-")
        time.strptime(stamp, "%Y%m%d-%H%M%S")
        assert len(salt) == 4
        assert int(salt, 16) >= 0
        assert (run.path / "config.yaml").read_text() == "name: digits\n"
        status = json.loads((run.path / "status.json").read_text())
        assert status.keys() == {"state", "pid", "step", "reason", "started", "updated"}
        assert (status["state"], status["pid"]) == ("starting", os.getpid())
        run.close()
    assert not os.path.isabs(os.readlink(root / "latest"))
    assert (root / "latest").resolve() == runs[-1].path.resolve()
    assert not hidden(root)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/abs"])
def test_create_refuses_a_name_that_leaves_its_folder(tmp_path, name):
    with pytest.raises(RunError, match="name"):
        rundir.create(tmp_path, name, "")


def test_create_at_a_given_path(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "new/deep"):
        rundir.create(tmp_path / "runs", "x", "a: 1\n", path=tmp_path / folder).close()
    assert not (tmp_path / "runs").exists()  # no `latest` for what is not below root
    with pytest.raises(RunError, match=r"not empty.*--resume"):
        rundir.create(tmp_path / "runs", "x", "a: 2\n", path=tmp_path / "empty")
    assert (tmp_path / "empty" / "config.yaml").read_text() == "a: 1\n"
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file"):
        rundir.create(tmp_path / "runs", "x", "", path=tmp_path / "file")
    inside = rundir.create(tmp_path / "runs", "x", "", path=tmp_path / "runs" / "mine")
    assert (tmp_path / "runs" / "latest").resolve() == inside.path.resolve()
    inside.close()


def test_create_leaves_the_files_of_others_alone(tmp_path):
    for name, text in [
        ("config.yaml", "mine"),
        ("status.json", "{}"),
        (".status.json.notours", "x"),
        ("status.json", '{"state": "done"}'),
    ]:
        folder = tmp_path / f"{name}-{len(text)}"
        folder.mkdir()
        (folder / name).write_text(text)
        with pytest.raises(RunError, match=r"is not empty; name a new folder$"):
            rundir.create(tmp_path, "x", "a: 1\n", path=folder)
        assert [entry.name for entry in folder.iterdir()] == [name]
        assert (folder / name).read_text() == text


def test_open_run_says_what_is_wrong(tmp_path, run):
    assert rundir.open_run(run.path).read_status()["state"] == "starting"
    with pytest.raises(RunError, match="no such run directory"):
        rundir.open_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"no config.yaml and no status.json"):
        rundir.open_run(tmp_path)
    with pytest.raises(RunError, match="not a run directory"):
        rundir.open_run(run.path / "config.yaml")
    (run.path / "status.json").write_text("{")
    with pytest.raises(RunError, match=r"status.json: not JSON"):
        rundir.open_run(run.path).read_status()


def test_newest(tmp_path):
    root = tmp_path / "runs"
    with pytest.raises(RunError, match="l2l train"):
        rundir.newest(root)
    paths = []
    for state, artefact in [("done", True), ("done", True), ("done", False), ("failed", True), ("stopped", False)]:
        with rundir.create(root, "digits", "") as run:
            paths.append(run.path)
            run.status(state)
            if artefact:
                write_artefact(run.path / "optimizer.npz", {"a": np.ones(1)}, {})
    (root / "digits" / "junk").mkdir()
    (root / "digits" / "junk" / "status.json").write_text("junk")
    assert rundir.newest(root, finished=True) == paths[1]
    assert rundir.newest(root) == paths[-1]


def test_a_run_that_has_begun_is_gone_on_with_rather_than_one_whose_config_was_a_mistake(tmp_path):
    paths = []
    for state, step in [("stopped", 3), ("failed", None)]:
        with rundir.create(tmp_path, "digits", "") as run:
            paths.append(run.path)
            run.status(state, step)
    assert rundir.newest(tmp_path, finished=False) == paths[0]
    assert rundir.newest(tmp_path) == paths[1]
    shutil.rmtree(paths[0])
    assert rundir.newest(tmp_path, finished=False) == paths[1]  # its data may be there by now


def test_a_deleted_run_is_not_made_again(run):
    run.save(1, leaves(1), {})
    shutil.rmtree(run.path)
    acts = {
        "status": lambda: run.status("running", step=2),
        "append": lambda: run.append([{"step": 1}]),
        "json": lambda: run.write_json("eval/x/summary.json", {}),
        "curves": lambda: run.write_curves("curves/x.csv", ["a"], []),
        "artefact": lambda: write_artefact(run.path / "optimizer.npz", {"a": np.ones(1)}, {}),
        "save": lambda: run.save(2, leaves(2), {}),
        "lock": lambda: rundir.Run(run.path).lock(),
        "read": run.read_status,
    }
    for name, act in acts.items():
        with pytest.raises(RunError, match=r"^[^\n]+$") as fault:
            act()
        assert str(run.path) in str(fault.value), name
        assert not run.path.exists(), name


def test_a_run_opened_through_latest_stays_itself(tmp_path):
    root = tmp_path / "runs"
    first = rundir.create(root, "digits", "first\n")
    first.close()
    with rundir.open_run(root / "latest") as again:
        again.lock()
        rundir.create(root, "digits", "second\n").close()
        again.append([{"step": 1}])
    assert first.rows() == [{"step": 1}]
    assert again.path.resolve() == first.path.resolve()


def test_latest_is_no_name_and_no_folder(tmp_path):
    rundir.create(tmp_path, "digits", "").close()
    with pytest.raises(RunError, match="'latest' cannot be the name of a run"):
        rundir.create(tmp_path, "latest", "")
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").mkdir()
    with pytest.raises(RunError, match=r"latest: Is a directory$"):
        rundir.create(tmp_path, "digits", "")
    assert not hidden(tmp_path)
    (tmp_path / "latest").rmdir()
    (tmp_path / "latest").symlink_to("gone")
    run = rundir.create(tmp_path, "digits", "")
    assert (tmp_path / "latest").resolve() == run.path.resolve()
    run.close()


def test_two_runs_of_one_name_in_one_second_never_meet(tmp_path, monkeypatch):
    salts = iter(["aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr(folders.secrets, "token_hex", lambda n: next(salts) if n == 2 else os.urandom(n).hex())
    now = time.time()
    while time.time() < math.floor(now) + 1.001:  # both within one second
        time.sleep(0.01)
    runs = [rundir.create(tmp_path, "digits", "") for _ in range(2)]
    assert [run.path.name[-4:] for run in runs] == ["aaaa", "bbbb"]
    for run in runs:
        run.close()


def test_the_lock_goes_even_if_orbax_fails_to_close(run):
    class Manager:
        def close(self):
            raise OSError("no")

    run._manager = Manager()
    with pytest.raises(OSError, match="no"):
        run.close()
    with rundir.open_run(run.path) as other:
        other.lock()


def test_importing_loads_neither_jax_nor_orbax_nor_matplotlib():
    modules = ("artefact", "status", "folders", "metrics", "checkpoint", "rundir")
    names = ", ".join([*(f"l2lcli.runs.{module}" for module in modules), "l2lcli.reports.page", "l2lcli.data.loader"])
    heavy = "{'jax', 'jaxlib', 'orbax', 'tensorstore', 'flax', 'optax', 'matplotlib'}"
    code = f"import sys, {names}; print(sorted({heavy} & {{name.split('.')[0] for name in sys.modules}}))"
    assert python(code).communicate()[0].strip() == "[]"
