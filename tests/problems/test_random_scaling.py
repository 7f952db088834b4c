"""A problem in random units against its definition, computed by NumPy; and what is evaluated is the problem as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2lcli import experiment, registry
from l2lcli.commands.compare import evaluate_experiment
from l2lcli.config import ConfigError, load
from l2lcli.evaluation.curves import curves
from l2lcli.inner.unroll import namespace
from l2lcli.meta.validation import validation
from l2lcli.problems.quadratic import QuadraticSpec

QUADRATIC = QuadraticSpec(dimension=4)
PLAIN = registry.problem.build(QUADRATIC, None)


def build(**given):
    return registry.problem.build(registry.problem.specs()["random_scaling"](of=QUADRATIC, **given), None)


def test_f_is_that_of_the_definition():
    problem = build(scale=2.0, convex=3)
    theta, task = problem.init(jax.random.key(0), ())
    (w, y), factors, target = jax.tree.map(np.asarray, task)
    batch = problem.batch(jax.random.key(1), task, ())
    at = {"of": {"theta": np.array([0.1, -2.0, 0.3, 5.0], np.float32)}, "convex": np.array([0.2, -9.0, 1.0], np.float32)}
    residual = w @ (factors["of"]["theta"] * at["of"]["theta"]) - y
    convex = np.minimum((factors["convex"] * at["convex"] - target) ** 2, 10)
    np.testing.assert_allclose(problem.loss(at, batch), residual @ residual + convex.mean(), rtol=1e-5)
    # It starts as the plain problem does, in its own units.
    start = PLAIN.init(jax.random.split(jax.random.key(0), 4)[0], ())[0]["theta"]
    np.testing.assert_allclose(theta["of"]["theta"] * factors["of"]["theta"], start, rtol=1e-6)
    assert not theta["convex"].any() and theta["convex"].shape == (3,)


def test_factors_are_drawn_evenly_in_the_logarithm_for_each_parameter_of_each_task():
    problem = build(scale=3.0, convex=20)
    keys = jax.random.split(jax.random.key(1), 2000)
    factors, targets = jax.jit(jax.vmap(lambda key: problem.init(key, ())[1][1:]))(keys)
    for found, scale in ((factors["of"]["theta"], 3), (factors["convex"], 1)):
        logs = np.log(found)
        assert -scale <= logs.min() < -0.99 * scale and 0.99 * scale < logs.max() <= scale
        np.testing.assert_allclose(logs.std(0), scale / 3**0.5, rtol=0.05)
        assert np.abs(np.corrcoef(logs.T) - np.eye(logs.shape[1])).max() < 0.12
    assert -1 <= targets.min() < -0.99 and 0.99 < targets.max() <= 1


def test_without_the_convex_function_and_in_the_same_units_it_is_the_problem():
    problem = build(scale=0.0, convex=0)
    theta, task = problem.init(jax.random.key(0), ())
    assert set(theta) == {"of"}
    batch = problem.batch(jax.random.key(1), task, ())
    assert problem.loss(theta, batch) == PLAIN.loss(theta["of"], batch[0])


def test_validation_and_evaluation_are_of_the_problem_as_it_is():
    spec = {"steps": 4, "seeds": 2, "tuning_seeds": 2, "baselines": [], "metrics_every": 4}
    config = load({"name": "x", "problem": {"kind": "random_scaling", "of": {"kind": "quadratic", "dimension": 4}},
                   "optimizer": {"kind": "sgd"}, "train": {"horizon": 20, "validation_seeds": 4}, "eval": spec})  # fmt: skip
    scaled = experiment.build(config)
    phi, root = {"log_learning_rate": jnp.log(0.01)}, jax.random.key(0)
    found = evaluate_experiment(scaled, phi).comparisons["x"].curves["sgd"]
    keys = jax.random.split(namespace(scaled.root, "evaluation"), 2)
    np.testing.assert_array_equal(found.losses, curves(PLAIN, scaled.optimizer, phi, keys, 4, 4).losses)
    losses = [validation(of, scaled.optimizer, config.train)(root, phi, ())[""] for of in (scaled.problem, PLAIN)]
    assert losses[0] == losses[1]


def test_an_optimizer_that_learns_where_theta_begins_is_refused():
    config = load({
        "problem": {"kind": "random_scaling", "of": {"kind": "quadratic"}}, "optimizer": {"kind": "lstm", "learn_start": True},
        "train": {"horizon": 20},
    })  # fmt: skip
    with pytest.raises(
        ConfigError, match="optimizer: it learns where theta begins, and random_scaling is evaluated on another"
    ):
        experiment.build(config)


def test_a_few_shot_problem_is_refused():
    with pytest.raises(ValueError, match=r"problem.of: a few-shot problem cannot be rescaled"):
        registry.problem.build(registry.problem.specs()["random_scaling"](of={"kind": "sinusoid"}), None)
