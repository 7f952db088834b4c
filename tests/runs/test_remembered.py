"""Learning rates from the cache are those that tuning finds, and of nothing that differs from what was tuned."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from l2lcli import experiment
from l2lcli.commands import compare as comparison
from l2lcli.config import load, override
from l2lcli.runs import remembered
from l2lcli.signals import UNWATCHED
from tests.support import empty_cache

CONFIG = """
name: small
problem: {kind: quadratic, dimension: 3}
eval: {steps: 5, seeds: 3, tuning_seeds: 2, baselines: [nag_cosine]}
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    empty_cache(tmp_path, monkeypatch)
    (tmp_path / "small.yaml").write_text(CONFIG)
    return load(tmp_path / "small.yaml")


def test_the_second_evaluation_tunes_nothing_and_finds_the_same(config):
    summaries, told = [], []
    for _ in range(2):
        watched = SimpleNamespace(say=told.append, check=lambda: None)
        found = comparison.evaluate_experiment(experiment.build(config), None, watched)
        summary = found.comparisons["small"].summary.dump()
        del summary["optimizers"]["nag_cosine"]["seconds_per_step"]
        summaries.append(summary)
    assert told == ["tuning nag_cosine", "nag_cosine: learning rates as tuned before, from the cache"]
    assert summaries[0] == summaries[1]


FOUND, OTHER = {"final": 0.25, "sum": 1 / 3}, {"final": 1.0, "sum": 2.0}


def recall(built, baseline="sgd", find=lambda: OTHER):
    return comparison._remembering(built, UNWATCHED)(baseline, built.config.eval.steps, find)


@pytest.mark.parametrize(
    "change",
    [
        {"eval.steps": 6}, {"eval.tuning_seeds": 3}, {"seed": 1}, {"problem.dimension": 4}, {"problem.start_scale": 2.0},
    ],
)  # fmt: skip
def test_whatever_decides_the_rates_is_part_of_the_key(config, change):
    built = experiment.build(config)
    assert recall(built, find=lambda: FOUND) == FOUND == recall(built)
    assert recall(experiment.build(override(config, change))) == OTHER
    assert recall(built, "momentum") == OTHER
    assert recall(experiment.build(override(config, {"eval.seeds": 4, "eval.baselines": ["adam"]}))) == FOUND


def test_an_edited_problem_is_another_problem(config):
    built = experiment.build(config)
    recall(built, find=lambda: FOUND)
    edited = built.problem._replace(loss=lambda theta, task: 2 * built.problem.loss(theta, task))
    noisy = built.problem._replace(minibatch=True)  # its final loss is another mean
    assert [recall(built._replace(problem=problem)) for problem in (built.problem, edited, noisy)] == [FOUND, OTHER, OTHER]
    unknown = built._replace(problem=built.problem._replace(data={"train": jnp.zeros(3)}))  # data that nothing names
    assert [recall(unknown, find=lambda: FOUND), recall(unknown)] == [FOUND, OTHER]


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"\xff", b'{"identity": {}, "found": {}}', "found", "zero", "text", "none"],
)
def test_a_damaged_file_is_recomputed(tmp_path, monkeypatch, damage):
    cache = empty_cache(tmp_path, monkeypatch)
    identity, found = {"baseline": "sgd", "seed": 0}, {"final": 0.1, "sum": 1 / 3}
    remembered.write(identity, found)
    assert remembered.read(identity) == found
    (file,) = (cache / "measured").iterdir()
    wrong = {"found": b'"found": 3, "x":', "zero": b'"found": {"final": 0, "sum": 1}, "x":',
             "text": b'"found": {"final": "a", "sum": 1}, "x":', "none": b'"found": {"sum": 1}, "x":'}  # fmt: skip
    file.write_bytes(file.read_bytes().replace(b'"found":', wrong[damage]) if damage in wrong else damage)
    assert remembered.read(identity) is None
    remembered.write(identity, found)
    assert remembered.read(identity) == found


def test_a_cache_that_cannot_be_used_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("L2L_CACHE", str(tmp_path / "file"))
    remembered.write({"seed": 0}, {"final": 1.0, "sum": 1.0})
    assert remembered.read({"seed": 0}) is None
