"""An update alone over the number of parameters: what it remembers, counted by hand, and the table."""

import json

import pytest

from l2lcli.bench import applied
from tests.command_line import l2l


def test_rows_and_bytes(monkeypatch):
    monkeypatch.setattr(applied, "WIDTHS", (3,))
    monkeypatch.setattr("l2lcli.bench.measure.WARM", 0.0)
    found = applied.measure(lambda: None)
    (row,) = found["rows"]
    assert row["coordinates"] == 784 * 3 + 3 + 3 * 10 + 10
    assert set(row["seconds"]) == set(found["bytes"]) == {"optax.adam", "general", "general-small", "lstm 2x20", "lstm 1x8"}
    assert min(row["seconds"].values()) > 0
    # 4 bytes each: h and c of each unit; averages of normalised gradients, of gradients (three; one) and of squares.
    assert found["bytes"]["lstm 2x20"] == 2 * 2 * 20 * 4
    assert found["bytes"]["lstm 1x8"] == 2 * 8 * 4
    assert found["bytes"]["general"] == pytest.approx(5 * 4, rel=0.05)
    assert found["bytes"]["general-small"] == pytest.approx(3 * 4, rel=0.05)
    lines = applied.table(json.loads(json.dumps(found))).splitlines()
    assert lines[1].split()[:4] == ["bytes", "per", "parameter", "8.00"]
    assert lines[2].split()[0] == "2,395"


def test_options_that_do_not_go_together(tmp_path):
    assert "--apply has sizes of its own: leave --tasks out" in l2l(tmp_path, "bench", "--apply", "--tasks", "3", code=2)[1]
