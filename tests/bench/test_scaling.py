"""Scaling: rows of processes of their own, kept whatever happens to one of them, and shown from the file alone."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from l2lcli.bench import report, scaling
from l2lcli.bench.scaling import BASE, WAYS
from l2lcli.runs.files import RunError
from l2lcli.runs.metrics import append_rows
from l2lcli.signals import Signals, Stopped
from tests.command_line import command, l2l

TINY = {"problem": "digits", "tasks": 1, "window": 2, "layers": 1, "hidden": 2, "width": 1}


def row(point, way, seconds=2.0, temporaries=12e6, peak=4e8):
    own = lambda value: dict.fromkeys(WAYS) | {way: value}
    return {
        **{"way": way, "work": {**point, "devices": 2, "coordinates": scaling.coordinates(point)}},
        **{"machine": {"device": "cpu", "devices": 2}, "repeats": 0 if seconds is None else 7, "peak_rss_bytes": peak},
        **{"seconds_per_100_steps": own(seconds), "temp_bytes": own(temporaries)},
    }


@pytest.fixture
def filled(tmp_path):
    """A file with every point; plain JAX not run at 64 tasks, replay failed at H = 64."""
    path = tmp_path / "scaling.jsonl"
    for point in scaling.points():
        for way in WAYS:
            lost = way != "replay" and point["tasks"] == 64
            append_rows(path, [row(point, way, None if lost else 2.0 * point["tasks"], 9e9 if lost else 12e6)])
    failed = BASE | {"hidden": 64}
    append_rows(path, [{"way": "replay", "work": {**failed, "coordinates": 15_910}, "error": "killed by SIGKILL"}])
    return path


def child(monkeypatch, code):
    """Every process that the scaling starts runs this Python code instead of `l2l bench`; its arguments are kept."""
    started, popen = [], subprocess.Popen

    def start(words, **options):
        started.append(words)
        return popen([sys.executable, "-c", code], **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    return started


def test_the_points_are_those_of_the_issue():
    sizes = [scaling.coordinates(BASE | change) for change in scaling.VARIED["N"]]
    assert sizes == [64 * 20 + 20 + 200 + 10, 15_910, 150_265, 1_500_175]
    points = scaling.points()
    assert len(points) == 4 + 3 + 2 + 3 and len({json.dumps(p) for p in points}) == 12
    assert all(sum(point[key] != BASE[key] for key in BASE) <= 1 for point in points)
    assert scaling.coordinates(points[0]) == 1510  # what is quick comes first


def test_a_tiny_point_is_measured_and_kept(tmp_path, monkeypatch, capsys):
    way = "autodiff_checkpoint"  # one process is slow enough, and replay is what l2l bench measures unless told otherwise
    monkeypatch.setattr(scaling, "WAYS", (way,))
    path = tmp_path / "new" / "rows.jsonl"
    scaling.measure(path, [TINY])
    (found,) = scaling.read(path)
    assert found["way"] == way
    assert found["seconds_per_100_steps"][way] > 0 and found["temp_bytes"][way] > 0 and found["peak_rss_bytes"] > 1e8
    assert [key for key, seconds in found["seconds_per_100_steps"].items() if seconds is not None] == [way]
    assert found["work"]["coordinates"] == scaling.coordinates(TINY) == 85
    assert 2 <= found["repeats"] <= 7
    assert found["ratio_to_floor"] is None and set(found["apply_seconds_per_step"].values()) == {None}
    assert "1/1  N = 85, M = 1, W = 2, H = 2, autodiff_checkpoint:" in capsys.readouterr().err
    before = path.read_bytes()
    scaling.measure(path, [TINY])  # nothing is missing
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import os; os.kill(os.getpid(), 9)",
            "killed by SIGKILL, which is how the system ends a process when memory runs out",
        ),
        ("import sys; sys.exit('warning\\nl2l: XlaRuntimeError: out of memory')", "XlaRuntimeError: out of memory"),
        ("raise SystemExit(3)", "exit code 3"),
        ("print('no')", "it printed no result: Expecting value: line 1 column 1 (char 0)"),
        ("print('[1]')", "it printed no result: Input should be an object"),
    ],
)
def test_a_child_that_fails_is_a_row_with_its_error(tmp_path, monkeypatch, capsys, code, said):
    started = child(monkeypatch, code)
    path = tmp_path / "rows.jsonl"
    scaling.measure(path, [BASE])
    rows = scaling.read(path)
    assert [row["error"] for row in rows] == [said, said]
    assert f"replay: failed: {said}\n" in capsys.readouterr().err
    assert f"failed: N = 15,910, M = 1, W = 20, H = 20, replay: {said}" in report.table(rows)
    with pytest.raises(RunError, match="nothing to draw"):
        report.write(rows, tmp_path)
    scaling.measure(path, [BASE])  # what failed is tried again, and its newest row counts
    assert len(started) == 4 and len(scaling.read(path)) == 2


def test_a_signal_ends_the_child_and_keeps_the_rows(tmp_path, monkeypatch):
    path, mark = tmp_path / "rows.jsonl", tmp_path / "pid"
    append_rows(path, [row(BASE, "replay")])
    child(monkeypatch, f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)")

    class Soon(Signals):
        def check(self):
            if mark.exists() and mark.read_text():
                self.received = signal.SIGTERM
            super().check()

    with pytest.raises(Stopped, match=r"rows.jsonl keeps what was measured, the same command goes on") as stopped:
        scaling.measure(path, [BASE], flag=Soon())
    assert stopped.value.exit_code == 75
    assert len(scaling.read(path)) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_the_command_stops_with_the_exit_code_of_the_signal(tmp_path):
    process = subprocess.Popen(command("bench", "--scaling"), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    path = tmp_path / "runs" / "bench"
    while process.poll() is None and not path.exists():
        time.sleep(0.05)
    process.terminate()
    assert "the same command goes on" in process.communicate()[1]
    assert process.returncode == 75


def test_table_and_figure_from_the_file_without_jax(filled):
    code = (
        "import sys\nfrom pathlib import Path\nfrom l2lcli.bench import report, scaling\n"
        f"path = Path({str(filled)!r})\nrows = scaling.read(path)\n"
        "print(report.table(rows))\nprint(report.write(rows, path.parent / 'figures'))\n"
        "assert not {'jax', 'optax', 'flax'} & set(sys.modules)"
    )
    out = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True).stdout
    lines = {line.split("  ")[1]: line.split() for line in out.splitlines() if " = " in line[:6]}
    assert len(lines) == 4 + 4 + 3 + 4  # the base point stands in every part
    # 8 s over 4 tasks of 15,910 coordinates; 12 MB over 4 x 20 x 15,910 floats
    assert lines["M = 4"][3:] == ["8.00", "1.26", "8.00", "12.0", "MB", "9.43", "12.0", "MB", "400", "MB", "7", "/", "7"]
    assert lines["M = 64"][5:8] == ["-", "12.0", "MB"] and lines["M = 64"][9:11] == ["9.00", "GB"]
    assert lines["H = 64"][3] == "failed"
    assert "H = 64, replay: killed by SIGKILL" in out
    assert (filled.parent / "figures" / "scaling.png").stat().st_size > 5000
    assert "<svg" in (filled.parent / "figures" / "scaling.svg").read_text()


def test_the_figure_plots_the_rows(filled, monkeypatch):
    drawn = []
    monkeypatch.setattr(report, "save", lambda figure, folder: drawn.append(figure.draw()))
    report.write(scaling.read(filled), filled.parent)
    tasks = drawn[0].axes[1]
    by_label = {line.get_label(): line for line in tasks.lines}
    assert list(by_label["l2l, replay"].get_xdata()) == [1, 4, 16, 64]
    assert list(by_label["l2l, replay"].get_ydata()) == [2, 8, 32, 128]
    assert list(by_label["plain JAX, jax.checkpoint"].get_ydata()) == [2, 8, 32]
    assert list(by_label["linear growth"].get_ydata()) == [2, 128]
    memory = drawn[0].axes[5]
    hollow = [line for line in memory.lines if line.get_label().startswith("_")]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in hollow] == [(64, 9000)]
    assert {ax.get_xscale() for ax in drawn[0].axes} == {ax.get_yscale() for ax in drawn[0].axes} == {"log"}


def test_the_command_draws_again_and_refuses_what_does_not_fit(filled):
    folder = filled.parent
    before = filled.read_bytes()
    out, _ = l2l(folder, "bench", "--scaling", "--draw", "--append", "scaling.jsonl")
    assert "figure: figures/scaling.png" in out
    assert filled.read_bytes() == before
    for arguments in (["--scaling", "--tasks", "2"], ["--scaling", "--json"], ["--draw"], ["--way", "replay"]):
        assert l2l(folder, "bench", *arguments, code=2)[0] == ""
    assert "nothing to show" in l2l(folder, "bench", "--scaling", "--draw", code=1)[1]
    filled.write_text('{"way": "replay", "work": {}}\n')
    _, err = l2l(folder, "bench", "--scaling", "--draw", "--append", "scaling.jsonl", code=1)
    assert err == "l2l: scaling.jsonl:1: no row of l2l bench --scaling: work.problem: Field required\n"
