"""Figures plot what the files say, checked against computations made here by other means."""

import csv
import statistics

import numpy as np
import pytest

from l2lcli.evaluation.summary import Pays, Summary
from l2lcli.reports import curves as curve_files
from l2lcli.reports import page, tables
from l2lcli.reports.figures import drawing, lines, losses
from l2lcli.runs.files import RunError
from tests.support import evaluation, finished


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "digits" / "20260101-120000-abcd"
    path.mkdir(parents=True)
    finished(path)
    return path


def test_band_is_the_median_and_quartiles_of_the_csv(folder):
    with (folder / "curves" / "digits.csv").open() as file:
        rows = list(csv.DictReader(file))
    low, middle, high = lines.band(curve_files.read(folder / "curves" / "digits.csv")["adam"])
    for step in (0, 17, 100):
        losses = [float(r["loss"]) for r in rows if r["optimizer"] == "adam" and r["step"] == str(step)]
        assert len(losses) == 20
        quartiles = statistics.quantiles(losses, n=4, method="inclusive")
        np.testing.assert_allclose([low[step], middle[step], high[step]], quartiles, rtol=1e-12)


def test_figures_plot_what_band_computes(folder):
    summary, curves = tables.read_summary(folder), curve_files.read(folder / "curves" / "digits.csv")
    drawn = losses.loss_figure("x", "digits", summary, curves).draw().axes[0]
    plotted = {line.get_color(): line.get_ydata() for line in drawn.lines if line.get_linestyle() == "-"}
    for name, colour in (("lstm", drawing.LEARNED), ("adam", drawing.NAMED["adam"])):
        np.testing.assert_array_equal(plotted[colour], np.median(curves[name], axis=0))
    assert {text.get_text() for text in drawn.texts} == set(summary.optimizers)
    slow = losses.loss_figure("x", "digits", summary, curves, seconds=True).draw().axes[0]
    lstm = next(line for line in slow.lines if line.get_color() == drawing.LEARNED)
    assert lstm.get_xdata()[-1] == pytest.approx(100 * 0.21)  # milliseconds
    assert slow.get_xlabel() == "wall-clock time (ms)"
    summary = summary.model_copy(update={"pays": Pays(step=40, seconds=0.0084)})
    paying = losses.loss_figure("x", "digits", summary, curves, seconds=True)
    drawn = paying.draw().axes[0]
    assert [line.get_xdata() for line in drawn.lines if line.get_linestyle() == ":"] == [[8.4, 8.4]]
    assert "pays from step 40" in {text.get_text() for text in drawn.texts}
    assert "from 8.40 ms (step 40) on" in paying.caption


def test_a_diverged_seed_counts_as_the_worst():
    losses = np.array([[1.0, 1, 1], [2, np.nan, np.inf], [3, 3, np.nan], [4, 4, 4], [5, 5, np.inf]])
    low, middle, high = lines.band(losses)
    np.testing.assert_array_equal(middle, [3, 4, np.nan])
    np.testing.assert_array_equal(low, [2, 3, 4])
    np.testing.assert_array_equal(high, [4, 5, np.nan])


@pytest.mark.parametrize(("wanted", "gap"), [([0.5, 0.5, 0.5], 0.1), ([0.9, 0.1, 0.12, 0.5], 0.05), ([0.3], 0.1)])
def test_labels_are_spread_and_keep_their_order_and_their_centre(wanted, gap):
    places = lines.spread(wanted, gap)
    assert np.argsort(places, kind="stable").tolist() == np.argsort(wanted, kind="stable").tolist()
    assert np.diff(np.sort(places)).min(initial=1) >= gap - 1e-12
    assert np.mean(places) == pytest.approx(np.mean(wanted))


def test_svg_is_the_same_every_time(folder):
    curves = curve_files.read(folder / "curves" / "digits.csv")
    again = drawing.save(losses.loss_figure("loss_steps", "digits", tables.read_summary(folder), curves))
    assert again == drawing.save(losses.loss_figure("loss_steps", "digits", tables.read_summary(folder), curves), folder)
    assert again == (folder / "loss_steps.svg").read_text()
    assert "dc:date" not in again


def test_figures_names_what_it_wrote(tmp_path):
    finished(tmp_path, variants=("relu",), seeds=2, steps=4)
    stems = ("meta_training", "loss_steps", "loss_seconds", "generalisation")
    assert page.figures(tmp_path) == [tmp_path / "figures" / f"{stem}.png" for stem in stems]
    (tmp_path / "figures/loss_seconds.png").unlink()
    (tmp_path / "figures/loss_steps.png").write_bytes(b"")
    kept = [tmp_path / "figures" / f"{stem}.png" for stem in sorted(stems)]  # the missing one, too
    assert page.redraw(tmp_path) == kept == sorted((tmp_path / "figures").iterdir())
    assert all(path.stat().st_size > 2000 for path in kept)
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match="no data to draw meta_training from"):
        page.redraw(tmp_path)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", ["diverged", "zeros", "all lost", "negative"])
def test_strange_losses_are_drawn(tmp_path, case):
    summary = evaluation(tmp_path, "quadratic", steps=10, seeds=4)
    curves = curve_files.read(tmp_path / "curves" / "quadratic.csv")
    curves["adam"][2, 4:] = {"diverged": np.inf, "zeros": 0, "all lost": np.nan, "negative": -1}[case]
    if case == "all lost":
        curves = {name: np.full_like(losses, np.nan) for name, losses in curves.items()}
    figure = losses.loss_figure("x", "quadratic", Summary.of(summary), curves)
    svg = drawing.save(figure, tmp_path)
    assert ("adam (diverged 1/4)" in svg) == (case == "diverged")
    assert ("(diverged 4/4" in svg) == (case == "all lost")
    assert (tmp_path / "x.png").stat().st_size > 5000


def test_validation_of_a_curriculum_is_a_line_for_each_horizon():
    judged = [(1, 200, 5.0), (2, 200, 4.0), (2, 500, 9.0), (3, 500, 8.0)]
    rows = [{"step": step, "horizon": horizon, "validation_loss": loss} for step, horizon, loss in judged]
    (panel,) = losses.training_figure(rows).draw().axes
    line = panel.lines[0].get_xydata()
    assert [tuple(point) for point in line[[0, 1, 3, 4]]] == [(step, loss) for step, _, loss in judged]
    assert len(line) == 5 and np.isnan(line[2, 1])  # a gap
    (panel,) = losses.training_figure([{**row, "horizon": 200} for row in rows]).draw().axes
    assert np.isfinite(panel.lines[0].get_xydata()).all()
