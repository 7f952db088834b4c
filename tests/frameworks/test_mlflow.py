"""MLflow, in a folder: what its own client finds of what the sink told."""

import json
import signal

import pytest

pytest.importorskip("mlflow", reason="mlflow is an extra: pip install 'l2lcli[mlflow]'")

from mlflow import MlflowClient

from l2lcli.commands.sinks import Sinks
from l2lcli.config import load
from l2lcli.runs import rundir
from l2lcli.signals import Diverged, Stopped
from tests.commands.test_sinks import work

ROWS = [
    {"step": 5, "episode": 1, "loss": 2.5, "grad_norm": None, "skipped": 0, "learning_rate": 0.01},
    {"step": 5, "episode": 1, "validation_loss": 1.5, "validation": {"a": 1.0, "b": 2.0}, "best": True},
    {"step": 10, "episode": 2, "loss": 2.0, "grad_norm": 0.5, "skipped": 1, "learning_rate": 0.005},
]
SUMMARY = {"problem": "small", "optimizers": {"lstm@sum": {"final": 0.25, "final_ci": [0.2, 0.3], "sum": None}}}


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A file store, which mlflow-skinny can do without a server, if it is told twice."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return MlflowClient()


def test_its_client_finds_the_rows_once_the_config_and_the_summary(tmp_path, client):
    config = load({"name": "small", "seed": 7, "sinks": ["mlflow"], "eval": {"variants": {"wide": {"problem.dimension": 30}}}})
    status = lambda: client.get_run(json.loads((run.path / "sinks.json").read_text())["mlflow"]["kept"]["id"]).info.status
    with rundir.create(tmp_path, "small", "", path=tmp_path / "run") as run:
        with pytest.raises(Stopped):
            work(run, config, [], [ROWS[:2]], error=Stopped(signal.SIGTERM))
        assert status() == "KILLED"
        with Sinks(run, config, pytest.fail) as sinks:  # gone on with from a checkpoint before the second row
            sinks.begin(ROWS[:1])
            assert status() == "RUNNING"
            sinks.add(ROWS[1:])
            sinks.summary(SUMMARY)
    (found,) = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert found.info.status == "FINISHED" and found.info.run_name == "run"
    assert found.data.params["seed"] == "7" and found.data.params["eval.variants.wide.problem.dimension"] == "30"
    assert json.loads(found.data.params["eval.baselines"]) == ["sgd", "momentum", "nag", "rmsprop", "adam"]
    history = {
        name: [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, name)] for name in found.data.metrics
    }
    assert history == {
        "meta-training/loss": [(5, 2.5), (10, 2.0)],
        "meta-training/gradient_norm": [(10, 0.5)],
        "meta-training/learning_rate": [(5, 0.01), (10, 0.005)],
        "meta-training/skipped_updates": [(5, 0), (10, 1)],
        "validation/loss": [(5, 1.5)],
        "validation/a/loss": [(5, 1.0)],
        "validation/b/loss": [(5, 2.0)],
        "summary/optimizers/lstm-sum/final": [(0, 0.25)],
        "summary/optimizers/lstm-sum/final_ci/low": [(0, 0.2)],
        "summary/optimizers/lstm-sum/final_ci/high": [(0, 0.3)],
    }


def test_a_run_that_was_deleted_there_is_a_warning(tmp_path, client):
    config = load({"name": "small", "sinks": ["mlflow"]})
    said = []
    with rundir.create(tmp_path, "small", "", path=tmp_path / "run") as run:
        with pytest.raises(Diverged):
            work(run, config, ROWS, error=Diverged("no"))
        (found,) = client.search_runs([client.get_experiment_by_name("small").experiment_id])
        assert found.info.status == "FAILED"
        client.delete_run(found.info.run_id)
        work(run, config, ROWS, [ROWS], warn=said.append)
    assert len(said) == 1 and said[0].startswith("warning: sink mlflow: is told nothing from here on: ")
