"""Weights & Biases, offline: what its file of a run holds, read as the records that it would send."""

import json
import signal
import struct

import pytest

pytest.importorskip("wandb", reason="wandb is an extra: pip install 'l2lcli[wandb]'")

from wandb.proto import wandb_internal_pb2

from l2lcli.commands.sinks import Sinks
from l2lcli.config import load
from l2lcli.runs import rundir
from l2lcli.signals import Stopped
from tests.commands.test_sinks import work

ROWS = [
    {"step": 5, "episode": 1, "loss": 2.5, "grad_norm": None, "skipped": 0, "learning_rate": 0.01},
    {"step": 5, "episode": 1, "validation_loss": 1.5, "best": True},
    {"step": 10, "episode": 2, "loss": 2.0, "grad_norm": 0.5, "skipped": 1, "learning_rate": 0.005},
]
SUMMARY = {"problem": "small", "optimizers": {"lstm": {"final": 0.25, "final_ci": [0.2, 0.3], "steps_to_best_baseline": None}}}


def records(folder):
    """Every record of every offline run below a folder, in the order in which they were written.

    wandb reads its files in Go alone. They are LevelDB's log format behind a header of 7 bytes: blocks of 32 KiB, and in them
    pieces of a checksum, a length and a type, which says where in a record a piece is: 1 whole, 2 first, 3 between, 4 last.
    """
    found = []
    for path in sorted(folder.rglob("run-*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        data, at, record = path.read_bytes(), 7, b""
        assert data[:4] == b":W&B"
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            _, length, kind = struct.unpack_from("<IHB", data, at)
            record = data[at + 7 : at + 7 + length] if kind in (1, 2) else record + data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):
                found.append(wandb_internal_pb2.Record.FromString(record))
    return found


def items(of):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in of}


def test_it_would_send_the_rows_once_the_config_and_the_summary(tmp_path, monkeypatch):
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_PROJECT": "trial"}.items():
        monkeypatch.setenv(name, value)
    config = load({"name": "small", "seed": 7, "sinks": ["wandb"]})
    with rundir.create(tmp_path, "small", "", path=tmp_path / "run") as run:
        with pytest.raises(Stopped):
            work(run, config, [], [ROWS[:2]], error=Stopped(signal.SIGTERM))
        with Sinks(run, config, pytest.fail) as sinks:  # gone on with from a checkpoint before the second row
            sinks.begin(ROWS[:1])
            sinks.add(ROWS[1:])
            sinks.summary(SUMMARY)
    found = records(run.path)
    runs = [record.run for record in found if record.HasField("run")]
    assert {(each.run_id, each.project, each.run_group) for each in runs} == {(runs[0].run_id, "trial", "small")}
    assert items(runs[0].config.update)["seed"] == 7
    assert json.loads((run.path / "sinks.json").read_text()) == {"wandb": {"kept": {"id": runs[0].run_id}, "told": 3}}
    history = [items(record.history.item) for record in found if record.HasField("history")]
    said = [{key: value for key, value in each.items() if not key.startswith("_")} for each in history]
    assert said == [
        {"meta-step": 5, "meta-training/loss": 2.5, "meta-training/skipped_updates": 0, "meta-training/learning_rate": 0.01},
        {"meta-step": 5, "validation/loss": 1.5},
        {"meta-step": 10, "meta-training/loss": 2.0, "meta-training/gradient_norm": 0.5, "meta-training/skipped_updates": 1,
         "meta-training/learning_rate": 0.005},
    ]  # fmt: skip
    summaries = [items(record.summary.update) for record in found if record.HasField("summary")]
    final = {key: value for each in summaries for key, value in each.items() if key.startswith("summary/")}
    lstm = "summary/optimizers/lstm"
    assert final == {f"{lstm}/final": 0.25, f"{lstm}/final_ci/low": 0.2, f"{lstm}/final_ci/high": 0.3}
    assert [record.exit.exit_code for record in found if record.HasField("exit")] == [75, 0]
    axes = {record.metric.name or record.metric.glob_name: record.metric for record in found if record.HasField("metric")}
    assert axes["*"].step_metric == "meta-step"
