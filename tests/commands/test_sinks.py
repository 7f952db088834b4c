"""Sinks hear what a run's files say, in order and once; what is wrong with one is its own affair, or said before training."""

import importlib.metadata
import json
import signal
import subprocess
import sys

import pytest

from l2lcli import plugins
from l2lcli.commands.sinks import Sinks
from l2lcli.config import ConfigError, load
from l2lcli.runs import rundir, trained
from l2lcli.signals import Diverged, Stopped
from l2lcli.sinks import source
from tests.command_line import CONFIG, QUIET, l2l
from tests.support import ROOT
from tests.test_plugins import apart

OWN = '''
import json

import l2lcli


@l2lcli.register.sink("diary")
class Diary:
    """A file beside the run."""

    def begin(self, run, config, kept):
        self.file = run / "diary.jsonl"
        self.say("begin", config["name"], kept)
        return {"id": 7}

    def say(self, *what):
        with self.file.open("a") as file:
            file.write(json.dumps(what) + "\\n")

    def add(self, rows):
        self.say("add", rows)

    def summary(self, summary):
        self.say("summary", summary["problem"], sorted(summary["optimizers"]))

    def close(self, state):
        self.say("close", state)


@l2lcli.register.sink("elsewhere", package="nowhere_to_be_found")
class Elsewhere(Diary):
    pass
'''
ROWS = [{"step": 5 * (i + 1), "episode": i + 1, "loss": float(i)} for i in range(6)]


@pytest.fixture
def run(tmp_path):
    """A run's folder, in a process that knows the sinks of the file, too."""
    with apart():
        (tmp_path / "own.py").write_text(OWN)
        config = load({"name": "small", "imports": [str(tmp_path / "own.py")], "sinks": ["diary"]})
        with rundir.create(tmp_path, "small", "", path=tmp_path / "run") as run:
            yield run, config


def heard(run):
    return [json.loads(line) for line in (run.path / "diary.jsonl").read_text().splitlines()]


def work(run, config, rows, later=(), error=None, warn=pytest.fail):
    """What one process tells; `error` ends it."""
    with Sinks(run, config, warn) as sinks:
        sinks.begin(rows)
        for some in later:
            sinks.add(some)
        if error is not None:
            raise error


def test_a_run_tells_everything_in_order(tmp_path):
    with apart():
        (tmp_path / "own.py").write_text(OWN)
        (tmp_path / "small.yaml").write_text(CONFIG + "imports: [./own.py]\nsinks: [diary]\n")
        cheap = ["--set", "optimizer={kind: momentum}", "--set", "eval.baselines=[]", "--devices", 1]
        l2l(tmp_path, "train", "small.yaml", "--run-dir", "run", *cheap, *QUIET)
        told = [json.loads(line) for line in (tmp_path / "run/diary.jsonl").read_text().splitlines()]
        kinds = [what for what, *_ in told]
        assert kinds == ["begin", *["add"] * (len(told) - 3), "summary", "close"]
        assert told[0] == ["begin", "small", None] and told[-1] == ["close", "done"]
        assert told[-2] == ["summary", "small", ["momentum"]]
        rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
        assert [row for what, *rest in told if what == "add" for row in rest[0]] == rows and len(rows) == 6
        assert json.loads((tmp_path / "run/sinks.json").read_text()) == {"diary": {"kept": {"id": 7}, "told": 6}}
        assert "sinks: [diary]" in (tmp_path / "run/config.yaml").read_text()
    # A reader without the file that registers it takes the optimizer, and its config, as they are.
    assert trained.read(tmp_path / "run").config(pytest.fail).sinks == []


def test_what_was_heard_before_a_resumption_is_not_said_again(run):
    run, config = run
    with pytest.raises(Stopped):
        work(run, config, [], [ROWS[:2], ROWS[2:5]], Stopped(signal.SIGTERM))
    work(run, config, ROWS[:2], [ROWS[2:4], ROWS[4:]])  # the checkpoint was after two rows: three come once more
    assert heard(run) == [
        ["begin", "small", None], ["add", ROWS[:2]], ["add", ROWS[2:5]], ["close", "stopped"],
        ["begin", "small", {"id": 7}], ["add", ROWS[5:]], ["close", "done"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "state"), [(Diverged("no"), "diverged"), (OSError("disk"), "failed"), (KeyboardInterrupt(), "failed")]
)
def test_it_hears_how_the_run_ended(run, error, state):
    run, config = run
    with pytest.raises(type(error)):
        work(run, config, ROWS[:1], error=error)
    assert heard(run)[-1] == ["close", state]


@pytest.mark.parametrize("broken", ["__init__", "begin", "add", "close"])
def test_one_that_breaks_ends_alone_with_one_line_and_misses_nothing_when_it_is_back(run, broken, monkeypatch):
    run, config = run
    kind = source.known()["diary"].build
    plain, fails = getattr(kind, broken), [broken == "add"]  # add works the first time

    def fail(*given):
        if fails and fails.pop():
            return plain(*given)
        raise RuntimeError("the network\nis down")

    said = []
    with monkeypatch.context() as patch:
        patch.setattr(kind, broken, fail)
        work(run, config, ROWS[:1], [ROWS[1:2], ROWS[2:3]], warn=said.append)
    assert said == ["warning: sink diary: is told nothing from here on: the network"]
    work(run, config, ROWS[:3], [ROWS[3:]])
    assert [row for what, *rest in heard(run) if what == "add" for row in rest[0]] == ROWS


def test_one_that_begins_anew_hears_everything_again(run, monkeypatch):
    run, config = run
    monkeypatch.setattr(
        source.known()["diary"].build, "begin", lambda self, path, *_: setattr(self, "file", path / "diary.jsonl")
    )
    for _ in range(2):
        work(run, config, ROWS[:2], [ROWS[2:]])
    assert heard(run) == 2 * [["add", ROWS[:2]], ["add", ROWS[2:]], ["close", "done"]]
    assert not (run.path / "sinks.json").exists()


def test_what_is_not_finite_is_null(run):
    run, config = run
    work(run, config, [], [[{"step": 1, "validation": {"a": float("nan")}}]])
    assert heard(run)[1] == ["add", [{"step": 1, "validation": {"a": None}}]]


def test_with_a_damaged_memory_it_begins_anew(run):
    run, config = run
    (run.path / "sinks.json").write_text("{")
    said = []
    work(run, config, ROWS, warn=said.append)
    assert heard(run)[:2] == [["begin", "small", None], ["add", ROWS]]
    assert len(said) == 1 and "sinks.json: damaged" in said[0]


def test_a_fault_of_the_config_is_told_before_anything_is_trained(tmp_path):
    with apart():
        (tmp_path / "own.py").write_text(OWN)
        (tmp_path / "small.yaml").write_text(CONFIG + "imports: [./own.py]\n")
        _, err = l2l(tmp_path, "train", "small.yaml", "--set", "sinks=[dairy, diary, diary]", code=2)
        assert err.splitlines() == [
            "--set sinks: sinks.0: unknown sink 'dairy'; did you mean 'diary'?", "--set sinks: sinks.2: 'diary' is there twice"
        ]  # fmt: skip
        _, err = l2l(tmp_path, "train", "small.yaml", "--set", "sinks=[elsewhere]", "--run-dir", "run", code=2)
        assert err == "sinks.0: elsewhere: nowhere_to_be_found is not installed\n"
        assert not (tmp_path / "run").exists()
        l2l(tmp_path, "config", "show", "small.yaml", "--set", "sinks=[elsewhere]")  # a mistake only where it is run


def test_an_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert source.missing("wandb") == "wandb is not installed: pip install 'l2lcli[wandb]'"


def test_an_installed_package_may_bring_one(tmp_path, monkeypatch):
    (tmp_path / "a_package_with_a_sink.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    point = importlib.metadata.EntryPoint("mine", "a_package_with_a_sink", "l2l.sinks")
    given = lambda group: [point] if group == "l2l.sinks" else []
    try:
        with apart(), monkeypatch.context() as patch:
            patch.setattr(importlib.metadata, "entry_points", given)
            plugins.take_entry_points.cache_clear()
            assert load({"sinks": ["diary"]}).sinks == ["diary"]
    finally:
        plugins.take_entry_points.cache_clear()
        sys.modules.pop("a_package_with_a_sink", None)
    with pytest.raises(ConfigError, match="unknown sink 'diary'"):
        load({"sinks": ["diary"]})


def test_the_one_of_the_documentation_works(tmp_path):
    page = (ROOT / "docs/guides/sinks.md").read_text(encoding="utf-8")
    (tmp_path / "own.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    with apart():
        config = load({"name": "small", "imports": [str(tmp_path / "own.py")], "sinks": ["diary"]})
        with rundir.create(tmp_path, "small", "", path=tmp_path / "run") as run:
            work(run, config, ROWS[:1], [ROWS[1:2]])
            work(run, config, ROWS[:1], [ROWS[1:]])
            assert heard(run) == ROWS


def test_nothing_is_imported_that_is_not_named():
    code = """
import sys
from l2lcli.config import load
from l2lcli.sinks import source
load({"sinks": ["wandb", "mlflow"]})
[source.missing(name) for name in source.known()]
print({"wandb", "mlflow", "tensorboardX", "jax"} & set(sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_broken_package_of_somebody_else_is_no_matter_where_no_sink_is_named(tmp_path, monkeypatch):
    def broken(group):
        if group == "l2l.sinks":
            raise plugins.PluginError(group)

    monkeypatch.setattr(plugins, "take_entry_points", broken)
    with rundir.create(tmp_path, "small", "", path=tmp_path / "run") as run:
        work(run, load({}), ROWS)
    with pytest.raises(plugins.PluginError, match=r"l2l\.sinks"):
        load({"sinks": ["dairy"]})
