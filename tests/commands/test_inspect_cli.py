"""`l2l inspect --graph`: a page or a picture of an experiment's computation, and what is no such thing in one line."""

import pytest

from tests.command_line import CONFIG, l2l
from tests.support import Page


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "small.yaml").write_text(CONFIG)
    return tmp_path


def test_a_page_and_a_picture(folder):
    out, _ = l2l(folder, "inspect", "small.yaml", "--graph", L2L_NATIVE="on")
    assert out == "small-graph.html\n"
    page = Page((folder / "small-graph.html").read_text())
    assert "3 steps of a window of 5" in page.text and "lstm_0: " in page.text and "Dashed" in page.text
    second = ["--set", "train.estimator={kind: autodiff, window: 2, second_order: true}"]
    out, _ = l2l(folder, "inspect", "small.yaml", "--graph", "--out", "small.svg", *second)
    text = (folder / out.strip()).read_text()
    assert text.startswith("<svg xmlns=") and "2 steps of a window of 2" in text and "Dashed" not in text


def test_what_derives_nothing_says_so(folder):
    l2l(folder, "inspect", "small.yaml", "--graph", "--set", "train.estimator={kind: pes, window: 5}")
    assert "pes derives nothing" in Page((folder / "small-graph.html").read_text()).text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small.yaml"], "say what to show: --graph"),
        (["small.yaml", "--graph", "--out", "a.png"], "--out a.png: a name that ends in .html or .svg"),
        (["none.yaml", "--graph"], "none.yaml:1:1: cannot be read: no such file or directory"),
        (["small.yaml", "--graph", "--set", "optimizer.hiden=2"], "optimizer.hiden: unknown key; did you mean 'hidden'?"),
    ],
)
def test_what_cannot_be_drawn_is_a_line(folder, arguments, message):
    _, err = l2l(folder, "inspect", *arguments, code=2)
    assert message in " ".join(err.replace("│", " ").split())
    assert not [*folder.glob("*.html"), *folder.glob("*.svg")]
