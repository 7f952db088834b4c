"""A few-shot experiment from end to end by the command line: run directory, summary, gates, variants, evaluation, report."""

import csv
import json

import jax.numpy as jnp
import numpy as np
import pytest

import l2lcli
from l2lcli.runs import trained
from tests.command_line import l2l

CONFIG = """
name: waves
problem: {kind: sinusoid, shots: 4, queries: 4, hidden: [4]}
optimizer: {kind: lstm_gd_v1, learn_start: false}
train:
  episodes: 4
  tasks: 2
  horizon: 3
  weights: last
  estimator: {kind: auto, window: 3}
  validate_every: 2
  validation_seeds: 2
eval:
  updates: 2
  episodes: 6
  tuning_seeds: 3
  joint_steps: 20
  baselines: [finetune, nearest_neighbour]
  variants: {wide: {problem.hidden: [6]}}
"""
FAMILIES = {"finetune", "nearest_neighbour", "nearest_neighbour_features", "lstm_gd_v1"}


def test_a_learned_start_is_evaluated_by_its_own_window_kept_on_the_way_and_handed_out(tmp_path, monkeypatch):
    (tmp_path / "waves.yaml").write_text(CONFIG)
    maml = (
        "--set",
        "optimizer={kind: maml}",
        "--set",
        "eval.variants={}",
        "--set",
        "eval.baselines=[]",
        "--set",
        "train.keep=[2]",
    )
    out, _ = l2l(tmp_path, "train", "waves.yaml", "--run-dir", "maml", *maml)
    assert "> maml" in out and "maml after 2" in out
    (tmp_path / "bare.yaml").write_text("name: bare\nproblem: {kind: sinusoid, shots: 4, queries: 4, hidden: [4]}\n")
    shown, _ = l2l(tmp_path, "eval", "maml", "--config", "bare.yaml", "--baseline", "", "--seeds", 2, "--json")
    assert set(json.loads(shown)["few_shot"]) == {"maml", "maml after 2"}
    _, err = l2l(tmp_path, "eval", "maml", "--equal-time", code=2)
    assert "eval.equal_time: not for few-shot problems" in err
    monkeypatch.chdir(tmp_path)
    theta = {"b": jnp.zeros(5), "w": jnp.zeros(8)}
    begun, phi = l2lcli.start("maml", theta), trained.read("maml").phi
    np.testing.assert_array_equal(np.concatenate([begun["b"], begun["w"]]), phi["start"])
    l2lcli.load("maml").init(begun)
    with pytest.raises(ValueError, match=r"is not for this network: start is float32\[13\] there, float32\[3\] here"):
        l2lcli.load("maml").init(jnp.zeros(3))
    with pytest.raises(ValueError, match="has learned no start"):
        l2lcli.start("digits", theta)


def test_from_training_to_a_comparison_of_runs(tmp_path):
    (tmp_path / "waves.yaml").write_text(CONFIG)
    plan, _ = l2l(tmp_path, "train", "waves.yaml", "--dry-run")
    assert "judged up to 2 updates on 6 episodes beside finetune, nearest_neighbour, chosen on 3 other seeds" in plan
    out, _ = l2l(tmp_path, "train", "waves.yaml", "--run-dir", "one")
    assert "waves: 2 updates, 6 test episodes" in out and "> lstm_gd_v1" in out
    summary = json.loads((tmp_path / "one/summary.json").read_text())
    for part in (summary, summary["variants"]["wide"]):
        assert set(part["few_shot"]) == FAMILIES
        for name, entry in part["few_shot"].items():
            assert entry["metric"] == "mse" and entry["episodes"] == 6
            assert entry["updates"] == ([0] if name.startswith("nearest") else [0, 1, 2])
            assert len(entry["mean"]) == len(entry["ci"]) == len(entry["updates"])
    assert summary["variants"]["wide"]["test_episodes"] != summary["test_episodes"]
    with (tmp_path / "one/metrics/waves.csv").open() as file:
        rows = list(csv.DictReader(file))
    ours = [float(row["value"]) for row in rows if (row["optimizer"], row["step"]) == ("lstm_gd_v1", "2")]
    assert len(ours) == 6
    assert abs(sum(ours) / 6 - summary["few_shot"]["lstm_gd_v1"]["mean"][2]) < 1e-6
    with (tmp_path / "one/gates.csv").open() as file:
        assert {row["gate"] for row in csv.DictReader(file)} == {"forget", "input"}
    figures = {path.name for path in (tmp_path / "one/figures").glob("*.png")}
    assert figures == {"few_shot.png", "few_shot-wide.png", "gates.png", "meta_training.png"}
    evaluated, _ = l2l(tmp_path, "eval", "one", "--no-variants", "--baseline", "nearest_neighbour", "--json")
    again = json.loads(evaluated)
    assert again["test_episodes"] == summary["test_episodes"]
    assert again["few_shot"]["lstm_gd_v1"] == summary["few_shot"]["lstm_gd_v1"]
    # Of another experiment only the problem and the evaluation count, and --steps are its updates.
    (tmp_path / "bare.yaml").write_text("name: bare\nproblem: {kind: sinusoid, shots: 4, queries: 4, hidden: [4]}\n")
    bare, _ = l2l(tmp_path, "eval", "one", "--config", "bare.yaml", "--baseline", "sgd", "--steps", 1, "--seeds", 2, "--json")
    assert (json.loads(bare)["steps"], json.loads(bare)["seeds"]) == (1, 2)
    page, _ = l2l(tmp_path, "report", "one", "one/eval/waves")
    assert "Few-shot: waves" in (tmp_path / page.strip()).read_text()
