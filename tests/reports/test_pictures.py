"""Pictures in a run directory are drawn, kept small, and looked at before they are used."""

import numpy as np
import pytest

from l2lcli import config
from l2lcli.reports import page, reference, tables
from l2lcli.reports.figures import pictures
from l2lcli.runs.artefact import write_artefact
from l2lcli.runs.files import RunError
from tests.support import finished

META = {"steps": [25, 50, 100], "given": ["content", "style"], "optimizers": ["adam", "lstm"]}


def arrays(size=8):
    draw = np.random.default_rng(0)
    shapes = {"given/content": (4,), "given/style": (4,), "made/adam": (4, 3), "made/lstm": (4, 3)}
    return {name: draw.integers(0, 256, (*shape, size, size, 3), dtype=np.uint8) for name, shape in shapes.items()}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs/digits/20260101-120000-abcd"
    (folder / "pictures").mkdir(parents=True)
    finished(folder, seeds=2, steps=4)
    (folder / "config.yaml").write_text(config.dump(config.override(config.config_class()(), {"name": "digits"})))
    for name in ("digits", "relu"):
        write_artefact(folder / f"pictures/{name}.npz", arrays(), META)
    return folder


def test_every_image_is_on_the_figure(run):
    summary = tables.read_summary(run)
    drawn = pictures.figure(run, "pictures", "digits", summary)
    figure = drawn.draw()
    sheet, made = figure.axes[0].images[0].get_array(), arrays()
    cell = lambda row, column, task: sheet[task * (3 * 9 + 2) + row * 9 :, column * 9 :][:8, :8, :3]
    for task in range(4):
        np.testing.assert_array_equal(cell(0, 0, task), made["given/content"][task])
        np.testing.assert_array_equal(cell(0, 1, task), made["given/style"][task])
        for row in range(3):
            np.testing.assert_array_equal(cell(row, 2, task), made["made/lstm"][task, row])  # the learned one first
            np.testing.assert_array_equal(cell(row, 3, task), made["made/adam"][task, row])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["content", "style", "lstm", "adam", *["25", "50", "100"] * 4]
    assert "after 25, 50, 100 steps" in drawn.caption


def test_a_report_shows_them(run):
    assert "<h2>Pictures</h2>" in page.write(run).read_text()
    assert {"pictures.png", "pictures-relu.png"} <= {path.name for path in (run / "figures").iterdir()}
    (run / "pictures/digits.npz").unlink()
    assert pictures.figure(run, "pictures", "digits", tables.read_summary(run)) is None


def test_a_reference_result_keeps_two_tasks_and_the_figure(run, tmp_path):
    (tmp_path / "reference/digits/pictures").mkdir(parents=True)
    (tmp_path / "reference/digits/pictures/old.npz.xz").touch()
    place = reference.save(run, tmp_path / "reference")
    kept, made = pictures.read(place, "digits"), arrays()
    assert kept.meta == META
    for name, array in made.items():
        np.testing.assert_array_equal(kept.arrays[name], array[:2])
    assert [path.name for path in (place / "pictures").iterdir()] == ["digits.npz.xz"]
    assert (place / "figures/pictures.png").is_file()


@pytest.mark.parametrize(
    ("changed", "meta"),
    [
        ({"made/adam": np.zeros((4, 2, 8, 8, 3), np.uint8)}, {}),
        ({"made/adam": np.zeros((4, 3, 8, 8, 3))}, {}),
        ({"given/content": np.zeros((0, 8, 8, 3), np.uint8)}, {}),
        ({}, {"optimizers": ["sgd"]}),
        ({}, {"steps": 3}),
        ({}, {"given": []}),
    ],
)
def test_damaged_pictures_are_named(run, changed, meta):
    write_artefact(run / "pictures/digits.npz", arrays() | changed, META | meta)
    with pytest.raises(RunError, match=r"pictures/digits\.npz: damaged"):
        pictures.read(run, "digits")
    assert pictures.read(run, "../digits/digits") is None
