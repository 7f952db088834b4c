"""One page on several runs, and the matrix of ratios: every number is one of the summaries'."""

import json

import pytest

from l2lcli.evaluation.summary import Summary
from l2lcli.reports import comparison, page, tables
from l2lcli.reports.figures.heatmap import BETTER, EVEN, NONE, WORSE, Cell, cell, heatmap
from tests.support import Page, a_part, finished


def run(folder, seed=0, config="", **changes):
    """A finished run whose ratios are changed."""
    folder.mkdir(parents=True)
    summary = finished(folder, variants=("relu", "tanh"), seeds=2, steps=4)
    for place, ratio in changes.items():
        name, _, metric = place.rpartition("_")
        part = summary["variants"][name] if name else summary
        part[f"ratio_{metric}"], part[f"ratio_{metric}_ci"] = ratio, ratio and [ratio * 0.9, ratio * 1.1]
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text(f"name: digits\nseed: {seed}\ndata: {{raw_dir: /data/{seed}}}\n{config}")
    return folder


def test_compare(tmp_path):
    folders = [
        run(tmp_path / "digits" / "20260101-120000-abcd"),
        tmp_path / "a" / "eval" / "x",
        tmp_path / "b" / "eval" / "x",
        tmp_path / "unfinished",
    ]
    for i, path in enumerate(folders[1:3]):
        finished(path, variants=(), draw=i + 5)
    folders[3].mkdir()
    page = Page(comparison.write(folders, tmp_path / "out" / "compare.html").read_text())
    page.check()
    drawn = {path.name: path.read_bytes() for path in (tmp_path / "out" / "compare").iterdir()}
    (name,) = (name for name in drawn if name.startswith("compare_digits_") and name.endswith(".svg"))
    assert b"</svg>" in drawn[name] and drawn[name.replace(".svg", ".png")].startswith(b"\x89PNG")
    assert {"generalisation_final.svg", "generalisation_sum.png"} < set(drawn)
    for part in ("a/eval/x", "b/eval/x", "unfinished has not been evaluated", "digits, the learned optimizers"):
        assert part in page.text, part


def test_several_runs_are_a_matrix_and_seeds_are_a_spread(tmp_path):
    folders = [
        run(tmp_path / "a", 0, "train: {init_from: x}\n", _sum=0.6, relu_sum=0.5, tanh_sum=1.2, relu_final=1.0),
        run(tmp_path / "b", 1, "train: {init_from: x/seed-1}\n", _sum=0.9, relu_sum=2.0, tanh_sum=None, relu_final=3.0),
        run(tmp_path / "c", 2, "train: {init_from: null}\n", _sum=9.0),  # of another configuration
    ]
    runs = {path.name: (path, tables.read_summary(path)) for path in folders}
    rows = {row[1]: row[2:] for row in comparison.spread_rows(runs)[1:]}
    assert set(rows) == {"as trained", "relu", "tanh"}
    assert rows["as trained"][0] == "0, 1"
    assert rows["as trained"][2] == "0.750 [0.600 … 0.900]"
    assert rows["relu"][1:] == ["2.00 [1.00 … 3.00]", "1.25 [0.500 … 2.00]"]
    assert rows["tanh"][2] == "lost in 1 of 2"
    page = Page(comparison.write(folders, tmp_path / "compare.html").read_text())
    page.check()
    for part in ("0.500 [0.450, 0.550] (adam)", "lost (adam)", "n/a", "Generalisation, summed loss", "differ in nothing but"):
        assert part in page.text, part


def test_a_heat_map_is_green_below_one_red_above_and_grey_where_lost(tmp_path):
    part = {"learned": "lstm", "best_baseline": {"final": "nag"}, "ratio_final": 0.2, "ratio_final_ci": [0.1, 0.4]}
    assert cell(a_part(**part), "final") == Cell(0.2, (0.1, 0.4), "nag")
    assert cell(a_part(**part | {"ratio_final": None, "ratio_final_ci": None}), "final") == Cell(None, None, "nag")
    assert cell(a_part(**part | {"learned": None}), "final") is None
    cells = {("a", "x"): Cell(0.2, (0.1, 0.4), "nag"), ("b", "x"): Cell(1.0, None, "$"), ("c", "x"): Cell(8.0, None, "nag"),
             ("d", "x"): Cell(None, None, "nag")}  # fmt: skip
    drawn = heatmap("m", "title", "caption", ["a", "b", "c", "d"], ["x"], cells).draw().axes[0]
    from matplotlib.colors import to_hex

    assert [to_hex(patch.get_facecolor()) for patch in drawn.patches] == [BETTER, EVEN, WORSE, NONE]
    assert {"0.200 [0.100, 0.400]", "1.00", "8.00", "n/a"} <= {text.get_text() for text in drawn.texts}


def test_generalisation_table_has_the_experiment_first_and_steps_where_they_differ(tmp_path):
    summary = finished(tmp_path, variants=("long", "relu"), seeds=2, steps=4)
    assert [row[0] for row in tables.ratio_rows(Summary.of(summary).parts, "variant")] == ["variant", "digits", "long", "relu"]
    summary["variants"]["long"]["steps"] = 1000
    rows = tables.ratio_rows(Summary.of(summary).parts, "variant")
    assert [row[1] for row in rows] == ["steps", "4", "1,000", "4"]
    assert rows[1][2] == "0.412 [0.380, 0.452] (nag)"
    assert "1,000" in tables.table(Summary.of(summary))
    page.write(tmp_path)
    assert (tmp_path / "figures/generalisation.svg").is_file()


@pytest.mark.filterwarnings("error")
def test_a_matrix_of_many_rows_says_what_it_leaves_out():
    cells = {(f"v{i}", "x"): Cell(1.1, None, "adam") for i in range(100)}
    figure = heatmap("m", "t", "c", [f"v{i}" for i in range(100)], ["x"], cells)
    assert "40 rows more are left out" in figure.caption
    assert len(figure.draw().axes[0].patches) == 60


def test_learned_optimizers_on_the_same_networks_share_a_figure_whatever_their_problem_is_called(tmp_path, monkeypatch):
    for i, name in enumerate(("one", "other", "elsewhere")):
        summary = finished(tmp_path / name, variants=(), draw=7 if i < 2 else 8, seeds=2, steps=4)
        (tmp_path / name / "summary.json").write_text(json.dumps(summary | {"problem": name}))
        (tmp_path / name / "curves" / "digits.csv").rename(tmp_path / name / "curves" / f"{name}.csv")
    drawn = []
    monkeypatch.setattr(comparison, "loss_figure", lambda *given: drawn.append(given))
    comparison.write([tmp_path / name for name in ("one", "other", "elsewhere")], tmp_path / "compare.html")
    ((name, _, part, found),) = drawn
    assert name == "compare_one_4" and list(found) == list(part.optimizers) == ["nag", "one", "other"]


def test_a_variant_shares_the_figure_of_the_run_whose_own_problem_it_is_and_four_digits_tell_networks_apart(
    tmp_path, monkeypatch
):
    for name, changed in (("short", 1.0), ("long", 1.00001)):
        summary = finished(tmp_path / name, variants=("relu", "tanh"), seeds=2, steps=4)
        if name == "long":  # its problem is the other's variant, whose file has all digits
            (tmp_path / name / "summary.json").write_text(json.dumps(summary | {"problem": name, "variants": {}}))
            lines = (tmp_path / "short/curves/relu.csv").read_text().splitlines()
            of = [line.rpartition(",") for line in lines[1:]]
            rounded = [f"{start},{float(loss) * changed:.4g}" for start, _, loss in of]
            (tmp_path / name / "curves/long.csv").write_text("\n".join([lines[0], *rounded]))
    drawn = []
    monkeypatch.setattr(comparison, "loss_figure", lambda *given: drawn.append(given))
    comparison.write([tmp_path / "short", tmp_path / "long"], tmp_path / "compare.html")
    ((name, _, _, found),) = drawn
    assert (name, list(found)) == ("compare_long_4", ["nag", "long", "short"])
