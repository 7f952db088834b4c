"""Networks that are drawn anew for each task, and the other problems of the suite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from l2lcli import registry
from l2lcli.problems._draws import Range, whole
from l2lcli.problems.classification import ClassificationSpec
from l2lcli.problems.networks import NetworksSpec, Normal, Rescaling

SPEC = NetworksSpec(
    pool=2, activation=["tanh", "relu"], depth=[1, 3], width=Range(uniform=[2.0, 5.0]), init=["lecun", Normal(normal=0.3)],
    batch_size=Range(log_uniform=[4.0, 9.0]), input_scale=Range(log_uniform=[0.5, 2.0]),
    rescaling=[Rescaling(), Rescaling(kind="tensor")],
)  # fmt: skip


def draw(problem, keys):
    """(theta, task, batch) of one task, compiled whole: op by op there would be more to compile."""

    @jax.jit
    def run(start, step, data):
        theta, task = problem.init(start, data)
        return theta, task, problem.batch(step, task, data)

    return run(*map(jax.random.key, keys), problem.data["train"])


@functools.cache
def compiled():
    """The problem, what draws from it, and its gradient, each compiled once."""
    problem = registry.problem.build(SPEC, None)
    some = jax.jit(problem.init), jax.jit(problem.batch)
    return problem, *some, jax.jit(jax.value_and_grad(problem.loss))


def drawn(seed):
    problem, init, batch, _ = compiled()
    theta, task = init(jax.random.key(seed), problem.data["train"])
    return problem, theta, task, batch(jax.random.key(100 + seed), task, problem.data["train"])


@pytest.mark.parametrize("seed", range(6))
def test_a_drawn_network_is_the_plain_one_of_its_own_size(seed):
    """Cut to its live units and written as a Flax network: the same loss, and no gradient anywhere else."""
    _, theta, task, batch = drawn(seed)
    depth, widths, size = int(task["depth"]), np.asarray(task["widths"]), int(task["batch_size"])
    act = [linen.tanh, linen.relu][int(task["activation"])]
    layers = [linen.Dense(int(w)) for w in widths[:depth]]
    network = linen.Sequential([f for layer in layers for f in (layer, act)] + [linen.Dense(10)])
    scales = np.asarray(task["scales"])
    live, before, places = {}, 16, [*range(depth), 3]
    for i, place in enumerate(places):
        after = 10 if place == 3 else int(widths[i])
        of = theta[f"layers_{place}"]
        live[f"layers_{2 * i}"] = {
            "kernel": of["kernel"][:before, :after] * scales[2 * place],
            "bias": of["bias"][:after] * scales[2 * place + 1],
        }
        before = after
    x = float(task["input_scale"]) * batch["image"][:size].reshape(size, -1) / 16.0
    logits = network.apply({"params": live}, x)
    expected = -jax.nn.log_softmax(logits)[jnp.arange(size), batch["label"][:size]].mean()
    value, grad = compiled()[-1](theta, batch)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    for i in range(3):
        kernel = np.array(grad[f"layers_{i}"]["kernel"])
        if i >= depth:
            assert not kernel.any()
        else:
            assert not kernel[:, int(widths[i]) :].any()
    if act is linen.tanh:  # two ReLUs may both be dead
        assert np.asarray(grad["layers_3"]["kernel"]).any()


def test_draws_cover_what_the_config_says_and_stand_beside_the_curves():
    problem = compiled()[0]
    tasks = [problem.describe(drawn(seed)[2]) for seed in range(12)]
    assert {int(t["depth"]) for t in tasks} == {1, 2, 3} and {int(t["activation"]) for t in tasks} == {0, 1}
    assert all(4 <= t["batch_size"] <= 9 and 0.5 <= t["input_scale"] <= 2 for t in tasks)
    assert all(t["width_2"] == 0 for t in tasks if t["depth"] < 3)
    numbers = np.asarray(jax.vmap(whole(Range(uniform=[1.0, 3.0])))(jax.random.split(jax.random.key(0), 3000)))
    assert np.bincount(numbers).tolist()[0] == 0 and (np.bincount(numbers)[1:] > 800).all()


def test_the_same_network_in_other_units():
    plain = registry.problem.build(ClassificationSpec(hidden=[3], init="lecun"), None)
    other = registry.problem.build(ClassificationSpec(hidden=[3], init="lecun", rescale=1.0), None)
    data = plain.data["train"]
    theta, task = other.init(jax.random.key(0), data)
    base, _ = plain.init(jax.random.split(jax.random.key(0))[0], data)
    same = other.units(theta, task)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), same, base)
    batch = other.batch(jax.random.key(1), task, data)
    np.testing.assert_allclose(other.loss(theta, batch), plain.loss(base, batch[0]), rtol=1e-5)
    slope = jax.tree.map(lambda g, s: g / s, jax.grad(other.loss)(theta, batch), task[1])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), slope, jax.grad(plain.loss)(base, batch[0])
    )


@pytest.mark.parametrize(
    "given", [{"depth": [3, 2]}, {"width": 0.0}, {"width": Range(uniform=[0.0, 4.0])}, {"batch_size": 0.5}], ids=str
)
def test_sizes_that_are_none_are_refused(given):
    with pytest.raises(ValueError, match=r"depth|width|batch_size"):
        NetworksSpec(**given)


@pytest.mark.parametrize(
    "given", [{}, {"uniform": [1.0, 2.0], "log_uniform": [1.0, 2.0]}, {"uniform": [2.0, 1.0]}, {"log_uniform": [0.0, 1.0]}]
)
def test_ranges_that_are_none_are_refused(given):
    with pytest.raises(ValueError, match=r"uniform|above|logarithm"):
        Range(**given)


SUITE = {
    "table": [{"table": "diabetes", "hidden": [4]}, {"table": "breast_cancer", "hidden": []}],
    "language": [{"network": "gru", "width": 8}, {"network": "transformer", "width": 8}],
    "autoencoder": [{"hidden": [4]}],
}


@pytest.mark.parametrize(("kind", "given"), [(kind, given) for kind, many in SUITE.items() for given in many])
def test_problems_of_the_suite_start_at_chance_and_can_be_learned(kind, given):
    problem = registry.problem.build(registry.problem.specs()[kind](**given), None)
    theta, _, batch = draw(problem, (0, 1))
    loss = jax.jit(jax.value_and_grad(problem.loss))
    value, grad = loss(theta, batch)
    norm = sum(np.vdot(g, g) for g in jax.tree.leaves(grad))
    lower, _ = loss(jax.tree.map(lambda p, g: p - 0.02 * value / norm * g, theta, grad), batch)
    np.testing.assert_allclose(value - lower, 0.02 * value, rtol=0.3)  # what the gradient promises
    found = jax.jit(problem.metrics)(theta, problem.data["test"])
    assert all(np.isfinite(leaf) for leaf in found.values())
