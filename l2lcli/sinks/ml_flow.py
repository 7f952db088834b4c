"""MLflow. Its environment variables say where to: `MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME` …"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from l2lcli.sinks._numbers import leaves, of_row, of_summary
from l2lcli.sinks.source import register

AT_ONCE = 100  # parameters that one request may have
METRICS_AT_ONCE = 1000  # and metrics
LONGEST = 6000  # characters of a parameter
STATES = {"done": "FINISHED", "stopped": "KILLED"}  # any other is FAILED


@register("mlflow", package="mlflow", extra="mlflow")
class MLflow:
    """MLflow: a run of the experiment of the config's name, or of `MLFLOW_EXPERIMENT_NAME`, at `MLFLOW_TRACKING_URI`."""

    def begin(self, run: Path, config: Mapping[str, Any], kept: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """A new run with the config as its parameters, or the one that was begun."""
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]  an extra

        # A client, and not mlflow's current run, which belongs to whoever calls `l2lcli.train`.
        self._client: Any = MlflowClient()
        if kept is not None:
            self._id = kept["id"]
            self._client.update_run(self._id, status="RUNNING")
            return kept
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or config["name"]
        experiment = self._client.get_experiment_by_name(name)
        number = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        self._id = self._client.create_run(number, run_name=run.name, tags={"l2l.run": str(run)}).info.run_id
        self._parameters(config)
        return {"id": self._id}

    def _parameters(self, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]

        said = {_name(".".join(path)): value if isinstance(value, str) else json.dumps(value) for path, value in leaves(config)}
        given = [Param(name, value[:LONGEST]) for name, value in said.items()]
        for first in range(0, len(given), AT_ONCE):
            self._client.log_batch(self._id, params=given[first : first + AT_ONCE])

    def _metrics(self, numbers: Sequence[tuple[str, float, int]]) -> None:
        """(name, number, step) each."""
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now = time.time_ns() // 1_000_000
        given = [Metric(_name(name), number, now, step) for name, number, step in numbers]
        for first in range(0, len(given), METRICS_AT_ONCE):
            self._client.log_batch(self._id, metrics=given[first : first + METRICS_AT_ONCE])

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """A metric at its meta-step for each number."""
        self._metrics([(name, number, row["step"]) for row in rows for name, number in of_row(row).items()])

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Metrics without a step."""
        self._metrics([(name, number, 0) for name, number in of_summary(summary).items()])

    def close(self, state: str) -> None:
        """Finished, killed or failed."""
        self._client.set_terminated(self._id, status=STATES.get(state, "FAILED"))


def _name(name: str) -> str:
    """A name that MLflow takes: it knows letters, digits and some signs."""
    return re.sub(r"[^\w\-./ ]", "-", name)
