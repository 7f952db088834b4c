"""metrics.jsonl: torn lines, damage, truncation, a full disk."""

import math
import os

import numpy as np
import pytest

from l2lcli.runs import rundir
from l2lcli.runs.files import RunError
from tests.support import leaves


@pytest.fixture
def run(tmp_path):
    with rundir.create(tmp_path / "runs", "digits", "name: digits\n") as run:
        yield run


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
