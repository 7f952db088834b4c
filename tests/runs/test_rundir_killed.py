"""A run directory survives kill -9 at any moment, and says in one line what the system refuses."""

import os
import re
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from l2lcli.runs import rundir
from l2lcli.runs.artefact import read_artefact
from l2lcli.runs.files import RunError
from tests.support import ROOT, assert_same, leaves, python


@pytest.fixture
def run(tmp_path):
    with rundir.create(tmp_path / "runs", "digits", "name: digits\n") as run:
        yield run


OPERATIONS = """
import os, signal, sys
from pathlib import Path
import numpy as np
from l2lcli.runs import rundir
from l2lcli.runs.artefact import write_artefact
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


UNWRITABLE = """
import os, sys
import numpy as np
import orbax.checkpoint
from l2lcli.runs import rundir
from l2lcli.runs.files import RunError
from l2lcli.runs.artefact import write_artefact
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
def test_unwritable_folders_are_run_errors():
    # Not in tmp_path: pytest closes the folders above it to others, and another pytest would close them again meanwhile.
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)
        with rundir.create(Path(root) / "runs", "digits", "name: digits\n") as run:
            *said, last = python(UNWRITABLE, run.path).communicate()[0].splitlines()
    assert len(said) == 8, said
    for line, name in zip(
        said, [".lock", "status.json", "metrics.jsonl", "eval", "a.json", "1", "optimizer.npz", ""], strict=True
    ):
        assert re.search(rf"{re.escape(str(run.path.parent))}.*{name}.*[Pp]ermission denied", line), line
    assert last == "starting [] None"


WORKER = """
import sys, itertools
import numpy as np
from l2lcli.runs import rundir
sys.path.insert(0, sys.argv[2])
from tests.support import leaves
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
    for _ in range(3):
        worker = python(WORKER, run.path, ROOT)
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
    assert promised > 10
