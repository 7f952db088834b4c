"""The HTML report and the comparison: one page each, made of files alone, whatever those files hold."""

import json
import shutil
import subprocess
import sys

import pytest

from l2lcli.evaluation.summary import Summary
from l2lcli.reports import comparison, page, tables
from l2lcli.runs.files import RunError
from tests.support import Page, evaluation, finished


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "digits" / "20260101-120000-abcd"
    path.mkdir(parents=True)
    finished(path)
    page.write(path)
    return path


def test_report_is_one_page_that_needs_no_other(folder):
    html = (folder / "report.html").read_text()
    shown = Page(html)
    shown.check()
    assert "http:" not in html
    assert "https:" not in html
    first = shown.text[shown.text.index("The learned optimizer (lstm) reaches") :]
    assert first.startswith("The learned optimizer (lstm) reaches 0.553 [0.510, 0.594] × the summed loss")
    assert "l2l train configs/digits.yaml --set 'train.horizon=[100]'" in shown.text
    for part in (
        "dataset: digits",
        "updates skipped for a non-finite gradient, 3",
        "chosen on a grid",
        "variant relu",
        "backend",
    ):
        assert part in shown.text, part
    names = {p.name for p in (folder / "figures").iterdir()}
    stems = ("loss_steps", "loss_seconds", "meta_training", "loss_steps-relu", "generalisation")
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}


def test_names_are_escaped(tmp_path):
    summary = finished(tmp_path, learned="<script>$x$&", variants=(), seeds=2, steps=5)
    (tmp_path / "summary.json").write_text(json.dumps(summary | {"label": '<b>"digits"</b> $\\frac'}))
    shown = Page(page.write(tmp_path).read_text())
    shown.check()
    assert "b" not in shown.tags
    assert "<script>$x$&" in shown.text


@pytest.mark.filterwarnings("error")
def test_baselines_alone_one_seed_no_run_directory(tmp_path):
    summary = evaluation(tmp_path, "digits", seeds=1, steps=8, learned=None)
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    shown = Page(page.write(tmp_path).read_text())
    shown.check()
    assert "No learned optimizer" in shown.text
    assert "Meta-training" not in shown.text
    assert "Environment" not in shown.text
    assert "No learned optimizer" in tables.table(Summary.of(summary))


def test_a_run_without_evaluation_says_so(tmp_path):
    finished(tmp_path)
    (tmp_path / "summary.json").unlink()
    (tmp_path / "status.json").write_text('{"state": "stopped", "step": 40, "reason": "SIGTERM"}')
    shown = Page(page.write(tmp_path).read_text())
    assert "has not been evaluated" in shown.text
    assert "not complete: state stopped, step 40, reason SIGTERM" in shown.text
    assert "Meta-training" in shown.text


def test_nothing_to_report_on_and_damaged_curves(tmp_path):
    with pytest.raises(RunError, match="nothing to report on"):
        page.write(tmp_path)
    with pytest.raises(RunError, match="nothing to compare"):
        comparison.write([tmp_path], tmp_path / "out.html")
    finished(tmp_path, seeds=1, steps=3)
    with (tmp_path / "curves" / "digits.csv").open("a") as file:
        file.write("adam,0,x,1.0\n")
    with pytest.raises(RunError, match=r"digits.csv:\d+: damaged"):
        page.write(tmp_path)


def test_jax_is_never_imported(tmp_path):
    finished(tmp_path, variants=(), seeds=2, steps=4)
    code = f"import sys; from l2lcli.reports import page; page.write({str(tmp_path)!r}); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_the_disk_refuses_is_one_line(tmp_path):
    finished(tmp_path, variants=(), seeds=2, steps=4)
    shutil.rmtree(tmp_path / "curves")  # one figure is enough
    (tmp_path / "figures").write_text("")
    for draw in (page.figures, page.write):
        with pytest.raises(RunError, match=r"figures: (File exists|Not a directory)$"):
            draw(tmp_path)
    (tmp_path / "figures").unlink()
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunError, match=r"/report.html: Is a directory$"):
        page.write(tmp_path)
    (tmp_path / "x").write_text("")
    with pytest.raises(RunError, match=r"/x: (File exists|Not a directory)$"):
        comparison.write([tmp_path], tmp_path / "x" / "out.html")
    (tmp_path / "config.yaml").write_bytes(b"\xff")
    with pytest.raises(RunError, match=r"config.yaml: damaged: not UTF-8$"):
        page.write(tmp_path)
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/proc/self/mem")  # cannot be read, not even by root
    with pytest.raises(RunError, match=r"metrics.jsonl: Input/output error$"):
        page.write(tmp_path)
    assert not list(tmp_path.glob(".*"))
