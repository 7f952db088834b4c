"""summary.json, read and written by one definition: what was committed comes back as it is."""

import json

import pydantic
import pytest

from l2lcli.evaluation.summary import HIGHER, Part, Summary, Value
from tests.support import ROOT

REFERENCE = ROOT / "runs/reference"
ALL = sorted(REFERENCE.rglob("summary.json"))


def ordered(value):
    """As text, so that the order of keys counts, and 1 is not 1.0."""
    return json.dumps(value, indent=2)


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.parent.relative_to(REFERENCE)))
def test_every_committed_summary_comes_back_key_for_key_and_number_for_number(path):
    held = json.loads(path.read_text())
    summary = Summary.of(held)
    assert ordered(summary.dump()) == ordered(held)
    assert ordered(Summary.of(summary.dump()).dump()) == ordered(held)


def test_there_are_summaries_of_every_sort():
    found = [Summary.of(json.loads(path.read_text())) for path in ALL]
    assert len(found) > 50
    assert any(summary.variants for summary in found)
    assert any(summary.few_shot for summary in found)


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.parent.relative_to(REFERENCE)))
def test_what_it_is_asked_for_is_what_the_file_says(path):
    held = json.loads(path.read_text())
    summary = Summary.of(held)
    assert list(summary.parts) == [held["problem"], *(held.get("variants") or {})]
    for name, part in summary.parts.items():
        said = held if name == held["problem"] else held["variants"][name]
        assert part.title == said.get("label", said["problem"])
        for metric in ("final", "sum"):
            assert part.best(metric) == (said.get("best_baseline") or {}).get(metric)
            interval = said.get(f"ratio_{metric}_ci")
            assert part.ratio(metric) == Value(said.get(f"ratio_{metric}"), interval and tuple(interval))
            for optimizer, entry in said["optimizers"].items():
                assert part.mean(optimizer, metric) == entry.get(metric)
                assert part.optimizers[optimizer].rate(metric) == (entry.get(f"phi_{metric}") or {}).get("learning_rate")


SMALL = {"problem": "p", "steps": 3, "seeds": 2, "optimizers": {"adam": {"final": 1.5, "test": {"accuracy": 0.5}}}}


def test_keys_of_another_version_are_passed_over_and_null_is_as_good_as_missing():
    summary = Summary.of(SMALL | {"colour": "blue", "learned": None, "ratio_final": None, "pays": None})
    assert "colour" not in summary.dump()
    assert (summary.learned, summary.ratio("final"), summary.best("sum")) == (None, Value(None, None), None)
    assert summary.mean("nobody", "final") is None
    entry = summary.optimizers["adam"]
    assert entry.tested("accuracy") == Value(0.5, None) and entry.tested("loss") is None and entry.rate("final") is None
    assert "accuracy" in HIGHER and "mse" not in HIGHER


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learned": "lstm"}, "'lstm' is not among the optimizers"),
        ({"steps": "3"}, "steps"),
        ({"steps": 3.5}, "steps"),
        ({"optimizers": [1]}, "optimizers"),
        ({"optimizers": {"adam": {"final_ci": [1.0]}}}, "final_ci"),
        ({"ratio_final": True}, "ratio_final"),
        ({"few_shot": {"adam": {"metric": "mse", "updates": [0, 1], "mean": [1.0], "ci": [0.1], "episodes": 3}}}, "one length"),
        ({"variants": {"v": {"problem": "v"}}}, "variants.v.steps"),
    ],
)
def test_what_is_no_summary_is_refused(change, said):
    with pytest.raises(pydantic.ValidationError, match=said):
        Summary.of(SMALL | change)
    assert isinstance(Summary.of(SMALL), Part)
