"""A reference result is small, draws what the run draws, and says nothing of the machine's folders."""

import json
import shutil

import numpy as np
import pytest

from l2lcli import config
from l2lcli.evaluation import statistics
from l2lcli.reports import curves, page, reference, tables
from l2lcli.runs import trained
from l2lcli.runs.artefact import read_artefact, write_artefact
from l2lcli.runs.files import RunError
from tests.support import finished

PHI = {"lstm_0/bias": np.arange(4, dtype=np.float32) / 3}


@pytest.fixture
def run(tmp_path):
    return made(tmp_path / "runs" / "digits" / "20260101-120000-abcd")


def made(folder, seed=0, **rest):
    folder.mkdir(parents=True)
    finished(folder, **rest)
    whole = config.override(config.config_class()(), {"name": "digits", "seed": seed, "data.raw_dir": "/srv/raw"})
    (folder / "config.yaml").write_text(config.dump(whole))
    (folder / "status.json").write_text('{"state": "done", "train_seconds": 83.4}')
    write_artefact(folder / "optimizer.npz", PHI, {"config": whole.model_dump(mode="json"), "step": 3})
    return folder


def test_what_is_kept(run, tmp_path):
    place = reference.save(run, tmp_path / "reference")
    files = {path.relative_to(place).as_posix(): path for path in place.rglob("*") if path.is_file()}
    stems = ("meta_training", "loss_steps", "loss_seconds", "generalisation")
    assert set(files) == {
        "config.yaml", "summary.json", "env.json", "optimizer.npz", "metrics.jsonl.xz", "curves/digits.csv.xz",
        "curves/relu.csv.xz", *(f"figures/{stem}.png" for stem in stems),
    }  # fmt: skip
    env = json.loads(files["env.json"].read_text())
    assert env["train_seconds"] == 83 and "argv" not in env
    assert not [name for name, path in files.items() if b"/srv" in path.read_bytes() or b"/opt" in path.read_bytes()]
    phi, meta = read_artefact(files["optimizer.npz"])
    np.testing.assert_array_equal(phi["lstm_0/bias"], PHI["lstm_0/bias"])
    assert meta["config"]["data"] == {"raw_dir": None} and meta["step"] == 3
    assert tables.read_summary(place) == tables.read_summary(run)
    want, got = (curves.of(folder, "digits") for folder in (run, place))
    assert list(got) == list(want)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=6e-4)
    variant, whole = curves.of(place, "relu")["adam"], curves.of(run, "relu")["adam"]
    np.testing.assert_allclose(variant[:, ::2], whole[:, ::2], rtol=6e-4)  # 51 of 101 steps
    np.testing.assert_allclose(variant[:, 1], (variant[:, 0] + variant[:, 2]) / 2)
    rows = [tables.read_metrics(folder / "metrics.jsonl") for folder in (run, place)]
    assert [row["step"] for row in rows[1]] == [row["step"] for row in rows[0]]
    np.testing.assert_allclose(rows[1][0]["loss"], rows[0][0]["loss"], rtol=1e-6)
    before = {path: path.read_bytes() for path in (place / "figures").iterdir()}
    assert page.redraw(place) == sorted(before)
    assert {path: path.read_bytes() for path in before} == before


def test_other_seeds_lie_beside_and_the_same_one_is_replaced(run, tmp_path):
    root = tmp_path / "reference"
    assert reference.save(run, root) == root / "digits"
    second = made(tmp_path / "second", seed=7, variants=(), seeds=2, steps=4)
    assert reference.save(second, root) == root / "digits" / "seed-7"
    assert reference.save(made(tmp_path / "third", variants=(), seeds=2, steps=4), root) == root / "digits"
    assert {path.name for path in (root / "digits/curves").iterdir()} == {"digits.csv.xz"}
    assert (root / "digits/seed-7/optimizer.npz").is_file() and not (root / "digits/seed-7/figures").exists()


def test_a_run_names_the_seed_that_it_started_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root, first, second = tmp_path / "runs/reference", made(tmp_path / "first"), made(tmp_path / "second", seed=7)
    for folder in (first, second):
        reference.save(folder, root)
    third = made(tmp_path / "third", seed=8)
    shutil.copyfile(second / "optimizer.npz", third / "start.npz")
    name = config.load(reference.save(third, root) / "config.yaml").train.init_from
    assert name == "digits/seed-7" and trained.read(name).record["seed"] == 7
    write_artefact(third / "start.npz", {"lstm_0/bias": PHI["lstm_0/bias"] + 1}, read_artefact(third / "start.npz")[1])
    with pytest.raises(RunError, match=r"started from is not that of .*digits/seed-7: keep that run's result first"):
        reference.save(third, root)
    with pytest.raises(RunError, match=r"digits/seed-9: no such"):
        trained.read("digits/seed-9")


def test_what_cannot_be_kept_is_one_line_and_leaves_what_was_there(run, tmp_path, monkeypatch):
    root = tmp_path / "reference"
    place = reference.save(run, root)
    before = (place / "summary.json").read_bytes()
    monkeypatch.setattr(reference, "LARGEST", 50_000)
    with pytest.raises(RunError, match=r"[\d,]+ bytes as a reference result, more than 50,000: curves/digits.csv.xz [\d,]+, "):
        reference.save(run, root)
    monkeypatch.undo()
    (run / "optimizer.npz").unlink()
    with pytest.raises(RunError, match=r"holds no optimizer, and .* does"):
        reference.save(run, root)
    (run / "summary.json").unlink()
    with pytest.raises(RunError, match="has not been evaluated"):
        reference.save(run, root)
    assert (place / "summary.json").read_bytes() == before and (place / "optimizer.npz").is_file()


def test_damaged_packed_files_are_one_line(run, tmp_path):
    place = reference.save(run, tmp_path / "reference")
    for name, read in (("curves/digits.csv.xz", curves.read), ("metrics.jsonl.xz", None)):
        content = (place / name).read_bytes()
        for wrong in (content[:-20], b"x" + content[1:]):
            (place / name).write_bytes(wrong)
            with pytest.raises(RunError, match=rf"{name}:?\d*: damaged: [^\n]+$"):
                read(place / name) if read else tables.read_metrics(place / "metrics.jsonl")
    rows = "".join(f"adam,{seed},{step},1.0\n" for seed in range(3) for step in (0, 10**7))
    (tmp_path / "x.csv").write_text(f"optimizer,seed,step,loss\n{rows}")
    with pytest.raises(RunError, match="damaged"):
        curves.read(tmp_path / "x.csv")


def test_packed_curves_of_long_runs_keep_their_first_decades(tmp_path):
    losses = 1 / (1 + np.arange(10_001.0))[None]
    (tmp_path / "x.csv.xz").write_bytes(curves.packed({"adam": losses}, 101))
    np.testing.assert_allclose(curves.read(tmp_path / "x.csv.xz")["adam"], losses, rtol=0.03)


def test_packed_curves_have_the_same_final_loss(tmp_path):
    losses = np.random.default_rng(0).uniform(1, 2, (3, 2001)).round(3)
    (tmp_path / "x.csv.xz").write_bytes(curves.packed({"adam": losses}, 51))
    np.testing.assert_allclose(
        statistics.final(curves.read(tmp_path / "x.csv.xz")["adam"], True), statistics.final(losses, True)
    )


def test_packed_curves_keep_what_diverged(tmp_path):
    losses = np.array([[1.0, 2.0, np.inf, np.nan, 5.0], [1.0, 2, 3, 4, 5]])
    (tmp_path / "x.csv.xz").write_bytes(curves.packed({"adam": losses}, 5))
    found = curves.read(tmp_path / "x.csv.xz")["adam"]
    np.testing.assert_array_equal(found, losses)
    assert json.dumps(found[1].tolist()) == "[1.0, 2.0, 3.0, 4.0, 5.0]"
