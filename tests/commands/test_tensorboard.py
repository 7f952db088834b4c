"""Event files say what metrics.jsonl says, no step twice, and never stand in a run's way."""

import sys
import types

import pytest

from l2lcli.commands.sinks import Sinks
from l2lcli.config import load
from l2lcli.runs.rundir import Run
from l2lcli.sinks._numbers import TAGS

ROWS = [
    {"step": 5, "episode": 1, "loss": 2.5, "grad_norm": None, "skipped": 0, "learning_rate": 0.01},
    {"step": 5, "episode": 1, "validation_loss": 1.5, "best": True},
    {"step": 10, "episode": 2, "loss": 2.0, "grad_norm": 0.5, "skipped": 1, "learning_rate": 0.005},
]
SAID = [
    ("meta-training/loss", 2.5, 5), ("meta-training/learning_rate", 0.01, 5), ("meta-training/skipped_updates", 0, 5),
    ("validation/loss", 1.5, 5), ("meta-training/loss", 2.0, 10), ("meta-training/gradient_norm", 0.5, 10),
    ("meta-training/learning_rate", 0.005, 10), ("meta-training/skipped_updates", 1, 10),
]  # fmt: skip


class Writer:
    """tensorboardX's writer, as far as it is used: a file a writer, a line a scalar."""

    count = 0

    def __init__(self, folder):
        from pathlib import Path

        Writer.count += 1
        self.path = Path(folder) / f"events.out.tfevents.{Writer.count}"
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text("")

    def add_scalar(self, tag, value, step):
        with self.path.open("a") as file:
            file.write(f"{(tag, value, step)}\n")

    def flush(self):
        pass

    close = flush


def said(folder):
    return [eval(line) for path in (folder / "tensorboard").iterdir() for line in path.read_text().splitlines()]


def told(folder, rows, later, warn=pytest.fail):
    """One process's work on a run whose metrics.jsonl has `rows`, and then the later ones too."""
    with Sinks(Run(folder), load({}), warn) as sinks:
        sinks.begin(rows)
        for some in later:
            sinks.add(some)


@pytest.fixture
def installed(monkeypatch):
    module = types.ModuleType("tensorboardX")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    return module


def test_a_run_that_is_gone_on_with_says_no_step_twice(tmp_path, installed):
    told(tmp_path, [], [ROWS[:2], []])
    assert said(tmp_path) == SAID[:4]
    (tmp_path / "tensorboard/mine.txt").write_text("")
    told(tmp_path, ROWS[:2], [ROWS[2:]])  # what a checkpoint kept, and what comes after it again
    assert said(tmp_path) == SAID
    assert (tmp_path / "tensorboard/mine.txt").exists()


def test_without_the_package_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    told(tmp_path, ROWS, [ROWS])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("broken", ["__init__", "add_scalar", "flush", "close"])
def test_what_goes_wrong_is_told_once_and_ends_nothing(tmp_path, installed, monkeypatch, broken):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(Writer, broken, fail)
    said = []
    told(tmp_path, ROWS, [ROWS], said.append)
    assert said == ["warning: sink tensorboard: is told nothing from here on: no space left"]


def test_tensorboard_reads_them(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is an extra: pip install l2lcli[tensorboard]")
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="tensorboard reads them")
    for rows in (ROWS[:0], ROWS[:2]):
        told(tmp_path, rows, [ROWS[len(rows) :]])
    read = loader.EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert set(read.Tags()["scalars"]) == set(TAGS.values())
    assert [(e.step, e.value) for e in read.Scalars("meta-training/loss")] == [(5, 2.5), (10, 2.0)]
