"""The figure of final loss over architectures shows the summary's means, and what diverged is missing."""

import json

import numpy as np

from l2lcli.evaluation.summary import Summary
from l2lcli.reports import page
from l2lcli.reports.figures.architectures import architecture_figure
from tests.support import evaluation


def summary(folder, names, **rest):
    parts = {name: evaluation(folder, name, steps=20, seeds=3, draw=i, **rest) for i, name in enumerate(names)}
    return evaluation(folder, "digits", steps=20, seeds=3, **rest) | {"variants": parts}


def test_points_are_the_variants_means(tmp_path):
    found = summary(tmp_path, ["1x5", "1x20", "2x20", "relu", "1x10", "2x5"])
    found["variants"]["2x5"]["optimizers"]["adam"] |= {"final": None, "final_ci": None, "diverged": 3}
    one, two = architecture_figure("digits", Summary.of(found)).draw().axes
    line = {line.get_label(): line for line in one.lines}["lstm"]
    assert line.get_xdata().tolist() == [5, 10, 20]
    means = [found["variants"][f"1x{width}"]["optimizers"]["lstm"]["final"] for width in (5, 10, 20)]
    np.testing.assert_allclose(line.get_ydata(), means)
    lost = {line.get_label(): line for line in two.lines}["adam"].get_ydata()
    assert np.isnan(lost).tolist() == [True, False]
    assert [ax.get_title() for ax in (one, two)] == ["1 hidden layer", "2 hidden layers"]


def test_it_is_drawn_where_there_are_several(tmp_path):
    assert architecture_figure("digits", Summary.of(summary(tmp_path, ["1x5", "1x20", "relu"]))) is None
    (tmp_path / "summary.json").write_text(json.dumps(summary(tmp_path, ["1x5", "1x20", "2x5", "2x20"])))
    assert tmp_path / "figures/architectures.png" in page.figures(tmp_path)
