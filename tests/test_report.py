"""The HTML report and the comparison: one page each, made of files alone, whatever those files hold."""

import json
import shutil
import subprocess
import sys

import pytest
from support import Page, evaluation, finished

from l2lcli import comparison, report, tables
from l2lcli.artefact import RunError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "digits" / "20260101-120000-abcd"
    path.mkdir(parents=True)
    finished(path)
    report.write(path)
    return path


def test_report_is_one_page_that_needs_no_other(folder):
    html = (folder / "report.html").read_text()
    page = Page(html)
    page.check()
    assert "http:" not in html
    assert "https:" not in html
    first = page.text[page.text.index("The learned optimizer (lstm) reaches") :]
    assert first.startswith("The learned optimizer (lstm) reaches 0.553 [0.510, 0.594] × the summed loss")
    assert "l2l train configs/digits.yaml --set 'train.horizon=[100]'" in page.text
    for part in (
        "dataset: digits",
        "updates skipped for a non-finite gradient, 3",
        "chosen on a grid",
        "variant relu",
        "backend",
    ):
        assert part in page.text, part
    names = {p.name for p in (folder / "figures").iterdir()}
    stems = ("loss_steps", "loss_seconds", "meta_training", "loss_steps-relu", "generalisation")
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}


def test_names_are_escaped(tmp_path):
    summary = finished(tmp_path, learned="<script>$x$&", variants=(), seeds=2, steps=5)
    (tmp_path / "summary.json").write_text(json.dumps(summary | {"label": '<b>"digits"</b> $\\frac'}))
    page = Page(report.write(tmp_path).read_text())
    page.check()
    assert "b" not in page.tags
    assert "<script>$x$&" in page.text


@pytest.mark.filterwarnings("error")
def test_baselines_alone_one_seed_no_run_directory(tmp_path):
    summary = evaluation(tmp_path, "digits", seeds=1, steps=8, learned=None)
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    page = Page(report.write(tmp_path).read_text())
    page.check()
    assert "No learned optimizer" in page.text
    assert "Meta-training" not in page.text
    assert "Environment" not in page.text
    assert "No learned optimizer" in tables.table(summary)


def test_a_run_without_evaluation_says_so(tmp_path):
    finished(tmp_path)
    (tmp_path / "summary.json").unlink()
    (tmp_path / "status.json").write_text('{"state": "stopped", "step": 40, "reason": "SIGTERM"}')
    page = Page(report.write(tmp_path).read_text())
    assert "has not been evaluated" in page.text
    assert "not complete: state stopped, step 40, reason SIGTERM" in page.text
    assert "Meta-training" in page.text


def test_nothing_to_report_on_and_damaged_curves(tmp_path):
    with pytest.raises(tables.ReportError, match="nothing to report on"):
        report.write(tmp_path)
    with pytest.raises(tables.ReportError, match="nothing to compare"):
        comparison.write([tmp_path], tmp_path / "out.html")
    finished(tmp_path, seeds=1, steps=3)
    with (tmp_path / "curves" / "digits.csv").open("a") as file:
        file.write("adam,0,x,1.0\n")
    with pytest.raises(tables.ReportError, match=r"digits.csv:\d+: damaged"):
        report.write(tmp_path)


def test_jax_is_never_imported(tmp_path):
    finished(tmp_path, variants=(), seeds=2, steps=4)
    code = (
        f"import sys; from l2lcli import report; report.write({str(tmp_path)!r}); print([m for m in sys.modules if 'jax' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_the_disk_refuses_is_one_line(tmp_path):
    finished(tmp_path, variants=(), seeds=2, steps=4)
    shutil.rmtree(tmp_path / "curves")  # one figure is enough
    (tmp_path / "figures").write_text("")
    for draw in (report.figures, report.write):
        with pytest.raises(RunError, match=r"figures: (File exists|Not a directory)$"):
            draw(tmp_path)
    (tmp_path / "figures").unlink()
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunError, match=r"/report.html: Is a directory$"):
        report.write(tmp_path)
    (tmp_path / "x").write_text("")
    with pytest.raises(RunError, match=r"/x: (File exists|Not a directory)$"):
        comparison.write([tmp_path], tmp_path / "x" / "out.html")
    (tmp_path / "config.yaml").write_bytes(b"\xff")
    with pytest.raises(RunError, match=r"config.yaml: damaged: not UTF-8$"):
        report.write(tmp_path)
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/proc/self/mem")  # cannot be read, not even by root
    with pytest.raises(RunError, match=r"metrics.jsonl: Input/output error$"):
        report.write(tmp_path)
    assert not list(tmp_path.glob(".*"))
