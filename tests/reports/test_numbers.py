"""Numbers and accuracies that claims are about, each against what was written by hand."""

import json

import numpy as np
import pytest

from l2lcli.reports import claims, numbers
from l2lcli.reports.figures import updates
from l2lcli.runs.artefact import write_artefact
from l2lcli.runs.files import RunError
from tests.reports.test_claims import result, rows
from tests.support import finished


def inspected(folder, opposed=0.25, slope=0.5):
    folder.mkdir(parents=True, exist_ok=True)
    edges, count = np.arange(-3.0, 2.0), np.array([[9.0] * 4, [10.0, 10.0, 1.0, 1.0]])
    sizes = np.stack([np.full(4, 7.0), 10 ** (slope * (edges[1:] + edges[:-1]) / 2)])
    sizes[:, 2] = np.nan  # beyond the median, as is what follows
    arrays = {"gradient": np.ones((2, 1)), "response/steps": np.array([1, 5]), "response/edges": edges, "response/count": count}
    for name in ("lstm", "adam"):
        arrays |= {
            f"update/{name}": np.ones((2, 1)),
            f"step_size/{name}": np.ones((2, 5)),
            f"uphill/{name}": np.array([0.1, 0.3]),
        }
        arrays[f"response/size/{name}"] = sizes
    arrays["response/opposed/adam"] = np.array([0.9, opposed])
    write_artefact(folder / updates.FILE, arrays, {"optimizers": ["lstm", "adam"], "coordinates": ["w"], "quantiles": []})


def test_numbers_are_those_of_the_last_step_looked_at(tmp_path):
    inspected(tmp_path / "digits")
    found = {name: numbers.find(tmp_path / "digits", name) for name in ("opposed/adam", "slope/lstm", "uphill/lstm")}
    assert found == pytest.approx({"opposed/adam": 0.25, "slope/lstm": 0.5, "uphill/lstm": 0.2})
    assert numbers.find(tmp_path / "digits", "opposed/sgd") is None and numbers.find(tmp_path, "slope/lstm") is None
    with pytest.raises(RunError, match="no number is called 'size/lstm'"):
        numbers.find(tmp_path / "digits", "size/lstm")


def test_gates_are_means_over_layers_and_episodes(tmp_path):
    lines = ["layer,gate,episode,update,mean,low,high", "a,forget,0,1,.9,0,1", "b,forget,0,1,.7,0,1", "a,forget,0,2,.6,0,1"]
    (tmp_path / "gates.csv").write_text("\n".join([*lines, "a,input,0,1,.1,0,1"]))
    assert numbers.find(tmp_path, "gate/forget") == pytest.approx((0.8 + 0.6) / 2)
    assert numbers.find(tmp_path, "gate-spread/forget") == pytest.approx(0.2)
    assert numbers.find(tmp_path, "gate/cell") is None
    (tmp_path / "gates.csv").write_text("gate,update,mean\nforget,1,much")
    with pytest.raises(RunError, match="damaged"):
        numbers.find(tmp_path, "gate/forget")


def test_a_number_holds_within_its_bounds_from_every_seed(tmp_path):
    inspected(tmp_path / "digits")
    asked = {"run": "digits", "number": "opposed/adam"}
    above, below = rows(tmp_path, {**asked, "above": 0.2}, {**asked, "below": 0.2})
    assert above[2:] == ["opposed/adam", "0.250", "**holds** (one run)"] and below[-1] == "**does not hold** (one run)"
    inspected(tmp_path / "digits/seed-1", opposed=0.1)
    assert rows(tmp_path, {**asked, "above": 0.2})[0][3:] == ["0.250; other meta-training seeds 0.100", "undecided"]
    assert rows(tmp_path, {**asked, "number": "opposed/sgd", "above": 0})[0][-1] == claims.NOT_MEASURED


def few_shot(folder, reached, episodes="same", metric="accuracy"):
    result(folder)
    summary = json.loads((folder / "summary.json").read_text())
    of = lambda mean: {"metric": metric, "updates": [0, 5, 9], "mean": [0.2, *mean], "ci": [0.1, 0.03, 0.04], "episodes": 9}
    summary |= {
        "few_shot": {"lstm": of([reached, 0.1]) | {"chosen": 5}, "finetune": of([0.1, 0.5])},
        "test_episodes": episodes,
    }
    (folder / "summary.json").write_text(json.dumps(summary))


def test_accuracies_are_compared_where_they_are_chosen_and_on_the_same_episodes(tmp_path):
    few_shot(tmp_path / "v2", 0.9)
    few_shot(tmp_path / "maml", 0.88)
    asked = {"run": "v2", "metric": "accuracy", "expect": "above 1"}
    finetune, maml = rows(tmp_path, {**asked, "rival": "finetune"}, {**asked, "against": "maml"})
    assert finetune[2:] == ["accuracy", "90.0 ± 3.0 % / 50.0 ± 4.0 % (finetune)", "**holds** (one run)"]
    assert maml[-1] == "undecided (one run)"
    assert rows(tmp_path, {**asked, "rival": "finetune", "expect": "below 1"})[0][-1] == "**does not hold** (one run)"
    few_shot(tmp_path / "sgd", 0.88, "others")
    with pytest.raises(RunError, match="same episodes"):
        rows(tmp_path, {**asked, "against": "sgd"})


def test_errors_are_compared_as_accuracies_are_and_the_lower_one_is_better(tmp_path):
    few_shot(tmp_path / "v2", 0.4, metric="mse")
    few_shot(tmp_path / "maml", 0.55, metric="mse")
    few_shot(tmp_path / "lost", None, metric="mse")
    asked = {"run": "v2", "metric": "mse"}
    finetune, maml, lost = rows(
        tmp_path, *({**asked, **of} for of in ({"rival": "finetune"}, {"against": "maml"}, {"against": "lost"}))
    )
    assert finetune[2:] == ["mse", "0.4 ± 0.03 / 0.5 ± 0.04 (finetune)", "**holds** (one run)"]
    assert maml[-1] == lost[-1] == "**holds** (one run)" and lost[3].endswith("/ lost (lost)")
    assert rows(tmp_path, {**asked, "run": "lost", "rival": "finetune"})[0][-1] == "**does not hold** (one run)"
    assert rows(tmp_path, {**asked, "metric": "accuracy", "rival": "finetune"})[0][-1] == claims.NOT_MEASURED
    assert numbers.find(tmp_path / "v2", "updates/5") == 0.4 and numbers.find(tmp_path / "v2", "updates/7") is None
    for wrong in ({}, {"rival": "finetune", "against": "maml"}, {"rival": "finetune", "variant": "relu"}):
        with pytest.raises(RunError, match="either against or rival"):
            rows(tmp_path, asked | wrong)


def test_a_loss_is_divided_by_a_named_baselines_and_by_another_runs_final_one(tmp_path):
    losses = np.random.default_rng(0).uniform(1, 2, (6, 12)).round(3)
    losses[:, 0] = 3
    doubled = np.concatenate([losses[:, :1], 2 * losses[:, 1:]], 1)
    result(tmp_path / "digits", losses={"lstm": losses, "adam": losses, "sgd": doubled})
    result(tmp_path / "other", losses={"lstm": doubled, "adam": losses})
    for noisy, mean in ((False, losses[:, -1].mean()), (True, losses[:, -5:].mean())):
        # Which tells the last loss from the mean of the last five.
        for name, finals in (("digits", {"lstm": mean, "sgd": 2 * mean}), ("other", {"lstm": 2 * mean})):
            summary = json.loads((tmp_path / name / "summary.json").read_text())
            for optimizer, final in finals.items():
                summary["optimizers"][optimizer]["final"] = final
            (tmp_path / name / "summary.json").write_text(json.dumps(summary))
        (row,) = rows(tmp_path, {"run": "digits", "rival": "sgd"})
        assert row[3].startswith(f"{mean:.3g} / {2 * mean:.3g} (sgd) = 0.500 ["), (noisy, row)
        (row,) = rows(tmp_path, {"run": "digits", "against": "other"})
        assert "(other) = 0.500" in row[3], (noisy, row)


def test_the_median_is_what_happens_as_a_rule(tmp_path):
    summary = finished(tmp_path, variants=())
    last = {summary["learned"]: [1.0, 2.0, 300.0], "nag": [4.0, 8.0, np.nan]}
    lines = [f"{name},{seed},{step},{loss}" for name, of in last.items() for seed, loss in enumerate(of) for step in (0, 1)]
    (tmp_path / "curves/digits.csv").write_text("\n".join(["optimizer,seed,step,loss", *lines]))
    assert numbers.find(tmp_path, "median/nag") == 0.25
    assert numbers.find(tmp_path, "median/adam") is None
