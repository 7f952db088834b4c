"""How far families get over what they cost: means by hand, times that are measured, and what is damaged."""

import json
import math

import pytest

from l2lcli.bench import measure, quality
from l2lcli.runs.files import RunError
from tests.command_line import l2l

LIST = """
- {label: small, panel: both, config: small.yaml, result: score}
- {label: small on b, panel: one, config: small.yaml, result: score, task: b}
"""


@pytest.fixture
def listed(tmp_path):
    """A list of two families, the config of both, and a score of two problems with two networks each."""
    (tmp_path / "list.yaml").write_text(LIST)
    (tmp_path / "small.yaml").write_text("optimizer: {kind: lstm, layers: 1, hidden: 2}\n")
    tasks = {
        "a": {"ratio_final": 0.5, "ratio_final_ci": [0.4, 0.6], "log_ratios": [math.log(0.5)] * 2},
        "b": {"ratio_final": 2.0, "ratio_final_ci": [1.5, 3.0], "log_ratios": [0.0, math.log(4.0)]},
    }
    (tmp_path / "score").mkdir()
    (tmp_path / "score" / "score.json").write_text(json.dumps({"tasks": tasks}))
    return tmp_path / "list.yaml"


def test_a_point_is_a_cost_that_was_measured_and_a_ratio_that_was_kept(listed, monkeypatch):
    monkeypatch.setattr(measure, "REPEATS", 1)
    monkeypatch.setattr(measure, "WARM", 0.0)
    quality.measure(listed, lambda: None)
    (whole, task), row = quality.points(listed)
    assert row["coordinates"] == 15_910
    assert whole.seconds == task.seconds == row["seconds"]["small.yaml"] > 0
    assert whole.ratio == pytest.approx(1.0)  # √(.5 · 2)
    # Of the two networks of b both, one twice or the other twice are drawn: 0, log 2 or log 4 on the mean.
    assert whole.interval == pytest.approx((0.5**0.5, 2**0.5))
    assert (task.ratio, task.interval) == (2.0, (1.5, 3.0))
    text = quality.table([whole, task], row)
    assert "2.00 [1.50, 3.00]" in text and "15,910 parameters" in text
    assert quality.write([whole, task], row, listed.parent).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {label: a}", "list.yaml: 0.panel: Field required"),
        ("- [", "list.yaml: while parsing"),
        (LIST.replace("task: b", "task: c"), "score: no ratio of c"),
        (LIST.replace("result: score}", "result: nowhere}"), "nowhere: no result of a run or a score"),
        (LIST.replace("small.yaml", "other.yaml"), "no time of other.yaml: measure again"),
    ],
)
def test_what_is_wrong_with_a_list_is_one_line(listed, text, said):
    listed.write_text(text)
    row = {"coordinates": 1, "device": "cpu", "seconds": {"small.yaml": 1.0}}
    listed.with_suffix(".jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(RunError) as error:
        quality.points(listed)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_command_says_what_is_missing(listed):
    _, said = l2l(listed.parent, "bench", "--draw", "--quality", "list.yaml", code=1)
    assert said.strip() == "l2l: list.jsonl: nothing was measured yet"
    _, said = l2l(listed.parent, "bench", "--quality", "list.yaml", "--tasks", "3", code=2)
    assert "--quality has sizes of its own: leave --tasks out" in said
