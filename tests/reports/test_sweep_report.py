"""What a sweep's report says, on run directories made by hand: the best by validation alone, the spread of seeds, failures."""

import json
import math

import numpy as np
import pytest

from l2lcli.reports import sweep as reports
from l2lcli.runs import sweeps
from l2lcli.runs.files import RunError
from tests.command_line import l2l
from tests.support import Page


def made(folder, losses, axes, after=()):
    """A sweep of points (values, rows' validation losses, state), whose evaluations would have it otherwise."""
    points = {}
    folder.mkdir(parents=True)
    for number, (values, rows, state) in enumerate(losses):
        name = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in values.items())
        points[name] = {"experiment": "small", "values": values, "after": list(after), "devices": 1, "state": state}
        if state == "waiting":
            continue
        run = folder / name
        run.mkdir()
        (run / "config.yaml").write_text("name: small\n")
        (run / "status.json").write_text(json.dumps({"state": state, "reason": None if state == "done" else "why"}))
        lines = [{"step": 2 * i, "episode": i, "validation_loss": loss} for i, loss in enumerate(rows, start=1)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [{"step": 1, "loss": -1e9}, *lines]))
        (run / "summary.json").write_text(json.dumps({"ratio_final": number}))  # which nobody reads
    record = {
        "command": ["/opt/l2l", "sweep", "a.yaml"],
        "digest": "x",
        "sample": None,
        "axes": {"small": axes},
        "points": points,
    }
    (folder / "sweep.json").write_text(json.dumps(record))
    return sweeps.read(folder)


RATES = (0.001, 0.01, 0.1)


@pytest.fixture
def grid(tmp_path):
    """Three rates by three seeds. The least loss of all is .1's, of which another seed diverged; .01 is best on average."""
    found = {0.001: (9.0, 8.0, 10.0), 0.01: (5.0, 6.0, 4.0), 0.1: (1.0, None, 2.0)}
    losses = [
        (
            {"seed": seed, "train.rate": rate},
            [20.0, found[rate][seed] or 15.0, None, 30.0],
            "done" if found[rate][seed] else "diverged",
        )
        for seed in range(3)
        for rate in RATES
    ]
    axes = {"seed": {"values": [0, 1, 2]}, "train.rate": {"values": [*RATES]}}
    return made(tmp_path / "runs/small/sweep-20260101-000000-abcd", losses, axes)


def test_the_best_is_of_the_setting_that_is_best_on_average(grid):
    (rows,) = reports.read(grid).values()
    best = reports.best(rows)
    assert best == reports.Best("seed=2,rate=0.01", "rate 0.01", [5.0, 6.0, 4.0])
    assert rows[0].found == reports.Validated(9.0, 2)
    table = reports.seed_rows(rows)
    assert table[1] == ["rate 0.01", "3 of 3", "5.000", "5.000", "4.000 … 6.000"]
    assert table[2][:2] == ["rate 0.001", "3 of 3"] and table[3] == ["rate 0.1", "2 of 3", "1.500", "1.500", "1.000 … 2.000"]
    points = reports.point_rows(rows)
    assert [row[0] for row in points[1:3]] == ["seed=0,rate=0.1", "seed=2,rate=0.1"]
    assert points[-1] == ["seed=1,rate=0.1", "15.00", "2", "diverged: why"]


def test_without_seeds_it_is_the_lowest(tmp_path):
    losses = [({"train.rate": rate}, [loss], state) for rate, loss, state in
              zip(RATES, (3.0, 2.0, 1.0), ("done", "done", "stopped"), strict=True)]  # fmt: skip
    sweep = made(tmp_path / "s", losses, {"train.rate": {"values": [*RATES]}})
    (rows,) = reports.read(sweep).values()
    assert reports.best(rows) == reports.Best("rate=0.01", None, [2.0])
    assert "2 of 3 points are done, 1 stopped. Best by validation: rate=0.01, 2.000." in reports.text(sweep)


def test_curricula_are_compared_on_their_longest_horizon(tmp_path):
    """The point that never left the short one has the lowest loss of all, and none that counts."""
    losses = [({"train.rate": rate}, [1.0], "done") for rate in RATES]
    sweep = made(tmp_path / "s", losses, {"train.rate": {"values": [*RATES]}})
    validations = {
        "rate=0.001": [(200, 3.0), (500, 9.0), (500, 8.0)],
        "rate=0.01": [(200, 4.0), (500, 7.0)],
        "rate=0.1": [(200, 2.0)],
    }
    for name, rows in validations.items():
        lines = [{"step": i, "episode": i, "horizon": of, "validation_loss": loss} for i, (of, loss) in enumerate(rows)]
        (tmp_path / "s" / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (rows,) = reports.read(sweep).values()
    assert rows[0].found == reports.Validated(8.0, 2, 500)
    assert reports.best(rows) == reports.Best("rate=0.01", None, [7.0])


def test_before_anything_is_done(tmp_path):
    sweep = made(tmp_path / "s", [({"seed": seed}, [], "waiting") for seed in range(2)], {"seed": {"values": [0, 1]}})
    assert "0 of 2 points are done, 2 waiting." in reports.text(sweep)
    assert reports.figures(sweep, "small", reports.read(sweep)["small"]) == []
    reports.write(sweep.path)


def test_the_page_and_its_figures(grid, tmp_path):
    out, _ = l2l(tmp_path, "report", grid.path)
    assert "> seed=2,rate=0.01" in out and "Use it: l2l eval" in out and str(grid.path / "report.html") in out
    html = (grid.path / "report.html").read_text()
    page = Page(html)
    page.check()
    for text in (
        "8 of 9 points are done, 1 diverged.",
        "Best setting by validation: rate 0.01",
        "diverged: why",
        "l2l sweep a.yaml",
    ):
        assert text in page.text
    assert {path.name for path in (grid.path / "figures").iterdir()} == {"rate.svg", "rate.png", "seed.svg", "seed.png"}
    by_rate, by_seed = reports.figures(grid, "small", reports.read(grid)["small"])[::-1]
    axes = by_rate.draw().axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    (line,) = [each for each in axes.lines if each.get_linestyle() == "-"]
    np.testing.assert_allclose(line.get_xydata(), [[0.001, 9], [0.01, 5], [0.1, 1.5]])  # medians of those that are done
    dots = [each for each in axes.lines if each.get_marker() == "o" and each.get_linestyle() == "None"]
    assert len(dots[0].get_xdata()) == 8 and dots[1].get_xydata().tolist() == [[0.01, 4]]  # the ring round the best
    (lost,) = [each for each in axes.lines if each.get_marker() == "x"]
    assert [*lost.get_xdata()] == [0.1]
    rows = by_seed.draw().axes[0]
    assert [label.get_text() for label in rows.get_yticklabels()] == ["rate 0.1", "rate 0.01", "rate 0.001"]


def test_axes_of_every_kind(tmp_path):
    """Words and lists stand side by side, whole numbers near each other on a straight axis, several settings as lines."""
    losses = [
        ({"optimizer.kind": kind, "problem.hidden": hidden, "train.tasks": tasks}, [1.0 + tasks + len(hidden)], "done")
        for kind in ("lstm", "mlp$")
        for hidden in ([20], [20, 20])
        for tasks in (2, 4)
    ]
    axes = {"optimizer.kind": {}, "problem.hidden": {}, "train.tasks": {}}
    sweep = made(tmp_path / "s", losses, axes)
    kind, hidden, tasks = reports.figures(sweep, "small", reports.read(sweep)["small"])
    axis = kind.draw().axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["lstm", r"mlp\$"] and axis.get_legend() is not None
    assert [label.get_text() for label in hidden.draw().axes[0].get_xticklabels()] == ["[20]", "[20, 20]"]
    assert tasks.draw().axes[0].get_xscale() == "linear"
    assert len([line for line in tasks.draw().axes[0].lines if line.get_linestyle() == "-"]) == 4
    assert "Points that differ in problem.hidden are validated on losses of different scale." in reports.text(sweep)


def test_a_range_that_was_drawn_from_has_no_line(tmp_path):
    rates = np.logspace(-4, -1, 9).tolist()
    losses = [({"seed": i % 2, "train.rate": rate}, [1 + abs(math.log10(rate) + 2)], "done") for i, rate in enumerate(rates)]
    axes = {"seed": {"values": [0, 1]}, "train.rate": {"range": [1e-4, 1e-1], "log": True}}
    sweep = made(tmp_path / "s", losses, axes)
    by_rate = reports.figures(sweep, "small", reports.read(sweep)["small"])[1].draw().axes[0]
    assert not [line for line in by_rate.lines if line.get_linestyle() == "-"] and by_rate.get_xscale() == "log"


def test_what_is_damaged_or_no_sweep_is_one_line(grid, tmp_path):
    (grid.path / "sweep.json").write_text('{"points": {"a": {}}}')
    with pytest.raises(RunError, match=r"sweep.json: damaged: KeyError: 'experiment'$"):
        sweeps.read(grid.path)
    with pytest.raises(RunError, match=r"not a sweep: it has no sweep.json$"):
        sweeps.read(tmp_path)
    _, err = l2l(tmp_path, "report", grid.path, grid.path, code=2)
    assert "a sweep has a report of its own" in " ".join(err.split())
