"""`l2l score` on a suite of two small problems, and a mixture from its file to its summary."""

import json
import shutil

import pytest

from tests.command_line import CONFIG, QUIET, l2l

EVAL = "eval: {steps: 6, seeds: 4, tuning_seeds: 2, baselines: [adam]}\n"
MIXTURE = """
name: mix
problem:
  kind: mixture
  members:
    two: {problem: {kind: quadratic, dimension: 2}, weight: 2.0}
    three: {problem: {kind: quadratic, dimension: 3}, tasks: 3, horizon: 4, window: 2}
optimizer: {kind: lstm, layers: 1, hidden: 2}
train: {episodes: 2, tasks: 2, horizon: 6, estimator: {kind: nres, window: 3}, validate_every: 1, validation_seeds: 2,
  weights: {last: 0.5}, meta_loss: {measure: log, cut: 2.0}}
eval: {steps: 6, seeds: 3, tuning_seeds: 2, baselines: [sgd]}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "suite").mkdir()
    for name, dimension in (("a", 2), ("b", 3)):
        text = f"name: {name}\nproblem: {{kind: quadratic, dimension: {dimension}}}\n{EVAL}"
        (tmp_path / "suite" / f"{name}.yaml").write_text(text)
    (tmp_path / "small.yaml").write_text(CONFIG)
    return tmp_path


def test_a_score_is_written_read_again_and_gone_on_with(folder):
    l2l(folder, "train", "small.yaml", "--run-dir", "run", *QUIET)
    out, err = l2l(folder, "score", "run", "--suite", "suite")
    assert "a  " in out and "wins" in out and "a: tuning adam" in err
    (path,) = (folder / "runs" / "scores").glob("*-run-*/score.json")
    found = json.loads(path.read_text())
    assert found["wins"] + found["undecided"] + found["losses"] == 2 and set(found["tasks"]) == {"a", "b"}
    assert (path.parent / "report.html").is_file() and (path.parent / "figures" / "score.png").is_file()
    # What is done is not done again; baselines serve the next optimizer, too.
    (path.parent / "tasks" / "b.json").unlink()
    out, err = l2l(folder, "score", "run", "--suite", "suite", "--json")
    again = json.loads(out)
    assert "tuning" not in err and again["tasks"]["a"] == found["tasks"]["a"]
    assert again["tasks"]["b"]["ratio_final"] == pytest.approx(found["tasks"]["b"]["ratio_final"], rel=1e-4)
    assert again["suite"] == found["suite"]
    # Equal times are asked for later, and of what was kept.
    out, err = l2l(folder, "score", "run", "--suite", "suite", "--equal-time")
    assert "a: tuning adam for" in err and "at equal time" in out and "With as much time for the baselines it wins" in out
    timed = json.loads(path.read_text())
    entry = timed["tasks"]["a"].pop("equal_time")
    assert timed["tasks"]["a"] == found["tasks"]["a"] and sum(timed["equal_time"].values()) == 2
    pace = found["tasks"]["a"]["seconds_per_step"]
    assert entry["steps"]["adam"] == max(1, int(6 * pace["learned"] / pace["adam"] + 1e-9))
    out, err = l2l(folder, "score", "run", "--suite", "suite", "--equal-time")
    assert "tuning" not in err
    # Kept, it brings its baselines along, which then serve where there are no others.
    l2l(folder, "report", path.parent, "--save-reference")
    (kept,) = (folder / "runs" / "reference").glob("suite-*/scores/*-run/score.json")
    assert (kept.parent / "figures" / "score.png").is_file() and (kept.parent / "curves" / "a.npz").is_file()
    drawn = (kept.parent / "figures" / "score.png").read_bytes()
    (kept.parent / "figures" / "score.png").unlink()
    l2l(folder, "report", kept.parent, "--figures")
    assert (kept.parent / "figures" / "score.png").read_bytes() == drawn
    shutil.rmtree(folder / "runs" / "scores")
    out, err = l2l(folder, "score", "run", "--suite", "suite", "--json")
    assert "tuning" not in err
    assert json.loads(out)["tasks"]["a"]["ratio_final"] == pytest.approx(found["tasks"]["a"]["ratio_final"], rel=1e-4)


def test_another_suite_has_another_digest_and_baselines_alone_can_be_tuned(folder):
    l2l(folder, "score", "--baselines", "--suite", "suite")
    (folder / "suite" / "b.yaml").unlink()
    l2l(folder, "score", "--baselines", "--suite", "suite")
    assert len([*(folder / "runs" / "scores").glob("baselines-*")]) == 2


@pytest.mark.parametrize(("suite", "complaint"), [("nowhere", "no such folder"), ("empty", "no experiment files")])
def test_what_is_no_suite_is_said_in_one_line(folder, suite, complaint):
    (folder / "empty").mkdir()
    _, err = l2l(folder, "score", "--baselines", "--suite", suite, code=1)
    assert complaint in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("problem: {kind: sinusoid}", "c: problem.kind: sinusoid is few-shot"),
        ("problem: {kind: quadratic}\neval: {baselines: []}", "c: eval.baselines: none"),
        ("problem: {kind: quadratic}\neval: {baselines: [adam, bfgs]}", "c: eval.baselines: bfgs has no learning rate"),
        ("problem: {kind: quadratic}\neval: {baselines: [finetune]}", "eval.baselines.0: finetune is for few-shot problems"),
    ],
)
def test_what_cannot_be_scored_is_said_before_any_task_is_worked_on(folder, text, complaint):
    (folder / "suite" / "c.yaml").write_text(text)
    _, err = l2l(folder, "score", "--baselines", "--suite", "suite", code=2)
    assert complaint in err and len(err.strip().splitlines()) == 1 and not (folder / "runs").exists()


def test_a_task_is_scored_on_the_problem_that_evaluations_are_of(folder):
    text = "problem: {kind: random_scaling, scale: 0, convex: 50, of: {kind: quadratic, dimension: 2}}\n" + EVAL
    (folder / "suite" / "b.yaml").write_text(text)
    (folder / "one").mkdir()
    (folder / "one" / "b.yaml").write_text(text)
    (folder / "plain.yaml").write_text("name: plain\nproblem: {kind: quadratic, dimension: 2}\n" + EVAL)
    l2l(folder, "train", "small.yaml", "--run-dir", "run", *QUIET)
    out, _ = l2l(folder, "score", "run", "--suite", "one", "--json")
    shown, _ = l2l(folder, "eval", "run", "--config", "plain.yaml", "--json")
    found, plain = json.loads(out)["tasks"]["b"], json.loads(shown)
    assert found["ratio_final"] == pytest.approx(plain["ratio_final"], rel=1e-4)


def test_a_mixture_is_trained_validated_and_compared_member_by_member(folder):
    (folder / "mix.yaml").write_text(MIXTURE)
    l2l(folder, "train", "mix.yaml", "--run-dir", "run", *QUIET)
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    validated = [row["validation"] for row in rows if "validation" in row]
    assert [set(of) for of in validated] == [{"two", "three"}] * 2
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["problem"] == "mix" and set(summary["variants"]) == {"three"}


def test_draws_stand_beside_the_curves(folder):
    problem = "{kind: networks, depth: [1, 2], width: 3.0, batch_size: 4.0}"
    (folder / "n.yaml").write_text(
        f"name: n\nproblem: {problem}\neval: {{steps: 2, seeds: 3, tuning_seeds: 2, baselines: [sgd]}}"
    )
    out, _ = l2l(folder, "eval", "--config", "n.yaml", "--set", "eval.report=false", "--json")
    assert json.loads(out)["problem"] == "n"
    (path,) = (folder / "runs" / "evaluations").glob("**/curves/n.csv")
    lines = path.read_text().splitlines()
    assert lines[0].startswith("optimizer,seed,step,loss,activation,batch_size,depth,")
    assert (len(lines) - 1) % 9 == 0  # three seeds, three steps, once or twice
