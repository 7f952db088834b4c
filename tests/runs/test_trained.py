"""Trained optimizers that last: files of older versions, of newer ones, of kinds that are not registered here."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import l2lcli
from l2lcli.config.specs import Config
from l2lcli.problems.classification import ClassificationSpec
from l2lcli.runs import trained
from l2lcli.runs.artefact import read_artefact, write_artefact
from l2lcli.runs.files import RunError
from tests.support import ROOT, assert_same
from tests.test_plugins import l2l

OLD = Path(__file__).parent.parent / "data_files/optimizer-0.1.npz"  # configs/digits.yaml, as version 0.1.0 wrote it
REFERENCE = ROOT / "runs/reference"
ALL = sorted([*REFERENCE.rglob("optimizer*.npz"), *trained.SHIPPED.glob("*.npz")])


def lstm_by_hand(phi, gradients):
    """Updates [T, N] of gradients [T, N], coordinate by coordinate in float64: the paper's two layers, log and sign, x 0.1."""
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    layers = [{name: np.float64(phi[f"lstm_{i}/{name}"]) for name in ("input", "recurrent", "bias")} for i in range(2)]
    updates = np.zeros(gradients.shape)
    for n in range(gradients.shape[1]):
        h, c = np.zeros((2, 20)), np.zeros((2, 20))
        for t, g in enumerate(gradients[:, n]):
            small = abs(g) < np.exp(-10)
            x = np.array([-1, g * np.exp(10)] if small else [np.log(abs(g)) / 10, np.sign(g)])
            for k, layer in enumerate(layers):
                i, f, z, o = np.split(layer["input"] @ x + layer["recurrent"] @ h[k] + layer["bias"], 4)
                c[k] = sigmoid(f + 1) * c[k] + sigmoid(i) * np.tanh(z)  # 1: the forget bias
                x = h[k] = sigmoid(o) * np.tanh(c[k])
            updates[t, n] = 0.1 * (phi["readout/kernel"] @ x + phi["readout/bias"])
    return updates


def test_an_old_file_applies_the_updates_that_its_numbers_say():
    gradients = np.array([[0.5, -1e-3, 0.0, 2e-5], [-0.3, -2e-3, 1.0, 0.0], [30.0, 1e-9, -1.0, 0.7]])
    with np.load(OLD) as phi:
        expected = lstm_by_hand(phi, gradients)
    tx, theta = l2lcli.load(OLD), jnp.zeros(4)
    state = tx.init(theta)
    for grad, update in zip(gradients, expected, strict=True):
        found, state = tx.update(jnp.asarray(grad, jnp.float32), state, theta)
        np.testing.assert_allclose(found, update, rtol=2e-4, atol=1e-7)
    assert np.abs(expected).min() > 1e-6


def test_an_old_files_config_is_completed_with_one_warning_that_names_the_keys():
    said = []
    config = trained.read(OLD).config(said.append)
    unknown = "unknown keys, left out: train.meta_optimizer.deflate, train.meta_optimizer.average"
    assert len(said) == 1 and said[0].startswith(f"warning: {OLD}: ") and unknown in said[0]
    assert "missing keys, at their defaults: imports, problem.grey, problem.init, problem.layer_norm" in said[0]
    assert "\n" not in said[0]
    assert config.imports == Config.model_fields["imports"].default == []
    fields = ClassificationSpec.model_fields
    assert (config.problem.init, config.problem.layer_norm) == (fields["init"].default, fields["layer_norm"].default)
    assert (config.train.episodes, config.train.meta_optimizer.clip, config.problem.hidden) == (200, 1.0, [20])


def test_a_file_that_lacks_a_key_alone_says_nothing(tmp_path):
    found = trained.read(OLD)
    record = found.config(lambda line: None).model_dump(mode="json")
    del record["problem"]["layer_norm"]
    write_artefact(tmp_path / "older.npz", found.phi, {"config": record})
    assert trained.read(tmp_path / "older.npz").config(pytest.fail).problem.layer_norm is False


def test_a_file_of_this_version_says_nothing(tmp_path):
    found = trained.read(OLD)
    record = found.config(lambda line: None).model_dump(mode="json")
    write_artefact(tmp_path / "new.npz", found.phi, {"config": record})
    assert trained.read(tmp_path / "new.npz").config(pytest.fail).model_dump(mode="json") == record


@pytest.mark.parametrize(
    ("section", "change", "said"),
    [
        ("optimizer", {"hidden": "many"}, "its optimizer is not one that this l2l knows: lstm.hidden: "),
        ("optimizer", {"gears": 5}, "its optimizer is not one that this l2l knows: lstm.gears: "),
        ("problem", {"hidden": 3}, None),
        ("problem", {"kind": "nothing"}, None),
        ("train", {"gears": 5}, None),
    ],
)
def test_applying_asks_for_the_optimizers_section_alone(tmp_path, section, change, said):
    phi, meta = read_artefact(OLD)
    meta["config"][section] |= change
    write_artefact(tmp_path / "a.npz", phi, meta)
    if said is None:
        return assert_same(trained.read(tmp_path / "a.npz").phi, phi)
    with pytest.raises(RunError) as caught:
        l2lcli.load(tmp_path / "a.npz")
    assert str(caught.value).startswith(f"{tmp_path / 'a.npz'}: {said}")


def test_a_value_that_is_none_here_is_said_where_the_config_is_used(tmp_path):
    phi, meta = read_artefact(OLD)
    meta["config"]["problem"]["activation"] = "cubic"
    write_artefact(tmp_path / "a.npz", phi, meta)
    with pytest.raises(RunError, match=r"a\.npz: .*problem\.activation: 'cubic' is not allowed here") as caught:
        trained.read(tmp_path / "a.npz").config(pytest.fail)
    assert "\n" not in str(caught.value)


def test_a_newer_format_is_one_line(tmp_path):
    with np.load(OLD) as old:
        arrays = dict(old)
    arrays["__meta__"] = np.array(json.dumps(json.loads(str(arrays["__meta__"])) | {"format": 2}))
    np.savez(tmp_path / "newer.npz", **arrays)
    with pytest.raises(RunError) as caught:
        l2lcli.load(tmp_path / "newer.npz")
    assert str(caught.value) == f"{tmp_path / 'newer.npz'}: format 2 is newer than this l2l knows (1); update l2l"
    _, err = l2l(tmp_path, "eval", "newer.npz", code=1)
    assert err == ["l2l: newer.npz: format 2 is newer than this l2l knows (1); update l2l"]


SENTINEL = "from pathlib import Path\nPath({!r}).write_text('imported')\n"


def test_an_unknown_kind_says_how_to_import_it_and_imports_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sentinel = tmp_path / "imported"
    Path("mine.py").write_text(SENTINEL.format(str(sentinel)))
    phi, meta = read_artefact(OLD)
    meta["config"] |= {"optimizer": {"kind": "lstn"}, "imports": ["mine.py", "imports/mine.py"]}
    write_artefact(Path("mine.npz"), phi, meta)
    with pytest.raises(RunError) as caught:
        l2lcli.load("mine.npz")
    said = str(caught.value)
    assert said.startswith(
        "mine.npz: no optimizer of kind 'lstn' is registered; did you mean 'lstm'?; import what registers it"
    )
    assert "--import FILE" in said and "l2lcli.import_file" in said and "\n" not in said
    assert not sentinel.exists()


def a_run_of_an_own_kind(folder, *copies, **changes):
    """A run directory whose optimizer is of the kind `mine`, or whose config has these changes, with these imported copies.

    The file that the copies write when they are imported.
    """
    (folder / "run/imports").mkdir(parents=True)
    for name in copies:
        (folder / "run/imports" / name).write_text(SENTINEL.format(str(folder / "imported")))
    (folder / "run/config.yaml").write_text(f"imports: [{', '.join(f'imports/{name}' for name in copies)}]\n")
    (folder / "run/status.json").write_text('{"state": "done"}')
    phi, meta = read_artefact(OLD)
    write_artefact(folder / "run/optimizer.npz", phi, {"config": meta["config"] | (changes or {"optimizer": {"kind": "mine"}})})
    return folder / "imported"


def test_of_a_run_it_names_the_copy_that_the_run_keeps(tmp_path):
    sentinel = a_run_of_an_own_kind(tmp_path, "mine.py")
    _, err = l2l(tmp_path, "eval", "run", code=1)
    assert len(err) == 1
    assert "no optimizer of kind 'mine' is registered" in err[0] and "--import run/imports/mine.py" in err[0]
    assert not sentinel.exists()


def test_of_a_run_on_a_data_set_of_ones_own_it_names_the_copy_too(tmp_path):
    sentinel = a_run_of_an_own_kind(tmp_path, "mine.py", problem={"kind": "classification", "dataset": "mine"})
    _, err = l2l(tmp_path, "eval", "run", code=1)
    assert len(err) == 1 and "unknown data set 'mine'; known: cifar10" in err[0] and "--import run/imports/mine.py" in err[0]
    assert not sentinel.exists()


def test_of_a_run_with_several_copies_it_names_them_all(tmp_path):
    sentinel = a_run_of_an_own_kind(tmp_path, "a_problem.py", "mine.py")
    _, err = l2l(tmp_path, "eval", "run", code=1)
    assert len(err) == 1
    assert all(f"--import run/imports/{name}" in err[0] for name in ("a_problem.py", "mine.py"))
    assert not sentinel.exists()


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_committed_optimizer_loads(path):
    found = trained.read(path)
    assert found.phi and all(np.isfinite(leaf).all() for leaf in found.phi.values())
    config = found.config(lambda line: None)
    assert config.optimizer == found.optimizer
    assert callable(l2lcli.load(path).update)


def test_what_is_shipped_is_what_the_reference_runs_ended_with():
    names = [path.stem for path in trained.SHIPPED.glob("*.npz")]
    assert len(names) >= 3
    for name in names:
        shipped, reference = (trained.read(path) for path in (trained.SHIPPED / f"{name}.npz", REFERENCE / name))
        assert_same(shipped.phi, reference.phi)
        assert shipped.optimizer == reference.optimizer
