"""From which gradient on a learned step pays: a closed form, rows that are kept, and what is damaged."""

import json
import math

import pytest

from l2lcli.bench import pays
from l2lcli.runs.files import RunError
from tests.command_line import l2l


def rows(added, network="mlp"):
    """Steps of g + a for Adam's g, so that the ratio is 1 + a / g. g in ms: 1, 2, 4, 8, 16."""
    return [
        {
            "network": network,
            "batch_size": batch,
            "coordinates": 10,
            "device": "cpu",
            "seconds": {"sgd": 2.0**i * 1e-3, "adam": 2.0**i * 1e-3, "mine": (2.0**i + added) * 1e-3},
        }
        for i, batch in enumerate(pays.BATCHES)
    ]


@pytest.mark.parametrize(
    ("added", "fewer", "expected"), [(4.0, 2.0, 4e-3), (2.0, 1.5, 4e-3), (0.5, 2.0, 0.0), (64.0, 2.0, None)]
)
def test_it_pays_from_the_gradient_on_that_what_is_added_is_so_many_times_less_than(added, fewer, expected):
    """1 + a / g < s where g > a / (s - 1)."""
    found = pays.pays_from(rows(added), "mine", fewer)
    assert found is expected is None or found == pytest.approx(expected)


def test_between_two_rows_it_is_where_the_line_of_logarithms_crosses():
    found = pays.pays_from(rows(3.0)[1:3], "mine", 2.0)  # ratios 2.5 at 2 ms and 1.75 at 4 ms
    share = math.log(2.5 / 2) / math.log(2.5 / 1.75)
    assert found == pytest.approx(2e-3 * 2**share)


def test_rows_are_measured_once_and_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pays, "BATCHES", (32,))
    monkeypatch.setattr(pays, "NETWORKS", {"mlp": pays.NETWORKS["mlp"]})
    path = tmp_path / "pays.jsonl"
    for _ in range(2):
        pays.measure(path, ("general-small",), lambda: None)
    (row,) = pays.read(path)
    assert len(path.read_text().splitlines()) == 1
    assert set(row["seconds"]) == {"sgd", "adam", "general-small"}
    assert row["coordinates"] == 784 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10
    text = pays.table([row], {"general-small": 1e9})
    assert "x adam" in text
    assert "ahead, mlp at all of these batch sizes" in " ".join(text.split())
    assert pays.write([row], {"general-small": 2.0}, tmp_path).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("damaged", [{"network": "rnn"}, {"seconds": {"adam": 1.0}}, {"batch_size": 33}])
def test_what_is_no_row_is_said_with_its_line(tmp_path, damaged):
    path = tmp_path / "pays.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [rows(1.0)[0], rows(1.0)[1] | damaged]))
    with pytest.raises(RunError, match=r"pays\.jsonl:2: no row of l2l bench --pays"):
        pays.read(path)
    _, said = l2l(tmp_path, "bench", "--pays", "--draw", "--append", "pays.jsonl", code=1)
    assert said.count("\n") == 1


def test_options_that_do_not_go_together(tmp_path):
    assert "--optimizer goes with --pays" in l2l(tmp_path, "bench", "--optimizer", "general", code=2)[1]
    assert "--pays has sizes of its own: leave --window out" in l2l(tmp_path, "bench", "--pays", "--window", "3", code=2)[1]
