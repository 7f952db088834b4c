"""Tables, words and the files they are made of; no damage to a summary is a traceback."""

import json
import math
import os
import random
import re

import pytest

from l2lcli.evaluation.summary import Summary
from l2lcli.reports import curves as curve_files
from l2lcli.reports import page, tables
from l2lcli.runs.files import RunError
from tests.support import a_part, finished


def test_table_shows_the_numbers(tmp_path):
    finished(tmp_path)
    summary = tables.read_summary(tmp_path)
    lines = tables.table(summary).splitlines()
    order = sorted(summary.optimizers, key=lambda n: summary.optimizers[n].sum)
    assert [line[2:].split()[0] for line in lines[3:8]] == order
    assert [line[0] for line in lines[3:8]] == [">" if n == "lstm" else " " for n in order]
    for name, line in zip(order, lines[3:8], strict=True):
        for key in ("final", "sum"):
            value, interval = summary.optimizers[name].of(key)
            for x in (value, *interval):
                assert any(math.isclose(float(n), x, rel_tol=6e-3) for n in re.findall(r"[\d.]+", line)), (name, x, line)
    assert "0.412 [0.380, 0.452] (nag)" in tables.table(summary)
    assert "0.553 [0.510, 0.594] (adam)" in tables.table(summary)
    assert re.search(r"lstm .* 31 +0\.931 +0\.210 +0/20$", lines[3])


@pytest.mark.parametrize("seed", range(5))
def test_table_is_never_wider_than_110_columns(seed):
    draw = random.Random(seed)
    summary = {
        "problem": "p" * 30,
        "learned": "l" * 40,
        "steps": 10**6,
        "seeds": 1000,
        "best_baseline": {"final": "b", "sum": "b"},
    }
    values = [draw.choice([-1, 1]) * draw.uniform(1, 10) * 10 ** draw.randint(-12, 12) for _ in range(3)]
    fields = {"final": values[0], "final_ci": values[1:], "sum": values[2], "sum_ci": values[:2], "seconds_per_step": 1.234e-7}
    rates = {"phi_final": {"learning_rate": 1.23e-5}, "phi_sum": {"learning_rate": 4.56e-5}}
    summary["optimizers"] = {"l" * 40: fields | {"diverged": 1000, "test": {"accuracy": 0.98765}}, "b": fields | rates}
    assert max(map(len, tables.table(Summary.of(summary)).splitlines())) <= 110


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.195466, "0.1955"),
        (27, "27.00"),
        (123456, "123456"),
        (1.5e-7, "1.500e-7"),
        (2.5e12, "2.500e12"),
        (None, "lost"),
        (0, "0.000"),
    ],
)
def test_number(x, text):
    assert tables.number(x) == text


def test_verdict_is_honest():
    base = {"learned": "lstm", "best_baseline": {"final": "nag", "sum": "adam"}}
    worse = {"ratio_sum": 1.4, "ratio_sum_ci": [1.2, 1.6], "ratio_final": 0.9, "ratio_final_ci": [0.7, 1.1]}
    said = tables.verdict(a_part(**base | worse))
    assert "1.40 [1.20, 1.60] × the summed loss of the best tuned baseline (adam): worse" in said
    assert "(nag): no clear difference" in said
    assert "a seed diverged" in tables.verdict(a_part(**base | worse | {"ratio_sum": None, "ratio_sum_ci": None}))
    assert "Best tuned baseline: nag" in tables.verdict(a_part(**base | {"learned": None}))


def test_the_clock_in_words():
    summary = {"learned": "lstm", "steps": 1000, "pays": {"step": 40, "seconds": 0.0123}}
    others = "every tuned baseline (each held where its 1,000 steps end)"
    assert tables.clock(a_part(**summary)) == f"By the clock lstm is below {others} from 12.3 ms (step 40) on"
    assert "never below" in tables.clock(a_part(**summary | {"pays": {"step": None, "seconds": None}}))
    assert tables.clock(a_part(learned="lstm")) == "" == tables.clock(a_part(**summary | {"learned": None}))
    assert [tables.seconds(x) for x in (2, 0.5, 3e-5)] == ["2.00 s", "500 ms", "30.0 µs"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        "[" * 100_000,
        '{"problem": "p", "steps": 1%s, "seeds": 1, "optimizers": {}}' % ("0" * 400),
        '{"problem": "p", "steps": 1, "seeds": 1, "optimizers": {}, "learned": "x"}',
    ],
)
def test_a_damaged_summary_is_one_line(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(RunError, match=r"summary.json: damaged: [^\n]+$"):
        page.write(tmp_path)


def places(value, path=()):
    """The path of everything inside a JSON value."""
    for key, entry in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(entry, (*path, key))


def test_no_damage_to_a_summary_is_a_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "save", lambda *_: "<svg ></svg>")
    monkeypatch.setattr(os, "fsync", lambda _: None)
    summary, outcomes = finished(tmp_path, seeds=2, steps=4), []
    for part in (summary, summary["variants"]["relu"]):
        del part["optimizers"]["sgd"], part["optimizers"]["rmsprop"]  # no more than another two of the same
    text = json.dumps(summary)
    for path in places(json.loads(text)):
        for wrong in (None, {}, "x", 3, [None, None], [True]):
            summary = json.loads(text)
            part = summary
            for key in path[:-1]:
                part = part[key]
            part[path[-1]] = wrong
            (tmp_path / "summary.json").write_text(json.dumps(summary))
            try:
                tables.table(tables.read_summary(tmp_path))
                page.write(tmp_path)
                outcomes.append("reported")
            except RunError as error:
                outcomes.append(str(error))
    refused = [said for said in outcomes if said != "reported"]
    assert not [said for said in refused if not re.fullmatch(r"[^\n]+summary.json: damaged: [^\n]+", said)]
    assert len(outcomes) - len(refused) > 100
    assert len(refused) > 150


def test_metrics_are_the_rows_that_the_run_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "note": "a\u2028b\x85c"}\n{"step": 2}\n{"ste\n[3]\n{"step": 4}', encoding="utf-8")
    assert [row["step"] for row in tables.read_metrics(path)] == [1, 2]
    assert tables.read_metrics(tmp_path / "none") == []


@pytest.mark.parametrize("line", ["adam,0,x,1.0", "adam,0", "adam,0,-1,1.0", "adam,0,1000000000000,1.0", 'adam,0,1,"a'])
def test_damaged_curves_are_one_line_and_no_giant_array(tmp_path, line):
    path = tmp_path / "digits.csv"
    path.write_text(f"optimizer,seed,step,loss\nadam,0,0,1.0\n{line}\n")
    with pytest.raises(RunError, match=r"^[^\n]+digits.csv:(\d+:)? damaged: [^\n]+$"):
        curve_files.read(path)


def test_a_ratio_to_a_baseline_that_reaches_0_is_not_called_lost():
    summary = {"learned": "lstm", "best_baseline": {"final": "sgd", "sum": "sgd"}, "ratio_final": None, "ratio_sum": 0.5,
               "optimizers": {"lstm": {"final": 1e-3}, "sgd": {"final": 0.0, "sum": 2.0}}}  # fmt: skip
    assert tables.ratio(a_part(**summary), "final") == "- (sgd reaches 0)"
    assert tables.ratio(a_part(**summary), "sum") == "0.500 (sgd)"
    summary["optimizers"]["sgd"]["final"] = 0.1  # then it is the learned one that left none
    assert tables.ratio(a_part(**summary), "final") == "lost (sgd)"
