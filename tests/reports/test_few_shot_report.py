"""Few-shot results in words, tables, figures and pages; damaged ones are refused in one line."""

import csv
import json

import pytest

from l2lcli.evaluation.summary import FewShot, Summary
from l2lcli.reports import comparison, few_shot, page, tables
from l2lcli.reports.figures import gates
from l2lcli.reports.figures.drawing import save
from l2lcli.runs.files import RunError


def entry(means, chosen, metric="accuracy", ci=0.01):
    return {"metric": metric, "updates": list(range(len(means))), "mean": means, "ci": [ci] * len(means), "episodes": 600,
            "chosen": chosen}  # fmt: skip


def families(entries):
    return {name: FewShot(**each) for name, each in entries.items()}


def summary(problem="omni", learned="maml", episodes="a", variants=()):
    found = {"finetune": entry([0.2, 0.5, 0.8], 2), "nearest_neighbour": entry([0.6], 0), learned: entry([0.2, 0.9, 0.85], 1)}
    made = {"problem": problem, "learned": learned, "steps": 2, "seeds": 600, "optimizers": {learned: {}}, "few_shot": found}
    made |= {"best_baseline": {"final": None, "sum": None}, "test_episodes": episodes, "variants": {}}
    return made | {"variants": {name: summary(name, learned) for name in variants}}


def run(folder, **more):
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary(**more)))
    with (folder / gates.FILE).open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(gates.COLUMNS)
        for layer in range(8):
            out.writerows(
                (f"conv_{layer}", gate, e, u, 0.5, 0.4, 0.6) for gate in ("forget", "input") for e in (0, 1) for u in (1, 2)
            )
    return folder


def test_rows_are_best_first_at_the_chosen_number_of_updates():
    header, *rows = few_shot.rows(Summary.of(summary()).few_shot)
    assert header == ["family", "reported", "updates", "after 0", "after 1", "after 2"]
    assert [row[:3] for row in rows] == [
        ["maml", "90.0 ± 1.0 %", "1"], ["finetune", "80.0 ± 1.0 %", "2"], ["nearest_neighbour", "60.0 ± 1.0 %", "-"],
    ]  # fmt: skip
    errors = {"a": entry([4.0, 0.5], 1, "mse"), "b": entry([3.0, None], 1, "mse"), "c": entry([3.0, 0.1], 1, "mse")}
    assert [row[:2] for row in few_shot.rows(families(errors))[1:]] == [
        ["c", "0.1 ± 0.01"],
        ["a", "0.5 ± 0.01"],
        ["b", "lost"],
    ]


def test_the_verdict_names_the_best_baseline():
    said = few_shot.verdict(Summary.of(summary()))
    assert said == (
        "maml reaches 90.0 ± 1.0 % accuracy on the query after 1 updates; the best baseline, finetune, 80.0 ± 1.0 % after 2 "
        "updates."
    )
    text = few_shot.table(Summary.of(summary(variants=["wide"])))
    assert "omni: 2 updates, 600 test episodes" in text and "> maml" in text and "wide" in text


def test_runs_are_merged_where_their_test_episodes_are_the_same():
    runs = {"r1": summary(), "r2": summary("omni-2", "lstm_gd_v2"), "r3": summary("other", episodes="b")}
    runs["r4"] = summary()
    runs["r4"]["few_shot"]["maml"] = entry([0.2, 0.7, 0.7], 1)
    found = few_shot.merged({name: Summary.of(run) for name, run in runs.items()})
    assert list(found) == ["omni", "other"]
    assert set(found["omni"]) == {"finetune", "nearest_neighbour", "maml", "lstm_gd_v2", "maml (r4)"}


@pytest.mark.parametrize("damage", [{"mean": [1.0]}, {"updates": None}, {"ci": ["a", "b", "c"]}, {"metric": 3}])
def test_damaged_results_are_refused(tmp_path, damage):
    made = summary()
    made["few_shot"]["maml"] |= damage
    (tmp_path / "summary.json").write_text(json.dumps(made))
    with pytest.raises(RunError, match=r"damaged: few_shot.maml[^\n]*$"):
        tables.read_summary(tmp_path)


def test_a_runs_report_and_the_comparison_of_two(tmp_path):
    folder = run(tmp_path / "one", variants=["wide"])
    html = page.write(folder).read_text()
    assert "maml reaches 90.0" in html and "<h2>Gates</h2>" in html and "<h2>Generalisation</h2>" in html
    drawn = sorted(path.name for path in (folder / "figures").glob("*.png"))
    assert drawn == ["few_shot-wide.png", "few_shot.png", "gates.png"]
    other = run(tmp_path / "two", problem="omni-v2", learned="lstm_gd_v2")
    compared = comparison.write([folder, other], tmp_path / "compare.html").read_text()
    assert "Few-shot: omni" in compared and "lstm_gd_v2" in compared and "Generalisation" not in compared


def test_errors_over_decades_are_drawn_on_a_logarithmic_axis():
    found = {"maml": entry([3.0, 0.1, 0.05], 2, "mse", 0.005), "finetune": entry([3.0, None, None], 0, "mse")}
    assert "mean squared error" in save(few_shot.figure("few_shot", "sinusoid", families(found), "maml"))


def test_damaged_gates_are_refused(tmp_path):
    assert gates.gate_figure(tmp_path, "x") is None
    (tmp_path / gates.FILE).write_text("layer,gate,episode,update,mean,low,high\na,forget,0,one,1,1,1\n")
    with pytest.raises(RunError, match=r"gates.csv:2: damaged"):
        gates.gate_figure(tmp_path, "x")
