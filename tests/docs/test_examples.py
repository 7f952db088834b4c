"""The examples of the documentation work as they lie there: config, check, a meta-gradient, an optimizee."""

import contextlib
import hashlib
import sys

import jax
import numpy as np
import pytest
from flax import nnx
from sklearn.linear_model import LogisticRegression

import l2lcli
from l2lcli import config, registry
from l2lcli.experiment import build
from tests.support import ROOT
from tests.test_plugins import apart

EXAMPLES = ROOT / "docs/examples"
BY_HAND = "art_features"  # trains the shipped features for minutes; its YAML is no experiment
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/*.yaml") if path.parent.name != BY_HAND)
STEPS = 40
SMALL = ["optimizer={kind: adam, learning_rate: 0.03}", "train.tasks=1", f"train.horizon={STEPS}"]
SMALL += [f"train.estimator.window={STEPS}"]
KEY = jax.random.key(0)


@pytest.fixture(scope="module", params=NAMES)
def example(request):
    """(name, its experiment at a small size, its module)."""
    with apart(), contextlib.chdir(EXAMPLES / request.param):
        built = build(config.load(f"{request.param}.yaml", SMALL))
        (module,) = (sys.modules[name] for name in sys.modules if name.startswith(f"l2l_{request.param}_"))
        yield request.param, built, module


def a_problem(name, **keys):
    with contextlib.chdir(EXAMPLES / name):
        return registry.problem.build(config.load(f"{name}.yaml", [f"problem.{k}={v}" for k, v in keys.items()]).problem, None)


@pytest.fixture
def alone():
    with apart():
        yield


def test_there_are_three_and_each_is_a_file_and_a_config():
    assert NAMES == ["logistic_regression", "nnx_cnn", "transformer"]
    for name in NAMES:
        files = {path.name for path in (EXAMPLES / name).iterdir() if path.is_file()}
        assert files - {"optimization.txt"} == {f"{name}.py", f"{name}.yaml"}


def test_nothing_is_wrong_with_it(example):
    assert l2lcli.check_problem(example[1].problem, KEY) == ([], [])


def test_it_has_a_meta_gradient_and_its_optimizee_learns(example):
    """With Adam, whose rate is what the meta-gradient is of: what is to be learned can be."""
    name, built, _ = example
    spec, data, test = built.config.train, built.problem.data["train"], built.problem.data["test"]
    estimator = registry.estimator.build(spec.estimator, built.problem, built.optimizer, spec.tasks, spec.objective, 1)
    phi = built.phi()

    @jax.jit
    def run(phi, data):
        start = estimator.init(KEY, phi, data)
        estimate, end = estimator.estimate(KEY, phi, data, start)
        return start.theta, estimate, end.theta

    start, estimate, end = run(phi, data)
    (slope,) = jax.tree.leaves(estimate.grad)
    assert np.isfinite(slope) and slope != 0
    np.testing.assert_allclose(estimate.loss, estimate.losses.sum(), rtol=1e-4)
    assert estimate.losses[-5:].mean() < 0.8 * estimate.losses[0], name
    if name != "logistic_regression":  # one class is as likely as another at the start
        classes = {"nnx_cnn": 10, "transformer": letters().max() + 1}[name]
        assert estimate.losses[0] == pytest.approx(np.log(classes), rel=0.1)
    measure = jax.jit(lambda theta: built.problem.metrics(jax.tree.map(lambda leaf: leaf[0], theta), test)["accuracy"])
    assert measure(end) > measure(start) + 0.1


def test_its_splits_share_nothing(example):
    _, built, _ = example
    train, test = (built.problem.data[split] for split in ("train", "test"))
    if not isinstance(train, dict):  # the text: its end is held out
        return np.testing.assert_array_equal(np.r_[train, test.ravel()], letters()[: train.size + test.size])
    key = "image" if "image" in train else "x"
    rows = [np.asarray(part[key]).reshape(len(part[key]), -1) for part in (train, test)]
    assert not {row.tobytes() for row in rows[0]} & {row.tobytes() for row in rows[1]}


def letters():
    text = (EXAMPLES / "transformer/optimization.txt").read_text()
    alphabet = sorted(set(text))
    return np.array([alphabet.index(letter) for letter in text])


def test_logistic_regression_has_the_minimum_that_scikit_learn_finds(alone):
    problem, decay = a_problem("logistic_regression", decay=0.01), 0.01
    data = {key: np.asarray(leaf) for key, leaf in problem.data["train"].items()}
    fitted = LogisticRegression(C=1 / (decay * len(data["y"])), tol=1e-8, max_iter=1000).fit(data["x"], data["y"])
    theta = {"weights": np.float32(fitted.coef_[0]), "bias": np.float32(fitted.intercept_[0])}
    loss, slope = jax.jit(jax.value_and_grad(problem.loss))(theta, data)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(slope)) < 1e-4
    margins = np.float64(data["x"] @ fitted.coef_[0] + fitted.intercept_[0]) * np.where(data["y"] > 0.5, 1, -1)
    value = np.log1p(np.exp(-margins)).mean() + 0.5 * decay * (fitted.coef_**2).sum()
    np.testing.assert_allclose(loss, value, rtol=1e-5)
    test = {key: np.asarray(leaf) for key, leaf in problem.data["test"].items()}
    assert problem.metrics(theta, test)["accuracy"] == pytest.approx(fitted.score(test["x"], test["y"]), abs=1e-6)
    np.testing.assert_allclose(data["x"].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(data["x"].std(0), 1, rtol=1e-4)


def test_the_nnx_networks_loss_is_that_of_the_object(example):
    name, built, module = example
    if name != "nnx_cnn":
        return
    batch = {key: leaf[:30] for key, leaf in built.problem.data["test"].items()}

    @jax.jit
    def both(key):
        cnn = module.Cnn(built.config.problem.channels, nnx.Rngs(key))
        return built.problem.loss(nnx.to_pure_dict(nnx.state(cnn)), batch), cnn(batch["image"])

    loss, logits = jax.tree.map(np.float64, both(KEY))
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(loss, -log_p[np.arange(30), batch["label"]].mean(), rtol=1e-5)


def test_the_transformer_sees_no_character_that_is_still_to_come(example):
    name, built, module = example
    if name != "transformer":
        return
    theta, _ = jax.jit(built.problem.init)(KEY, built.problem.data["train"])
    passages = np.array(built.problem.data["test"][[0, 0, 0], :-1])
    passages[1, 7:] += 1
    passages[2, 3] += 1
    first, later, earlier = jax.jit(lambda theta: module.logits(theta, passages, built.config.problem.heads)[:, 6])(theta)
    np.testing.assert_allclose(later, first, rtol=1e-5)
    assert not np.allclose(earlier, first, rtol=1e-3)


def test_the_transformer_says_what_it_read(example):
    name, built, _ = example
    if name == "transformer":
        content = (EXAMPLES / "transformer/optimization.txt").read_bytes()
        assert 10_000 < len(content) < 30_000
        assert built.problem.provenance == {"optimization.txt": hashlib.sha256(content).hexdigest()[:16]}
