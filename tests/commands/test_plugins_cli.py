"""From a folder with one Python file and one YAML, and from an installed package: train, go on, evaluate, report."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.command_line import command
from tests.test_plugins import GOOD, l2l

LONG = """
imports: [./bowl.py]
problem: {kind: bowl}
optimizer: {kind: momentum}
train:
  episodes: 120
  tasks: 2
  horizon: 10
  estimator: {kind: auto, window: 5}
  validate_every: 10
  validation_seeds: 2
  checkpoint_seconds: 0
eval: {steps: 10, seeds: 3, baselines: [], report: false}
"""
STEPS = 240  # of the meta-training


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A folder outside the repository, whose run is stopped half-way; the plug-in is then edited."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "bowl.py").write_text(GOOD)
    (folder / "small.yaml").write_text(LONG)
    arguments = ("train", "small.yaml", "--run-dir", "run", "--devices", 1)
    process = subprocess.Popen(command(*arguments), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not [path for path in folder.glob("run/checkpoints/*") if path.name.isdigit()]:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert err.splitlines()[-1] == "l2l: stopped by SIGTERM; go on with: l2l train --resume run"
    (folder / "bowl.py").write_text(GOOD.replace("jnp.sum(x * x)", "3 * jnp.sum(x * x)"))
    return folder


@pytest.fixture(scope="module")
def resumed(outside):
    """The same run gone on with, to its end: its folder, and what was said."""
    out, err = l2l(outside, "train", "--resume", "run")
    assert any(line.startswith("> momentum") for line in out)
    return outside, err


def test_a_run_keeps_a_copy_of_the_file_and_its_sha256(outside):
    assert (outside / "run/imports/bowl.py").read_text() == GOOD
    about = json.loads((outside / "run/env.json").read_text())["imports"]
    sha256 = hashlib.sha256(GOOD.encode()).hexdigest()
    assert about == {"imports/bowl.py": {"file": str(outside / "bowl.py"), "sha256": sha256}}
    assert "imports: [imports/bowl.py]" in (outside / "run/config.yaml").read_text()
    l2l(outside.parent, "config", "validate", outside / "run/config.yaml")


def test_stopped_edited_and_gone_on_with_it_ends_bit_equal_to_one_left_alone(outside, tmp_path, request):
    status = json.loads((outside / "run/status.json").read_text())
    assert status["state"] == "stopped" and 0 < status["step"] < STEPS
    _, err = request.getfixturevalue("resumed")
    assert f"warning: {outside / 'bowl.py'} has changed since this run began: the run goes on with its own copy" in err
    (tmp_path / "bowl.py").write_text(GOOD)
    (tmp_path / "small.yaml").write_text(LONG)
    l2l(tmp_path, "train", "small.yaml", "--run-dir", "run", "--devices", 1)
    for name in ("optimizer.npz", "metrics.jsonl", "curves/small.csv", "config.yaml"):
        assert (outside / "run" / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name


def test_a_copy_that_was_edited_is_not_gone_on_with(outside, tmp_path):
    shutil.copytree(outside / "run", tmp_path / "run")
    (tmp_path / "run/imports/bowl.py").write_text(GOOD + "# mine\n")
    _, err = l2l(tmp_path, "train", "--resume", "run", code=1)
    assert err[-1] == "l2l: run/imports/bowl.py: missing, or not the file that this run began with"


def test_a_run_whose_file_was_edited_is_gone_on_with_beside_its_config(resumed):
    _, err = l2l(resumed[0], "train", "small.yaml", "--resume", "run")
    assert err[-1] == "run is done already"


SHORT = ("--no-variants", "--steps", 3)


def test_evaluating_without_the_plug_in_says_how_to_import_it(resumed):
    _, err = l2l(resumed[0], "eval", "run", *SHORT, code=1)
    assert len(err) == 1
    assert "'bowl'" in err[0] and "--import run/imports/bowl.py" in err[0]


def test_evaluating_with_the_plug_in_works(resumed):
    folder, _ = resumed
    out, _ = l2l(folder, "eval", "run", "--import", "run/imports/bowl.py", *SHORT)
    assert out[0].startswith("small: 3 steps")
    summary = json.loads((folder / "run/eval/small/summary.json").read_text())
    assert set(summary["optimizers"]) == {"momentum"}


def test_the_config_of_an_evaluation_can_be_loaded(resumed):
    written = next((resumed[0] / "run/eval").glob("*/config.yaml"))
    l2l(resumed[0], "config", "validate", written)


def test_a_report_needs_no_code(resumed, tmp_path):
    shutil.copytree(resumed[0] / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run/imports")
    out, _ = l2l(tmp_path, "report", "run")
    assert out == ["run/report.html"]
    assert "bowl" in (tmp_path / "run/report.html").read_text()


def test_a_kept_result_holds_the_copy_and_no_path_of_the_machine(resumed, tmp_path):
    shutil.copytree(resumed[0] / "run", tmp_path / "run")
    l2l(tmp_path, "report", "run", "--save-reference")
    kept = tmp_path / "runs/reference/small"
    assert (kept / "imports/bowl.py").read_bytes() == (tmp_path / "run/imports/bowl.py").read_bytes()
    assert "imports/bowl.py" in (kept / "config.yaml").read_text()
    assert str(resumed[0]) not in (kept / "env.json").read_text() + (kept / "config.yaml").read_text()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of installed packages, as pip leaves it, with one that brings a problem and a data set."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "bowls").mkdir()
    (folder / "bowls/__init__.py").write_text("")
    (folder / "bowls/problems.py").write_text(GOOD)
    (folder / "bowls/data.py").write_text(
        'import l2lcli\n\n\n@l2lcli.register.dataset("dots", "dots", classes=2, scale=1.0)\ndef dots(files):\n    return {}\n'
    )
    (folder / "bowls-1.0.dist-info").mkdir()
    (folder / "bowls-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: bowls\nVersion: 1.0\n")
    points = "[l2l.problems]\nbowl = bowls.problems\n\n[l2l.datasets]\ndots = bowls.data\n"
    (folder / "bowls-1.0.dist-info/entry_points.txt").write_text(points)
    return folder


def installed(site, *arguments):
    """The command where those packages are installed: exit code, output, errors."""
    code = f"import sys; sys.path.append({str(site)!r}); from l2lcli.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=site, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr.splitlines()


def test_an_installed_package_brings_its_problems(site):
    code, out, _ = installed(site, "list", "problems")
    assert code == 0 and ["bowl", "f(x) = |x|²."] in [line.split(None, 1) for line in out.splitlines()]
    assert '"bowl": "#/$defs/BowlSpec"' in installed(site, "config", "schema")[1]
    (site / "x.yaml").write_text("problem: {kind: bowll}")
    code, _, err = installed(site, "config", "validate", "x.yaml")
    assert code == 2 and "did you mean 'bowl'?" in err[0]


def test_an_installed_package_brings_its_data_sets(site):
    assert "dots" in installed(site, "list", "datasets")[1]


def test_a_broken_entry_point_is_one_line_with_its_package_and_place(site, tmp_path):
    folder = tmp_path / "site"
    (folder / "broken").mkdir(parents=True)
    (folder / "broken/__init__.py").write_text("import l2lcli\n\nx = 1 / 0\n")
    (folder / "broken-1.0.dist-info").mkdir()
    (folder / "broken-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (folder / "broken-1.0.dist-info/entry_points.txt").write_text("[l2l.problems]\nbowl = broken\n")
    code, _, err = installed(folder, "list", "problems")
    assert len(err) == 1 and "entry point 'bowl' of broken (l2l.problems): " in err[0]
    assert f"{folder / 'broken/__init__.py'}:3: ZeroDivisionError: division by zero" in err[0]
    assert code == 2 and "--debug" not in err[0]
