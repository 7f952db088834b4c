"""`l2lcli.train` and `l2lcli.evaluate` leave the bits that the commands leave, from a file and from a mapping alike."""

import json
import os
import signal
import threading
import time

import pytest
import yaml

import l2lcli
from l2lcli.config import ConfigError
from l2lcli.runs import rundir
from l2lcli.runs.files import RunError
from tests.test_plugins import l2l

CONFIG = """
name: small
problem: {kind: quadratic, dimension: 3}
optimizer: {kind: momentum}
train:
  episodes: 4
  tasks: 2
  horizon: 10
  estimator: {kind: auto, window: 5}
  validate_every: 2
  validation_seeds: 2
eval: {steps: 10, seeds: 3, tuning_seeds: 2, baselines: [sgd], report: false}
"""
BITS = ("optimizer.npz", "metrics.jsonl", "curves/small.csv", "config.yaml")


@pytest.fixture(scope="module")
def typed(tmp_path_factory):
    """A folder with a config, the run that the command made of it, and the lines that it printed."""
    folder = tmp_path_factory.mktemp("typed")
    (folder / "small.yaml").write_text(CONFIG)
    out, _ = l2l(folder, "train", "small.yaml", "--run-dir", "typed", "--devices", 1)
    return folder, out


@pytest.fixture
def folder(typed, monkeypatch):
    monkeypatch.chdir(typed[0])
    return typed[0]


def timeless(summary):
    """A summary without what the clock says."""
    summary = dict(summary, pays=None)
    summary["optimizers"] = {k: {**v, "seconds_per_step": None} for k, v in summary["optimizers"].items()}
    return summary


@pytest.mark.parametrize("given", ["a file", "a mapping"])
def test_training_leaves_the_bits_of_the_command(folder, given):
    config = "small.yaml" if given == "a file" else yaml.safe_load(CONFIG)
    run = l2lcli.train(config, run_dir=given, devices=1)
    assert run.path == type(run.path)(given)
    for name in BITS:
        assert (run.path / name).read_bytes() == (folder / "typed" / name).read_bytes(), name
    theirs, ours = (json.loads((folder / name / "summary.json").read_text()) for name in ("typed", given))
    assert timeless(ours) == timeless(theirs)
    assert run.summary.dump() == ours
    assert rundir.open_run(run.path).read_status()["state"] == "done"


def test_evaluating_leaves_the_bits_of_the_command(folder):
    out, _ = l2l(folder, "eval", "typed", "--steps", 10, "--seeds", 3, "--baseline", "sgd", "--set", "seed=5")
    found = l2lcli.evaluate("typed", baselines=["sgd"], steps=10, seeds=3, overrides=["seed=5"])
    assert str(found.path) == "typed/eval/small-2"
    first = folder / "typed/eval/small"
    for name in ("config.yaml", "curves/small.csv"):
        assert (found.path / name).read_bytes() == (first / name).read_bytes(), name
    assert timeless(found.summary.dump()) == timeless(json.loads((first / "summary.json").read_text()))
    assert "seed: 5" in (first / "config.yaml").read_text()
    assert (first / "curves/small.csv").read_bytes() != (folder / "typed/curves/small.csv").read_bytes()
    assert str(found).splitlines()[0] == out[0] == "small: 10 steps, 3 seeds [95 % intervals]"


def test_a_result_is_printed_as_the_command_prints_it(folder, typed):
    """And a run that is done is not trained again."""
    before = (folder / "typed/status.json").read_bytes()
    run = l2lcli.train(resume="typed")
    assert (folder / "typed/status.json").read_bytes() == before
    table = str(run).splitlines()
    assert len(table) > 5 and typed[1][: len(table)] == table


def test_baselines_alone_are_compared_where_a_config_is_given_and_no_run(folder):
    found = l2lcli.evaluate(config="small.yaml")
    assert found.summary.learned is None and set(found.summary.optimizers) == {"sgd"}
    assert found.path.parent.parent == type(found.path)("runs/evaluations")


def test_an_interrupt_is_raised_and_leaves_a_run_that_is_gone_on_with(folder):
    """Ctrl-C in a notebook: the signal that it sends comes from a thread here, once training writes its rows."""

    def interrupt():
        while not (folder / "cut/metrics.jsonl").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt, match=r"go on with: l2lcli.train\(resume='cut'\)"):
        l2lcli.train("small.yaml", run_dir="cut", devices=1, overrides=["train.episodes=100000", "eval.baselines=[]"])
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    status = json.loads((folder / "cut/status.json").read_text())
    assert status["state"] == "stopped" and 0 < status["step"] < 200_000
    rundir.open_run(folder / "cut").lock()  # nobody holds it any more


@pytest.mark.parametrize(
    ("call", "kind", "said"),
    [
        (lambda: l2lcli.train(), TypeError, "train takes a config, or resume=RUN"),
        (lambda: l2lcli.train("small.yaml", resume="typed"), TypeError, "train takes a config, or resume=RUN"),
        (lambda: l2lcli.train("none.yaml"), ConfigError, "none.yaml:1:1: cannot be read"),
        (lambda: l2lcli.train({"optimizer": {"hiden": 3}}), ConfigError, "unknown key; did you mean 'hidden'?"),
        (lambda: l2lcli.train("small.yaml", overrides=["seed=x"]), ConfigError, "seed: expected a whole number"),
        (lambda: l2lcli.train("small.yaml", run_dir="typed"), RunError, "typed"),
        (lambda: l2lcli.train(resume="nowhere"), RunError, "nowhere: no such run directory"),
        (lambda: l2lcli.evaluate("nowhere"), RunError, "nowhere: no run directory"),
        (lambda: l2lcli.evaluate("typed", baselines=["adma"]), ConfigError, "adma"),
    ],
)
def test_what_is_wrong_is_raised_in_one_line_and_leaves_nothing(folder, call, kind, said):
    before = sorted(folder.rglob("*"))
    with pytest.raises(kind) as caught:
        call()
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(folder.rglob("*")) == before
