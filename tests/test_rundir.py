"""A run directory must survive anything: kill -9, flipped bytes, torn lines, two processes, a full disk."""

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from l2lcli import folders, rundir
from l2lcli.artefact import RunError, read_artefact, write_artefact

DTYPES = ["float32", "float64", "int64", "uint32", "bool"]


def leaves(step):
    """Arrays in which every dtype, an empty one and a scalar occur, and which differ from step to step."""
    rng = np.random.default_rng(step)
    out = {f"layer_{i}/{dtype}": (rng.standard_normal((5, i + 1)) * 3).astype(dtype) for i, dtype in enumerate(DTYPES)}
    nan = np.array([0x7FC00001, 0xFFC12345, 0x80000000], np.uint32).view(np.float32)  # NaNs with a payload, and -0.0
    return out | {"scalar": np.float32(step), "empty": np.zeros((0, 3), np.float32), "nan": nan}


def assert_same(got, want):
    assert got.keys() == want.keys()
    for key, leaf in want.items():
        assert (got[key].dtype, got[key].shape) == (leaf.dtype, leaf.shape), key
        assert got[key].tobytes() == leaf.tobytes(), key


def hidden(path):
    return [str(entry) for entry in path.rglob(".*") if entry.name != ".lock"]


@pytest.fixture
def run(tmp_path):
    with rundir.create(tmp_path / "runs", "digits", "name: digits\n") as run:
        yield run


def python(code, *args, **kwargs):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, text=True, **kwargs)


# Folders, status, lock


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


def test_status_keeps_start_and_step(run):
    run.status("running", step=7)
    first = run.read_status()
    run.status("failed", reason="loss is NaN", exit_code=1, value=math.nan)
    last = run.read_status()
    assert (last["state"], last["step"], last["reason"], last["exit_code"], last["value"]) == (
        "failed",
        7,
        "loss is NaN",
        1,
        None,
    )
    assert last["started"] == first["started"] < last["updated"]
    with pytest.raises(ValueError, match="state 'flying'"):
        run.status("flying")
    assert run.read_status() == last


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
    assert rundir.newest(root) == paths[1]
    assert rundir.newest(root, finished=False) == paths[-1]


def test_second_process_is_refused_and_a_killed_one_is_seen(tmp_path):
    code = """
import sys, time
from pathlib import Path
from l2lcli import rundir
run = rundir.create(Path(sys.argv[1]), "digits", "")
run.status("running", step=3)
print(run.path, flush=True)
time.sleep(60)
"""
    holder = python(code, tmp_path)
    try:
        path = holder.stdout.readline().strip()
        other = rundir.open_run(path)
        for _ in range(2):
            with pytest.raises(RunError, match=f"^{path} is in use by process {holder.pid}$"):
                other.lock()
        assert other.read_status()["state"] == "running"
    finally:
        holder.kill()
        holder.communicate()
    assert other.read_status()["state"] == "killed"
    other.lock()
    other.lock()  # a second call by the holder is nothing new
    with pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
        rundir.open_run(path).lock()
    other.close()
    rundir.open_run(path).lock()


# Files


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


def test_rows_torn_tail_and_damage(run):
    assert run.rows() == []
    run.truncate(0)
    run.append([{"step": 0, "loss": math.nan}, {"step": 1, "loss": np.float32(0.1)}])
    path = run.path / "metrics.jsonl"
    whole = path.read_bytes()
    for torn in (b'{"step": 2', b'{"step": 2}', b"x" * 10000):  # whole as it looks, a line without its end was not finished
        path.write_bytes(whole + torn)
        assert [row["step"] for row in run.rows()] == [0, 1]
        run.append([{"step": 5}])
        assert path.read_bytes() == whole + b'{"step": 5}\n'
    assert run.rows()[0]["loss"] is None
    path.write_bytes(b'{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(RunError, match=r"metrics.jsonl:2: not a JSON object"):
        run.rows()
    path.write_bytes(b"[1]\n")
    with pytest.raises(RunError, match=r"metrics.jsonl:1"):
        run.rows()


def test_truncate_is_byte_exact(run):
    path = run.path / "metrics.jsonl"
    kept = b'{"b": 1.50,   "a": "\xc3\xa9"}\n{"c":0}\n'  # not as append would write it
    path.write_bytes(kept + b'{"d": 1}\n{"torn')
    with pytest.raises(RunError, match="3 rows, but the checkpoint was made after 4"):
        run.truncate(4)
    run.truncate(2)
    assert path.read_bytes() == kept
    run.truncate(0)
    assert path.read_bytes() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_full_disk_and_missing_folder_are_run_errors(run):
    (run.path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"metrics.jsonl: No space left on device"):
        run.append([{"step": 0}])
    (run.path / "blocked").write_text("")
    with pytest.raises(RunError, match=r"blocked.*Not a directory|blocked.*File exists"):
        run.write_text("blocked/a", "")
    (run.path / "checkpoints").write_text("")
    with pytest.raises(RunError, match="cannot save checkpoint 1"):
        run.save(1, leaves(1), {})
    (run.path / "checkpoints").unlink()
    (run.path / "metrics.jsonl").unlink()
    run.save(1, leaves(1), {})  # and it goes on as soon as it can


def test_a_checkpoint_that_does_not_fit_is_one_line_and_the_run_goes_on(run):
    run.save(1, leaves(1), {})
    run.close()
    code = """
import resource, sys
import numpy as np
from l2lcli import rundir
from l2lcli.artefact import RunError
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


# Killed, deleted, moved


OPERATIONS = """
import os, signal, sys
from pathlib import Path
import numpy as np
from l2lcli import rundir
from l2lcli.artefact import write_artefact
base, what = Path(sys.argv[1]), sys.argv[2]

def act(root):
    if what == "create":
        return rundir.create(root / "runs", "digits", "name: digits\\n", path=root / "runs" / "mine")
    with rundir.open_run(root / "run") as run:
        run.lock()
        run.status("running", step=1)
        run.append([{"step": 1}, {"step": 2}])
        run.truncate(1)
        run.append([{"step": 3}])
        run.write_json("eval/x/summary.json", {"a": 1})
        write_artefact(run.path / "optimizer.npz", {"a": np.ones(3)}, {})
        run.status("done", step=3)

for killed_at in range(1000):
    root = base / str(killed_at)
    root.mkdir()
    if what != "create":
        rundir.create(root, "", "name: digits\\n", path=root / "run").close()
    child = os.fork()
    if not child:
        count = -1
        def count_down(event, args):
            global count
            if event.split(".")[0] in ("open", "os", "fcntl") and event not in ("os.listdir", "os.scandir", "os.kill"):
                count += 1
                if count == killed_at:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count_down)
        act(root)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
print(killed_at)
"""


@pytest.mark.parametrize("what", ["create", "go on"])
def test_killed_at_every_file_operation(tmp_path, what):
    said, _ = python(OPERATIONS, tmp_path, what).communicate()
    assert int(said) > 8
    for root in tmp_path.iterdir():
        if what == "create":
            path = root / "runs" / "mine"
            try:
                run = rundir.open_run(path)
            except RunError:  # killed before it was a run: the same command makes it one
                run = rundir.create(root / "runs", "digits", "name: digits\n", path=path)
                assert (root / "runs" / "latest").resolve() == path
            assert (run.path / "config.yaml").read_text() == "name: digits\n"
            assert run.read_status()["state"] in ("starting", "killed")
        else:
            run = rundir.open_run(root / "run")
            assert run.read_status()["state"] in ("killed", "done")
            assert [row["step"] for row in run.rows()] in ([], [1], [1, 2], [1, 3])
            if (run.path / "optimizer.npz").exists():
                assert_same(read_artefact(run.path / "optimizer.npz")[0], {"a": np.ones(3)})
        run.lock()
        run.status("running")
        run.append([{"step": 9}])
        assert run.rows()[-1] == {"step": 9}
        run.close()


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


def test_faults_name_the_file_and_not_a_temporary_one(run):
    (run.path / "a.txt").mkdir()
    with pytest.raises(RunError, match=r"/a\.txt: Is a directory$"):
        run.write_text("a.txt", "")
    assert not hidden(run.path)


UNWRITABLE = """
import os, sys
import numpy as np
import orbax.checkpoint
from l2lcli import rundir
from l2lcli.artefact import RunError, write_artefact
run = rundir.Run(rundir.Path(sys.argv[1]))
os.setuid(65534)
for act in [
    run.lock,
    lambda: run.status("running"),
    lambda: run.append([{}]),
    lambda: run.write_json("eval/a.json", {}),
    lambda: run.write_json("a.json", {}),
    lambda: run.save(1, {"a": np.ones(1)}, {}),
    lambda: write_artefact(run.path / "optimizer.npz", {"a": np.ones(1)}, {}),
    lambda: rundir.create(run.path.parent.parent, "digits", ""),
]:
    try:
        act()
    except RunError as error:
        print(error)
print(run.read_status()["state"], run.rows(), run.restore(print))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user, to whom the folder is closed")
def test_unwritable_folders_are_run_errors(run):
    closed = [folder for folder in run.path.parents if folder.stat().st_mode & 0o77 == 0]
    try:
        for folder in closed:
            folder.chmod(0o755)
        *said, last = python(UNWRITABLE, run.path).communicate()[0].splitlines()
    finally:
        for folder in closed:
            folder.chmod(0o700)
    assert len(said) == 8, said
    for line, name in zip(
        said, [".lock", "status.json", "metrics.jsonl", "eval", "a.json", "1", "optimizer.npz", ""], strict=True
    ):
        assert re.search(rf"{re.escape(str(run.path.parent))}.*{name}.*[Pp]ermission denied", line), line
    assert last == "starting [] None"


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


# Checkpoints


def steps(run):
    return sorted(int(entry.name) for entry in (run.path / "checkpoints").iterdir() if entry.name.isdigit())


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


WORKER = """
import sys, itertools
import numpy as np
from l2lcli import rundir
sys.path.insert(0, sys.argv[2])
from test_rundir import leaves
run = rundir.open_run(sys.argv[1])
run.lock()
found = run.restore(lambda line: sys.exit(line))
start = found.meta["rows"] if found else 0
run.truncate(start)
run.status("running", step=start)
print("started", start, flush=True)
for step in itertools.count(start):
    run.append([{"step": step, "pad": "x" * 5000}])
    if step % 5 == 4:
        run.save(step + 1, leaves(step + 1), {"rows": step + 1}, -float(step))
        run.status("running", step=step + 1)
        print(step + 1, flush=True)
"""


def test_kill_9_at_any_moment_loses_at_most_the_work_since_the_checkpoint(run):
    run.close()
    rng = np.random.default_rng(0)
    promised = 0
    for _ in range(5):
        worker = python(WORKER, run.path, os.path.dirname(__file__))
        try:
            start = worker.stdout.readline()
            first = "" if promised else worker.stdout.readline()  # the first worker still has to import Orbax
            time.sleep(float(rng.uniform(0.05, 0.4)))
        finally:
            worker.send_signal(signal.SIGKILL)
            said, _ = worker.communicate()
        assert start == f"started {promised}\n", "the worker gave up"
        said = first + said
        promised = max([promised, *(int(line) for line in said.split())])
        reader = rundir.open_run(run.path)
        assert reader.read_status()["state"] == "killed"
        found = reader.restore(pytest.fail)
        rows = reader.rows()
        assert found.step in (promised, promised + 5)
        assert_same(found.arrays, leaves(found.step))
        assert found.meta == {"rows": found.step}
        assert len(rows) >= found.step
        promised = found.step
        assert [row["step"] for row in rows] == list(range(len(rows)))
    assert promised > 20


# Artefact

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
    write_artefact(path, dict(reversed(phi.items())), dict(reversed(meta.items())))
    assert path.read_bytes() == first, "the same content in another order gives the same bytes"


def test_artefact_is_a_plain_npz_and_has_no_clock(tmp_path):
    path = tmp_path / "optimizer.npz"
    write_artefact(path, {"lstm/bias": np.arange(3.0), "file": np.ones(1)}, {"kind": "lstm"})
    with np.load(path, allow_pickle=False) as archive:
        assert set(archive.files) == {"lstm/bias", "file", "__meta__"}
        assert json.loads(str(archive["__meta__"])) == {"format": 1, "kind": "lstm"}
        np.testing.assert_array_equal(archive["lstm/bias"], np.arange(3.0))
    assert {info.date_time for info in zipfile.ZipFile(path).infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert not hidden(tmp_path)


def test_artefact_keeps_nested_dicts_and_scalars(tmp_path):
    def flat(tree, prefix=""):
        for key, value in tree.items():
            yield from flat(value, f"{prefix}{key}/") if isinstance(value, dict) else [(prefix + key, value)]

    phi = {"lstm": {"layer_0": {"kernel": np.ones((2, 3), np.float32), "bias": np.float32(-0.0)}}, "scale": np.array(0.1)}
    phi["empty"] = np.zeros((0, 3), np.int32)
    write_artefact(tmp_path / "a.npz", dict(flat(phi)), {})
    got, _ = read_artefact(tmp_path / "a.npz")
    assert_same(got, dict(flat(phi)))
    nested = {}
    for key, leaf in got.items():
        *folders, last = key.split("/")
        place = nested
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = leaf
    assert nested["lstm"]["layer_0"]["bias"].shape == () == nested["scale"].shape
    with pytest.raises(ValueError, match="lstm: cannot store dtype object"):
        write_artefact(tmp_path / "a.npz", phi, {})


def test_artefact_does_not_depend_on_the_layout_in_memory(tmp_path):
    leaf = np.arange(6.0).reshape(2, 3)
    write_artefact(tmp_path / "c.npz", {"a": leaf}, {})
    write_artefact(tmp_path / "f.npz", {"a": np.asfortranarray(leaf)}, {})
    assert (tmp_path / "c.npz").read_bytes() == (tmp_path / "f.npz").read_bytes()


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


@pytest.mark.parametrize("module", ["artefact", "status", "folders", "metrics", "checkpoint", "rundir", "tables", "figures", "report"])
def test_importing_loads_neither_jax_nor_orbax_nor_matplotlib(module):
    heavy = "{'jax', 'jaxlib', 'orbax', 'tensorstore', 'flax', 'optax', 'matplotlib'}"
    code = f"import sys, l2lcli.{module}; print(sorted({heavy} & {{name.split('.')[0] for name in sys.modules}}))"
    assert python(code).communicate()[0].strip() == "[]"
