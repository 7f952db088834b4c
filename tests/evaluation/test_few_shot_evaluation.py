"""Few-shot evaluation against loops written out: the same episodes for all, choices on others, baselines, gates."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from l2lcli import experiment, registry
from l2lcli.base import Objective
from l2lcli.config import ConfigError, load
from l2lcli.evaluation import few_shot, gates
from l2lcli.inner.unroll import namespace
from l2lcli.optimizers.hand import hand
from l2lcli.signals import UNWATCHED
from tests.data.test_image_folder import folders
from tests.problems.test_few_shot import build
from tests.support import ROOT as REPOSITORY

SINUSOID = registry.problem.build(registry.problem.specs()["sinusoid"](shots=5, queries=4, hidden=[6]), None)
ROOT = jax.random.key(3)


def rate(value):
    return {"log_learning_rate": jnp.log(jnp.float32(value))}


def test_episodes_are_judged_on_their_query_after_every_update():
    keys = jax.random.split(ROOT, 3)
    losses, metrics = few_shot.judge(SINUSOID, hand("sgd"), 2, UNWATCHED)(rate(0.1), keys, "test")
    assert losses.shape == (3, 3)
    np.testing.assert_array_equal(losses, metrics["mse"])
    for key, found in zip(keys, losses, strict=True):
        theta, task = SINUSOID.init(jax.random.split(key)[0], ())
        for u in range(3):
            np.testing.assert_allclose(found[u], SINUSOID.loss(theta, task["query"]), rtol=1e-5)
            theta = jax.tree.map(lambda x, g: x - 0.1 * g, theta, jax.grad(SINUSOID.loss)(theta, task["support"]))


def test_dispatches_are_filled_up_and_cut(monkeypatch):
    monkeypatch.setattr(few_shot, "DISPATCH", 4)
    polled = []
    watched = SimpleNamespace(check=lambda: polled.append(1))
    found = few_shot._dispatched(lambda phi, keys, data: phi * keys + data, 2, np.arange(10), 1, watched)
    assert found.tolist() == list(range(1, 21, 2)) and len(polled) == 3


def test_the_nearest_neighbour_is_that_of_a_loop():
    keys = jax.random.split(ROOT, 4)
    found = few_shot.nearest(SINUSOID, "test", UNWATCHED)(None, keys)["mse"]
    assert found.shape == (4, 1)
    for key, error in zip(keys, found[:, 0], strict=True):
        task = jax.tree.map(np.float64, SINUSOID.init(jax.random.split(key)[0], ())[1])
        (x, y), (asked, wanted) = ((task[part]["x"][:, 0], task[part]["y"][:, 0]) for part in ("support", "query"))
        answers = [y[np.argmin(np.abs(x - each))] for each in asked]
        assert error == pytest.approx(np.mean((answers - wanted) ** 2), rel=1e-5)
    label = lambda *labels: {"label": jnp.array(labels)}
    copied = build().joint.copied(label(0, 1, 2), label(0, 0, 1, 2), jnp.array([0, 1, 1, 0]))
    assert copied == {"accuracy": 0.5}


@pytest.mark.parametrize("problem", [build(), SINUSOID], ids=["episodes", "sinusoid"])
def test_the_joint_network_lends_its_trunk_and_its_features(problem):
    joint = problem.joint
    before, _ = joint.problem.init(namespace(ROOT, "joint"), joint.problem.data["train"])
    theta, task = problem.init(jax.random.key(1), problem.data["test"])
    trained = few_shot.joint_theta(problem, namespace(ROOT, "joint"), 1, UNWATCHED)  # 20 steps: a dispatch
    batch = joint.problem.batch(jax.random.key(2), (), joint.problem.data["train"])
    assert joint.problem.loss(trained, batch) < joint.problem.loss(before, batch)
    start = joint.start(trained, theta)
    assert jax.tree.map(jnp.shape, start) == jax.tree.map(jnp.shape, theta)
    first, last = sorted(theta)[0], sorted(theta)[-1]
    np.testing.assert_array_equal(start[first]["kernel"], trained[first]["kernel"])
    support = problem.batch(jax.random.key(0), task, problem.data["test"])
    features = joint.features(trained, support)
    raw = joint.features(None, support)
    assert raw.ndim == features.ndim == 2 and len(raw) == len(features)
    # Features are what the last layer reads, so with it they are the network.
    outputs = features @ trained[last]["kernel"] + trained[last]["bias"][None]
    assert outputs.shape == (len(raw), len(trained[last]["bias"]))
    if problem is SINUSOID:
        np.testing.assert_allclose(jnp.mean((outputs - support["y"]) ** 2), problem.loss(trained, support), rtol=1e-5)
    else:
        np.testing.assert_array_equal(start[last]["kernel"], theta[last]["kernel"])
        labels = np.asarray(batch["label"])
        assert set(labels) == set(range(5))
        image = np.asarray(batch["image"], int)
        assert (image[:, 0, 0] == labels).all()  # the pixel that says the class


def test_tuning_takes_the_best_rate_and_number_of_updates_and_extends_the_grid():
    asked = []

    def measure(value):
        asked.append(value)
        return np.array([3.0, abs(np.log10(value) - 2.5) + 1, np.nan, abs(np.log10(value) - 2.5) + 2])

    assert few_shot.tune("mse", measure) == (pytest.approx(10**2.5), 1)
    assert max(asked) == pytest.approx(1000.0) and len(asked) == len(set(asked)) == 9 + 4
    assert few_shot.best("accuracy", np.array([0.1, 0.5, np.nan, 0.5])) == 1
    assert few_shot.best("mse", np.array([0.4, 0.1, 0.2])) == 1


def test_every_family_is_compared_on_the_same_episodes():
    family = registry.optimizer.build(registry.optimizer.specs()["maml"](learning_rate=0.05))
    phi = family.init(None, SINUSOID.init(jax.random.key(0), ())[0])
    found = few_shot.compare(
        SINUSOID, "s", ("maml", family, phi), ["finetune", "nearest_neighbour"], ROOT,
        updates=3, episodes=12, tuning_seeds=4, joint_steps=20,
    )  # fmt: skip
    table, summary = found.summary.few_shot, found.summary
    assert list(table) == ["finetune", "nearest_neighbour", "nearest_neighbour_features", "maml"]
    assert set(summary.optimizers) == {"finetune", "maml"} and summary.learned == "maml"
    for name, entry in table.items():
        values = found.curves[name].metrics["mse"]
        assert entry.metric == "mse" and entry.episodes == len(values) == 12
        np.testing.assert_allclose(entry.mean, values.mean(0))
        np.testing.assert_allclose(entry.ci, 1.96 * values.std(0, ddof=1) / 12**0.5)
        assert entry.updates == ([0] if "nearest" in name else [0, 1, 2, 3])
        assert entry.chosen in entry.updates
    keys = jax.random.split(namespace(ROOT, "evaluation"), 12)
    again = few_shot.judge(SINUSOID, family, 3, UNWATCHED)(phi, keys, "test")[1]["mse"]
    np.testing.assert_array_equal(again, found.curves["maml"].metrics["mse"])
    assert table["finetune"].learning_rate > 0 and table["maml"].learning_rate is None


def test_gates_are_those_of_the_state_by_layer():
    family = registry.optimizer.build(registry.optimizer.specs()["lstm_gd_v1"]())
    theta = SINUSOID.init(jax.random.key(0), ())[0]
    phi = family.init(jax.random.key(1), theta)
    phi["input"]["kernel"] = 100 * phi["input"]["kernel"]
    rows = gates.record(SINUSOID, family, phi, ROOT, 2, "test")
    assert [len({row[i] for row in rows}) for i in range(4)] == [2, 2, gates.EPISODES, 2]
    assert all(0 < low <= high < 1 for *_, low, high in rows)
    vector = ravel_pytree(theta)[0]
    for layer, at in gates.places(theta).items():
        np.testing.assert_array_equal(np.sort(vector[at]), np.sort(ravel_pytree(theta[layer])[0]))


def test_finetune_is_refused_where_there_are_no_episodes(tmp_path):
    (tmp_path / "c.yaml").write_text("problem: {kind: quadratic}\neval: {baselines: [finetune]}\n")
    with pytest.raises(ConfigError, match="finetune is for few-shot problems, which quadratic is not"):
        load(tmp_path / "c.yaml")


def test_the_published_protocol_runs_on_a_folder_of_images(home, tmp_path):
    """configs/miniimagenet-5way-1shot.yaml, made small: a meta-gradient, and episodes judged."""
    root = folders(tmp_path / "images")
    small = {
        "problem.folder": str(root), "problem.ways": 2, "problem.queries": 3, "problem.size": 8,
        "problem.learner": "{kind: conv, filters: 2, blocks: 2}", "optimizer.hidden": 2,
        "train.horizon": 2, "train.estimator.window": 2, "data.raw_dir": str(tmp_path),
    }  # fmt: skip
    path = REPOSITORY / "configs" / "miniimagenet-5way-1shot.yaml"
    made = experiment.build(load(path, [f"{key}={value}" for key, value in small.items()]))
    phi = made.phi()
    estimator = registry.estimator.build(made.config.train.estimator, made.problem, made.optimizer, 1, Objective((0.0, 1.0)), 1)
    data = made.problem.data["train"]
    state = jax.jit(estimator.init)(ROOT, phi, data)
    found, _ = jax.jit(estimator.estimate)(ROOT, phi, data, state)
    assert np.isfinite(found.loss) and all(np.isfinite(g).all() for g in jax.tree.leaves(found.grad))
    assert np.abs(found.grad["start"]).max() > 0
    losses, metrics = few_shot.judge(made.problem, made.optimizer, 2, UNWATCHED)(phi, jax.random.split(ROOT, 2), "test")
    assert np.isfinite(losses).all() and ((metrics["accuracy"] >= 0) & (metrics["accuracy"] <= 1)).all()
