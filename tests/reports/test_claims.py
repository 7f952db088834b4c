"""The table of claims: verdicts from intervals, ratios between runs, and README's own table."""

import json
import re
from unittest.mock import ANY

import numpy as np
import pytest
import yaml

from l2lcli.reports import claims, curves, tables
from l2lcli.reports.claim import Claim
from l2lcli.runs.files import RunError, read_yaml
from tests.support import ROOT


def result(folder, ratio=0.5, interval=(0.4, 0.6), variants=(), losses=None):
    entry = {"final": 1.0, "sum": 9.0, "phi_final": None, "phi_sum": None}
    ends = {name: entry | {"final": float(of[:, -1].mean())} for name, of in (losses or {}).items() if "@" not in name}
    part = {
        **{"problem": folder.name, "learned": "lstm", "steps": 3, "seeds": 4},
        **{"optimizers": {"lstm": entry, "adam": entry} | ends},
        **{"best_baseline": {"final": "adam", "sum": "adam"}, "ratio_final": ratio, "ratio_final_ci": interval},
        **{"ratio_sum": ratio, "ratio_sum_ci": interval},
    }
    (folder / "curves").mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({**part, "variants": dict.fromkeys(variants, part)}))
    for name in (folder.name, *variants):
        (folder / f"curves/{name}.csv.xz").write_bytes(curves.packed(losses or {}, 101))


def rows(root, *listed):
    (root / "claims.yaml").write_text(yaml.safe_dump([{"claim": "it wins", "published": ".7", **claim} for claim in listed]))
    return claims.table(root / "claims.yaml")[1:]


@pytest.mark.parametrize(
    ("ratio", "interval", "below", "above"),
    [
        (0.5, [0.4, 0.6], "**holds** (one run)", "**does not hold** (one run)"),
        (1.5, [1.1, 2.0], "**does not hold** (one run)", "**holds** (one run)"),
        (0.9, [0.8, 1.1], "undecided (one run)", "undecided (one run)"),
    ],
)
def test_the_verdict_is_the_intervals_side_of_1(tmp_path, ratio, interval, below, above):
    result(tmp_path / "digits", ratio, interval)
    found = rows(tmp_path, {"run": "digits"}, {"run": "digits", "expect": "above 1"})
    assert [row[-1] for row in found] == [below, above]


def test_digits_enough_to_check_a_verdict_by_eye(tmp_path):
    result(tmp_path / "digits", 0.99, [0.98, 0.9996])
    result(tmp_path / "digits/seed-1", 1.00004, None)
    assert rows(tmp_path, {"run": "digits"})[0][3].endswith("= 0.990 [0.980, 0.9996]; other meta-training seeds 1.00004")
    result(tmp_path / "medians", losses={"lstm": np.full((4, 4), 0.9997), "adam": np.ones((4, 4))})
    (row,) = rows(tmp_path, {"run": "medians", "number": "median/adam", "above": 0.9, "below": 0.9999})
    assert row[3:] == ["0.9997", "**holds** (one run)"]


def test_without_a_ratio_who_was_lost_decides(tmp_path):
    for name, ours, theirs in (("digits", None, 1.0), ("simple", 1.0, 0.0), ("quadratic", 1.0, None)):
        result(tmp_path / name, None, None)
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        summary["optimizers"] = {"lstm": {"final": ours}, "adam": {"final": theirs}}
        (tmp_path / name / "summary.json").write_text(json.dumps(summary))
    found = rows(tmp_path, *({"run": name} for name in ("digits", "simple", "quadratic")))
    assert [row[3] for row in found] == ["lost / 1.00 (adam)", "1.00 / 0.00 (adam)", "1.00 / lost (adam)"]
    assert [row[4][:-10] for row in found] == ["**does not hold**", "**does not hold**", "**holds**"]


def test_other_seeds_count_and_what_is_missing_is_said(tmp_path):
    result(tmp_path / "digits", variants=["relu"])
    (first,), (variant,) = rows(tmp_path, {"run": "digits"}), rows(tmp_path, {"run": "digits", "variant": "relu"})
    assert first[-2:] == variant[-2:] == ["1.00 / 1.00 (adam) = 0.500 [0.400, 0.600]", "**holds** (one run)"]
    result(tmp_path / "digits/seed-1", 1.2, [1.1, 1.3])
    assert rows(tmp_path, {"run": "digits"})[0][-2:] == [
        "1.00 / 1.00 (adam) = 0.500 [0.400, 0.600]; other meta-training seeds 1.20",
        "undecided",
    ]
    none = rows(tmp_path, {"run": "nowhere"}, {"run": "digits", "variant": "tanh"})
    assert [row[-1] for row in none] == [claims.NOT_MEASURED] * 2


def test_a_score_counts_wins_and_its_problems_are_ratios(tmp_path):
    def score(label, wins, interval):
        entry = {"verdict": "won", "ratio_final": 0.5, "ratio_final_ci": interval, "baseline": "nag"}
        entry["finals"] = {"learned": 1.0, "nag": 2.0}
        timed = {"best": "adam", "steps": {"adam": 1234}, "learning_rates": {"adam": 0.1}, "final": {"adam": 0.8}}
        timed |= {"ratio": 1.25, "ratio_ci": [1.1, 1.4], "verdict": "lost"}
        (tmp_path / label).mkdir()
        tasks = {"a": entry | {"equal_time": timed}, "b": {"verdict": "missing"}}
        found = {"wins": wins, "undecided": 0, "tasks": tasks, "equal_time": {"wins": 0, "undecided": 1, "losses": 0}}
        (tmp_path / label / "score.json").write_text(json.dumps(found))

    asked = {"run": "general", "wins": 1}, {"run": "general", "task": "a"}, {"run": "general", "task": "b"}
    score("general", 1, [0.4, 0.6])
    counted, ratio, missing = rows(tmp_path, *asked)
    assert counted[2:] == ["problems won", "1 of 2, 0 undecided", "**holds** (one run)"]
    assert ratio[3:] == ["1.00 / 2.00 (nag) = 0.500 [0.400, 0.600]", "**holds** (one run)"]
    assert missing[-1] == claims.NOT_MEASURED
    counted, ratio = rows(tmp_path, *({**of, "metric": "time"} for of in asked[:2]))
    assert counted[2:] == ["problems won, equal time", "0 of 2, 1 undecided", "**does not hold** (one run)"]
    assert ratio[3:] == ["1.00 / 0.800 (adam, 1,234 steps) = 1.25 [1.10, 1.40]", "**does not hold** (one run)"]
    score("general-seed-1", 0, [1.1, 1.2])
    counted, ratio, _ = rows(tmp_path, *asked)
    assert counted[3:] == ["1 of 2, 0 undecided; other meta-training seeds 0", "undecided"]
    assert rows(tmp_path, {"run": "general", "wins": 2})[0][-1] == "**does not hold**"


def test_two_runs_are_compared_seed_by_seed(tmp_path):
    losses = np.random.default_rng(0).uniform(1, 2, (4, 4)).round(3)
    losses[:, 0] = 0  # whatever the factor, the same start
    result(tmp_path / "a", losses={"lstm": losses, "lstm after 10": 3 * losses, "adam": 6 * losses})
    result(tmp_path / "b", losses={"lstm": 2 * losses})
    found = rows(
        tmp_path,
        {"run": "a", "against": "b", "metric": "sum"},
        {"run": "a", "optimizer": "lstm after 10", "metric": "sum"},
        {"run": "a", "optimizer": "lstm after 10", "against": "a", "metric": "sum", "expect": "above 1"},
    )
    # The same networks in both: a constant factor has an interval of no width.
    shown = [row[3].split(" (")[1] for row in found]
    assert shown == ["b) = 0.500 [0.500, 0.500]", "adam) = 0.500 [0.500, 0.500]", "a) = 3.00 [3.00, 3.00]"]
    own = losses[:, :-1].sum(1).mean()
    assert found[0][3].startswith(f"{tables.number(own, 3)} / {tables.number(2 * own, 3)} (b)")
    assert [row[4] for row in found] == ["**holds** (one run)"] * 3
    result(tmp_path / "c", losses={"lstm": losses + 1})
    for other in ({"against": "c"}, {"optimizer": "lstm after 20", "against": "b"}):
        with pytest.raises(RunError, match=r"a and [bc] have no curves on the same seeds and steps"):
            rows(tmp_path, {"run": "a", "metric": "sum", **other})


def test_curves_that_do_not_end_where_the_summary_says_are_no_ground_for_a_verdict(tmp_path):
    for name in ("a", "b"):
        result(tmp_path / name, losses={"lstm": np.ones((4, 4))})
    other = np.tile([1, 1, 1, 1.1], (4, 1))
    (tmp_path / "b/curves/b.csv.xz").write_bytes(curves.packed({"lstm": other}, 101))
    with pytest.raises(RunError, match=r"b: its curves end at 1.1 and its summary.json says 1: keep it again"):
        rows(tmp_path, {"run": "a", "against": "b"})


def test_other_seeds_of_two_runs_are_paired(tmp_path):
    losses = np.random.default_rng(0).uniform(1, 2, (4, 4)).round(3)
    losses[:, 0] = 0  # whatever the factor, the same start
    compared = {"run": "a", "against": "b", "metric": "sum"}
    for name, factor in [("a", 1), ("a/seed-1", 3), ("a/seed-2", 9), ("b", 2), ("b/seed-1", 4)]:
        result(tmp_path / name, losses={"lstm": factor * losses})
    # seed-2 has no partner, and is left out.
    assert rows(tmp_path, compared)[0][3].endswith("(b) = 0.500 [0.500, 0.500]; other meta-training seeds 0.750")
    result(tmp_path / "b/seed-2", losses={"lstm": 6 * losses})
    assert rows(tmp_path, compared)[0][3:] == [ANY, "undecided"]
    assert rows(tmp_path, compared)[0][3].endswith("; other meta-training seeds 0.750, 1.50")


@pytest.mark.parametrize("layout", ["{}/seed-1", "{}-seed-1"])
def test_other_seeds_are_paired_wherever_they_lie(tmp_path, layout):
    losses = np.full((4, 4), 1.5)
    for name, factor in [("a", 1), (layout.format("a"), 3), ("b", 2), (layout.format("b"), 4)]:
        result(tmp_path / name, losses={"lstm": factor * losses + [0, 1, 1, 1] - [factor * 1.5, 0, 0, 0]})
    assert rows(tmp_path, {"run": "a", "against": "b"})[0][3].endswith("; other meta-training seeds 0.786")  # 5.5 / 7


def test_a_baseline_has_the_rate_of_the_measure(tmp_path):
    losses = np.ones((4, 4))
    result(
        tmp_path / "a",
        losses={"lstm": losses, "adam": 3 * losses - [2, 0, 0, 0], "sgd": 5 * losses, "sgd@sum": 2 * losses - [1, 0, 0, 0]},
    )
    found = rows(tmp_path, {"run": "a", "optimizer": "sgd", "rival": "lstm", "metric": "sum"})
    assert found[0][3].startswith("5.00 / 3.00 (lstm)")  # 1 + 2 + 2


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ({"number": "opposed/adam"}, "a number needs above or below"),
        ({"above": 1.0}, "a number needs above or below"),
        ({"task": "x", "rival": "adam"}, "rival has no say in a score"),
        ({"wins": 3, "metric": "sum"}, "a score knows no metric sum"),
    ],
)
def test_what_would_not_be_looked_at_is_refused(tmp_path, claim, said):
    with pytest.raises(RunError, match=said):
        rows(tmp_path, {"run": "a", **claim})


@pytest.mark.parametrize("score", [{"tasks": {}}, {"tasks": {"x": {"verdict": "above"}}}, {"tasks": 1, "wins": "many"}])
def test_a_damaged_score_is_one_line(tmp_path, score):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/score.json").write_text(json.dumps(score))
    for claim in ({"wins": 1}, {"task": "x"}):
        with pytest.raises(RunError, match=r"score\.json is damaged"):
            rows(tmp_path, {"run": "a", **claim})


def test_a_damaged_list_is_one_line(tmp_path):
    with pytest.raises(RunError, match="no such file"):
        claims.table(tmp_path / "none.yaml")
    for text, said in (("- [", "while parsing"), ("- {claim: a}", "0.published: Field required"), ("1", "the list: ")):
        (tmp_path / "claims.yaml").write_text(text)
        with pytest.raises(RunError, match=said) as error:
            claims.table(tmp_path / "claims.yaml")
        assert "\n" not in str(error.value)


OF = {  # how a bullet of README begins -> the results that its ratios are of
    "It carries over": ["suite-5dbaac26/scores/general-without-relu", "suite-5dbaac26/scores/general-without-sigmoid"],
    "It works on the paper's quadratics": ["quadratic"],
    "On MNIST the paper's LSTM reaches": ["mnist-window20", "mnist-deepmind"],
    "Running averages": ["mnist"],
    "To go on for longer": ["digits-horizon-1000", "digits-longer"],
    "`general` holds over 10,000": ["mnist-long-general", "mnist-rnnprop", "mnist-long", "mnist-curriculum"],
    "Coordinates that hear": ["heavy-tailed-gac", "heavy-tailed", "ill-conditioned-ntm-bfgs"],
    "Neural art": ["neural-art"],
    "Few-shot learning": ["omniglot-5way-1shot", "omniglot-20way-1shot-small", "omniglot-5way-5shot"],
    "The paper's LSTM does not carry far": ["mnist", "mnist-window100"],
}


def test_every_claim_has_its_result_and_readme_says_no_other_number():
    path = ROOT / "runs/reference/claims.yaml"
    listed = read_yaml(path, list[Claim])
    rows = claims.table(path)[1:]
    assert len(rows) > 60 and not [row for row in rows if claims.NOT_MEASURED in row]
    readme = (ROOT / "README.md").read_text()
    bullets = readme[readme.index("## What holds") : readme.index("On the MNIST network")].split("\n- **")[1:]
    for bullet in bullets:
        runs = [run for begin, of in OF.items() if bullet.startswith(begin) for run in of]
        said = " ".join(row[3] for claim, row in zip(listed, rows, strict=True) if claim.run in runs)
        for ratio in re.findall(r"(?<![\d.])\d*\.\d+", bullet):
            assert near(ratio, said), (bullet[:40], ratio)


def near(ratio, said):
    """Whether a number of the table rounds to this one."""
    digits = len(ratio.partition(".")[2])
    return any(f"{float(number):.{digits}f}".lstrip("0") == ratio.lstrip("0") for number in re.findall(r"\d+\.\d+", said))
