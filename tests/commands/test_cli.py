"""The command line from end to end, in processes of its own: what it prints, what it writes, how it ends."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from l2lcli.evaluation.summary import Value
from l2lcli.reports import curves as curve_files
from l2lcli.reports import tables
from l2lcli.runs import artefact, trained
from tests.command_line import CONFIG, QUIET, command, l2l


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a config and a finished run of it."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "small.yaml").write_text(CONFIG)
    out, err = l2l(folder, "train", "small.yaml", "--set", "seed=1")
    assert "small: 10 steps, 3 seeds" in out
    assert "> lstm" in out
    assert "run directory: runs/small/" in err
    return folder


def validations(run):
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row["validation_loss"] for row in rows if "validation_loss" in row]


def latest(folder):
    return (folder / "runs/latest").resolve()


def test_train_leaves_a_complete_run_directory(home):
    run = latest(home)
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert {
        "config.yaml", "env.json", "status.json", "metrics.jsonl", "optimizer.npz", "curves/small.csv", "summary.json",
        "inspection.npz", "figures/updates.png", "figures/states.png", "figures/step_sizes.png",
        "report.html", "figures/loss_steps.png", "figures/loss_seconds.svg", "figures/meta_training.png",
    } <= files  # fmt: skip
    assert "seed: 1" in (run / "config.yaml").read_text()
    status, env = (json.loads((run / name).read_text()) for name in ("status.json", "env.json"))
    assert (status["state"], status["step"]) == ("done", 8)
    assert env["argv"][1:] == ["train", "small.yaml", "--set", "seed=1"]
    assert {"versions", "backend", "devices", "git", "datasets"} <= set(env)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["episode"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert [row["episode"] for row in rows if "validation_loss" in row] == [2, 4]


def test_the_summary_rests_on_the_curves_beside_it(home):
    run = latest(home)
    summary, curves = json.loads((run / "summary.json").read_text()), curve_files.read(run / "curves/small.csv")
    assert curves["lstm"].shape == (3, 11)
    ratio = curves["lstm"][:, -1].mean() / curves["sgd"][:, -1].mean()
    assert summary["ratio_final"] == pytest.approx(ratio)
    assert summary["optimizers"]["lstm"]["sum"] == pytest.approx(curves["lstm"][:, :-1].sum(1).mean())


def test_a_run_is_reproduced_by_its_own_config_bit_for_bit(home):
    run = latest(home)
    l2l(home, "train", run / "config.yaml", "--run-dir", "again")
    for name in ("optimizer.npz", "metrics.jsonl", "curves/small.csv", "config.yaml"):
        assert (home / "again" / name).read_bytes() == (run / name).read_bytes(), name


def test_eval_as_typed_writes_beside_and_prints_json(home):
    run = latest(home)
    before = (run / "summary.json").read_bytes()
    changes = ["--set", "problem.dimension=5"]
    changes += ["--set", "eval.variants={wide: {problem.dimension: 4}, long: {eval.steps: 30}}"]
    out, _ = l2l(home, "eval", "--baseline", "adam,rmsprop,sgd", "--json", "--no-variants", *changes, *QUIET)
    summary = json.loads(out)
    assert summary["variants"] == {}
    assert "variants: {}" in (run / "eval/small/config.yaml").read_text()
    assert set(summary["optimizers"]) == {"lstm", "adam", "rmsprop", "sgd"}
    assert summary == json.loads((run / "eval/small/summary.json").read_text())
    assert {p.name for p in (run / "eval/small").iterdir()} == {
        "config.yaml",
        "curves",
        "env.json",
        "inspection.npz",
        "summary.json",
    }
    out, _ = l2l(home, "eval", run, "--baseline", "sgd", "--steps", "15", "--seeds", "4", *changes)
    assert "small: 15 steps, 4 seeds" in out
    second = run / "eval/small-2"
    assert (second / "report.html").is_file()
    variants = json.loads((second / "summary.json").read_text())["variants"]
    assert {name: variant["steps"] for name, variant in variants.items()} == {"wide": 15, "long": 30}
    assert curve_files.read(second / "curves/long.csv")["lstm"].shape == (4, 31)
    assert {"loss_steps-long.png", "generalisation.png"} <= {path.name for path in (second / "figures").iterdir()}
    variant = variants["wide"]
    curves = curve_files.read(second / "curves/wide.csv")
    assert variant["ratio_final"] == pytest.approx(curves["lstm"][:, -1].mean() / curves["sgd"][:, -1].mean())
    assert f"wide     15     {tables.shown(Value(variant['ratio_final'], variant['ratio_final_ci']), 3)} (sgd)" in out
    assert (run / "summary.json").read_bytes() == before


def test_eval_of_an_optimizer_file_and_of_baselines_alone(home, tmp_path):
    copy = tmp_path / "mine.npz"
    copy.write_bytes((latest(home) / "optimizer.npz").read_bytes())
    out, _ = l2l(tmp_path, "eval", copy, "--baseline", "sgd", "--json", *QUIET)
    assert json.loads(out)["learned"] == "lstm"
    assert (tmp_path / "runs/evaluations/latest/summary.json").is_file()
    out, _ = l2l(tmp_path, "eval", "--config", home / "small.yaml", "--baseline", "adam", "--json", *QUIET)
    assert json.loads(out)["learned"] is None and set(json.loads(out)["optimizers"]) == {"adam"}


def test_init_from_starts_where_the_other_run_ended(home, tmp_path):
    run = latest(home)
    rate = ["--set", "train.meta_optimizer.learning_rate=1e-30"]
    l2l(
        tmp_path,
        "train",
        run / "config.yaml",
        "--init-from",
        run,
        *rate,
        "--run-dir",
        "next",
        "--set",
        "eval.baselines=[]",
        *QUIET,
    )
    first, second = (validations(folder) for folder in (run, tmp_path / "next"))
    assert second == pytest.approx([min(first)] * 3, rel=1e-6)  # the first before any training
    _, err = l2l(tmp_path, "train", run / "config.yaml", "--init-from", run, "--set", "optimizer.hidden=3", code=1)
    assert "its parameters do not fit this config: lstm_0/bias is float32[8] there, float32[12] here" in err
    phi, meta = artefact.read_artefact(run / "optimizer.npz")
    artefact.write_artefact(tmp_path / "lost.npz", phi | {"lstm_0/bias": phi["lstm_0/bias"] * np.nan}, meta)
    _, err = l2l(tmp_path, "train", run / "config.yaml", "--init-from", "lost.npz", code=1)
    assert "train.init_from lost.npz: its parameters are not finite: lstm_0/bias" in err


def test_kept_optimizers_are_those_of_their_episode_and_are_compared(home, tmp_path):
    l2l(tmp_path, "train", home / "small.yaml", "--set", "train.keep=[2, 4]", "--run-dir", "run", *QUIET)
    best = 2 * (1 + int(np.argmin(validations(tmp_path / "run"))))  # validated after 2 and 4 episodes, the better one is kept
    phi = {episode: trained.read(tmp_path / f"run/optimizer-{episode}.npz").phi for episode in (2, 4)}
    final = trained.read(tmp_path / "run").phi
    for name, leaf in final.items():
        np.testing.assert_array_equal(leaf, phi[best][name])
        assert (leaf != phi[6 - best][name]).any()
    curves = curve_files.read(tmp_path / "run/curves/small.csv")
    np.testing.assert_array_equal(curves["lstm"], curves[f"lstm after {best}"])
    assert (curves["lstm"] != curves[f"lstm after {6 - best}"]).any()
    out, _ = l2l(tmp_path, "eval", "run", "--baseline", "sgd")  # they are found again
    assert "results: run/eval/small (no report yet: l2l report run/eval/small)" in out
    again = curve_files.read(tmp_path / "run/eval/small/curves/small.csv")
    assert set(again) == {"lstm", "lstm after 2", "lstm after 4", "sgd"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train"], 2, "give an experiment file"),
        (["train", "none.yaml"], 2, "none.yaml:1:1: cannot be read: no such file or directory"),
        (
            ["train", "small.yaml", "--set", "optimizer.hiden=3"],
            2,
            "--set optimizer.hiden: unknown key; did you mean 'hidden'?",
        ),
        (["train", "small.yaml", "--set", "train.horizon=11"], 2, "5 does not divide the horizon 11"),
        (["train", "small.yaml", "--set", "train.keep=[2, 9]"], 2, "train.keep.1: 9 is after the last of the 4 episodes"),
        (["train", "small.yaml", "--set", "train.init_from=none"], 1, "none: no run directory, no optimizer file"),
        (["train", "--resume", "nowhere"], 1, "nowhere: no such run directory"),
        (["train", "--resume"], 1, "no unfinished run in runs; make one with: l2l train configs/digits.yaml"),
        (["eval"], 1, "no finished run in runs"),
        (["eval", "nowhere"], 1, "nowhere: no run directory, no optimizer file"),
        (["eval", "small.yaml"], 1, "small.yaml: damaged, or not an .npz file"),
        (["report"], 1, "no run in runs"),
        (["report", "."], 1, "nothing to report on"),
        (["list", "things"], 2, "none of problems, optimizers, estimators, datasets"),
        (["config", "validate", "small.yaml", "none.yaml"], 2, "none.yaml:1:1: cannot be read"),
        (["train", "small.yaml", "--set", "name=latest"], 2, "'latest' is a folder of its own in runs/"),
        (["eval", "--config", "small.yaml", "--baseline", ""], 2, "nothing to evaluate"),
        (["eval", "quadratic", "--steps", "2000000"], 2, "eval.steps: must be at most 1000000"),
        (["nonsense"], 2, "No such command 'nonsense'"),
    ],
)
def test_what_is_wrong_gets_one_line_an_exit_code_and_leaves_nothing(tmp_path, arguments, code, said):
    (tmp_path / "small.yaml").write_text(CONFIG)
    _, err = l2l(tmp_path, *arguments, code=code)
    assert said in err
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_a_data_set_that_cannot_be_had_is_one_line_and_a_failed_run(tmp_path):
    (tmp_path / "mnist.yaml").write_text("problem: {kind: classification, dataset: mnist}")
    _, err = l2l(tmp_path, "train", "mnist.yaml", "--set", f"data.raw_dir={tmp_path}", code=1)
    assert "mnist: no train-images-idx3-ubyte.gz" in err
    assert str(tmp_path / "mnist") in err
    assert len(err.splitlines()) == 2  # and the run directory's
    assert json.loads((latest(tmp_path) / "status.json").read_text())["state"] == "failed"


def test_divergence_ends_with_4_and_the_last_good_optimizer(home, tmp_path):
    # f overflows float32 from the start, so no meta-gradient is ever finite.
    wild = ["--set", "problem.start_scale=1e30", "--set", "train.episodes=50"]
    _, err = l2l(tmp_path, "train", home / "small.yaml", *wild, code=4)
    assert "20 meta-gradients or updates in a row were not finite" in err.splitlines()[-1]
    assert json.loads((latest(tmp_path) / "status.json").read_text())["state"] == "diverged"
    l2l(tmp_path, "train", "--resume", code=4)
    found = trained.read(latest(tmp_path))
    assert all(np.isfinite(leaf).all() for leaf in found.phi.values())
    # So is none of a meta-training that ends before so many.
    _, err = l2l(tmp_path, "train", home / "small.yaml", *wild, "--set", "train.episodes=2", code=4)
    assert "4 meta-gradients or updates in a row were not finite" in err.splitlines()[-1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_with_its_code(home, tmp_path, number, code):
    process = subprocess.Popen(
        command("train", home / "small.yaml", "--set", "train.episodes=1000000"),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not list(tmp_path.glob("runs/small/*/metrics.jsonl")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert f"stopped by {number.name}; go on with: l2l train --resume runs/small/" in err.splitlines()[-1]
    run = latest(tmp_path)
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["step"]) == ("stopped", max(int(path.name) for path in (run / "checkpoints").iterdir()))
    _, err = l2l(tmp_path, "train", home / "small.yaml", "--resume", code=2)
    assert "train.episodes: 1000000 in the run" in err


def test_a_run_is_kept_as_a_reference_result_and_found_by_its_name(home, tmp_path):
    run = latest(home)
    out, _ = l2l(tmp_path, "report", run, "--save-reference")
    assert out == "runs/reference/small\n"
    before = (tmp_path / "runs/reference/small/figures/loss_steps.png").read_bytes()
    out, _ = l2l(tmp_path, "report", "runs/reference/small", "--figures")
    assert "runs/reference/small/figures/loss_steps.png" in out.splitlines()
    assert (tmp_path / "runs/reference/small/figures/loss_steps.png").read_bytes() == before
    out, _ = l2l(tmp_path, "eval", "small", "--baseline", "sgd", "--json")
    assert json.loads(out)["ratio_sum"] == pytest.approx(json.loads((run / "summary.json").read_text())["ratio_sum"])


def test_help_loads_neither_jax_nor_pydantic():
    code = "import sys; sys.argv = ['l2l', '--help']\nfrom l2lcli.__main__ import main\n"
    code += "try: main()\nfinally: print(sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "Commands:" in out
    assert not {"'jax'", "'numpy'", "'pydantic'", "'optax'", "'yaml'"} & set(out.splitlines()[-1].strip("[]").split(", "))
