"""`l2l export`: what it writes is read wherever an optimizer is named, and nothing is written over."""

import json
import re
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import yaml

import l2lcli
from l2lcli import config as configs
from l2lcli.commands.begin import begin
from l2lcli.reports import card
from l2lcli.runs import scores, trained
from l2lcli.runs.artefact import read_artefact, write_artefact
from tests.command_line import CONFIG, QUIET, l2l
from tests.support import assert_same, hidden

pytest.importorskip("safetensors", reason="the extra hf is not installed")

FORMATS = {"npz": ".npz", "safetensors": ".safetensors", "hf": "-hf"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with `quadratic` in every format."""
    folder = tmp_path_factory.mktemp("exported")
    for kind, ending in FORMATS.items():
        assert l2l(folder, "export", "quadratic", "--format", kind) == (f"quadratic{ending}\n", "")
    return folder


def test_the_file_is_that_of_the_package_bit_for_bit(exported):
    assert (exported / "quadratic.npz").read_bytes() == (trained.SHIPPED / "quadratic.npz").read_bytes()
    assert not hidden(exported)


@pytest.mark.parametrize("ending", FORMATS.values())
def test_all_that_was_written_is_the_same_optimizer(exported, ending):
    found, source = trained.read(exported / f"quadratic{ending}"), trained.read("quadratic")
    assert_same(found.phi, source.phi)
    assert (found.optimizer, found.record, found.about) == (source.optimizer, source.record, source.about)
    theta, grad = {"a": jnp.ones(3)}, {"a": jnp.array([0.1, -2.0, 0.0])}
    own, loaded = l2lcli.load("quadratic"), l2lcli.load(exported / f"quadratic{ending}")
    updates = [tx.update(grad, tx.init(theta), theta)[0]["a"] for tx in (own, loaded)]
    np.testing.assert_array_equal(*updates)


def test_the_folder_is_what_the_hub_expects(exported):
    folder = exported / "quadratic-hf"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    about = json.loads((folder / "config.json").read_text())
    assert (about["library_name"], about["model_type"], about["format"]) == ("l2lcli", "lstm", 1)
    assert about["optimizer"] == trained.read("quadratic").record["optimizer"]
    assert about["config"]["train"]["episodes"] == 1600 and about["step"] == 8000
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    front = yaml.safe_load(front)
    assert (front["library_name"], front["license"]) == ("l2lcli", "apache-2.0") and "learned-optimizer" in front["tags"]
    for said in ("# quadratic", 'l2lcli.load("quadratic-hf")', "from l2lcli.torch import", "numpy_lstm.py", "## Limits"):
        assert said in text
    assert "quadratic: 100 steps, 200 seeds" in text and "> lstm" in text  # its own problem's table
    assert "For 8,000 meta-steps (seed 0); it is where validation went best, with a meta-loss of 68.03. " in text
    assert "problem:\n  kind: quadratic\n  dimension: 10\n" in text and str(exported) not in text


def test_a_run_goes_to_all_and_comes_back_in_all(tmp_path):
    """An evaluation and a further training name it, too."""
    run, phi = tmp_path / "run", {"log_learning_rate": np.float32(-1)}
    run.mkdir()
    (run / "config.yaml").write_text(CONFIG)
    (run / "status.json").write_text('{"state": "done"}')
    config = configs.load(run / "config.yaml", ["optimizer={kind: sgd}"])
    write_artefact(run / "optimizer.npz", phi, {"config": config.model_dump(mode="json"), "step": 8, "validation_loss": 0.5})
    for kind, ending in FORMATS.items():
        assert l2l(tmp_path, "export", "run", "--format", kind)[0] == f"small{ending}\n"
    content = (run / "optimizer.npz").read_bytes()
    assert (tmp_path / "small.npz").read_bytes() == content
    assert l2l(tmp_path, "export", "small-hf", "--to", "back.npz")[0] == "back.npz\n"
    assert (tmp_path / "back.npz").read_bytes() == content
    for name in ("small.safetensors", "small-hf"):
        on = configs.override(config, {"train.init_from": str(tmp_path / name)})
        with begin(on, tmp_path / f"from-{name}", None, []).run as begun:
            assert (begun.path / "start.npz").read_bytes() == content
    out, err = l2l(tmp_path, "eval", "small-hf", "--steps", 4, "--seeds", 2, "--json", *QUIET)
    assert json.loads(out)["learned"] == "sgd_learned" and "warning" not in err


def test_where_data_lay_is_not_published(exported, tmp_path):
    phi, meta = read_artefact(exported / "quadratic.npz")
    meta["config"]["data"]["raw_dir"] = "/home/somebody/data"
    write_artefact(tmp_path / "mine.npz", phi, meta)
    l2l(tmp_path, "export", "mine.npz", "--format", "hf")
    assert not [path.name for path in (tmp_path / "mine-hf").iterdir() if b"somebody" in path.read_bytes()]
    l2l(tmp_path, "export", "mine.npz", "--format", "safetensors")
    assert trained.read(tmp_path / "mine.safetensors").record["data"]["raw_dir"] == "/home/somebody/data"


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_there_stays_unless_it_is_forced(tmp_path, kind):
    target = tmp_path / "there"
    if kind == "hf":
        target.mkdir()
        (target / ".gitattributes").write_text("mine")
    else:
        target.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    _, err = l2l(tmp_path, "export", "quadratic", "--format", kind, "--to", "there", code=1)
    assert err == "l2l: there is there already: nothing was written (--force replaces it)\n"
    assert sorted(tmp_path.rglob("*")) == before
    l2l(tmp_path, "export", "quadratic", "--format", kind, "--to", "there", "--force")
    if kind == "npz":  # whose ending says that it is one
        target = target.rename(tmp_path / "there.npz")
    if kind == "safetensors":
        target = target.rename(tmp_path / "there.safetensors")
    assert_same(trained.read(target).phi, trained.read("quadratic").phi)
    assert kind != "hf" or (target / ".gitattributes").read_text() == "mine"
    assert [path for path in hidden(tmp_path) if not path.endswith(".gitattributes")] == []


def test_faults_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for arguments, complaint in [
        (["nothing"], "none of that name is shipped"),
        (["quadratic", "--to", "no/where.npz"], "no/where.npz: No such file or directory"),
        (["quadratic", "--format", "hf", "--to", "no/where"], "no/where: No such file or directory"),
        (["quadratic", "--format", "hf", "--to", "file", "--force"], "Not a directory"),
        (["quadratic", "--to", "folder", "--force"], "folder: Is a directory"),
    ]:
        _, err = l2l(tmp_path, "export", *arguments, code=1)
        assert complaint in err and len(err.splitlines()) == 1
    l2l(tmp_path, "export", "quadratic", "--format", "pickle", code=2)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for kind in ("safetensors", "hf"):
        _, err = l2l(tmp_path, "export", "quadratic", "--format", kind, code=1)
        assert err.endswith("which is not installed: pip install 'l2lcli[hf]'\n") and len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_card_shows_what_was_lost_beside_what_was_won(monkeypatch, tmp_path):
    found = trained.read("general")
    kept = scores.of(found)
    assert [of["suite"][:8] for of in kept] == ["2920e877", "5dbaac26"]
    text = card.card("general", found, kept, None)
    (lost,) = [line for line in text.splitlines() if line.startswith("| **07")]
    assert lost.startswith("| **07-fashion-batch-8** | **lost** | **1.196** | **[1.054, 1.334]** | nag_cosine |")
    assert text.count("| won |") == 19 + 2 and "general wins 19 of 20 problems" in text
    assert "- It lost on 07-fashion-batch-8 (1.196)" in text
    small = trained.read("general-small")
    assert "- With as much time for the baselines it lost on 07-fashion-batch-8." in card.card(
        "small", small, scores.of(small), None
    )
    monkeypatch.chdir(tmp_path)  # another optimizer that somebody calls by that name has none of these
    write_artefact(tmp_path / "general.npz", *read_artefact(trained.SHIPPED / "general-small.npz"))
    assert "general wins" not in card.card("general", *(lambda one: (one, scores.of(one)))(trained.read("general.npz")), None)


def test_a_score_made_here_is_of_the_very_bytes(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/scores/mine-0123abcd"
    found = trained.read(exported / "quadratic.safetensors")
    score = {"suite": "0123abcd" + 56 * "0", "tasks": {}}
    for mark, there in ((found.mark, [score]), ("another", [])):
        scores.write_task(folder, "a", {"verdict": "won"}, None, mark)
        scores.write_score(folder, score)
        assert scores.of(found) == there


def test_a_file_that_says_no_more_than_what_it_is_has_a_card_too(tmp_path):
    phi, meta = read_artefact(trained.SHIPPED / "quadratic.npz")
    write_artefact(tmp_path / "bare.npz", phi, {"config": {"optimizer": meta["config"]["optimizer"]}})
    l2l(tmp_path, "export", "bare.npz", "--format", "hf")
    text = (tmp_path / "bare-hf/README.md").read_text()
    assert "Its file does not say." in text and "`l2l score bare-hf` makes one." in text
    assert_same(trained.read(tmp_path / "bare-hf").phi, phi)


def test_the_card_of_an_optimizer_that_has_learned_where_to_begin_says_how(tmp_path, monkeypatch):
    """Its lines of JAX, run as they stand there."""
    phi = {"rate": np.full(3, 0.5, np.float32), "start": np.array([1, -2, 3], np.float32)}
    write_artefact(tmp_path / "begun.npz", phi, {"config": {"optimizer": {"kind": "meta_sgd"}}})
    l2l(tmp_path, "export", "begun.npz", "--format", "hf")
    text = (tmp_path / "begun-hf/README.md").read_text()
    begun, lines = re.findall(r"`(params = l2lcli\.start\(.*?)`", text), re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    assert len(begun) == 1 and lines.count("state = tx.init(params)") == 1
    monkeypatch.chdir(tmp_path)
    names = {"params": {"w": jnp.zeros(3)}, "grads": {"w": jnp.array([1.0, 0.0, -1.0])}, "loss": jnp.float32(1)}
    exec(lines.replace("state = tx.init", f"{begun[0]}\nstate = tx.init"), names)
    np.testing.assert_allclose(names["params"]["w"], [0.5, -2.0, 3.5], rtol=1e-6)  # start - rate * gradient
