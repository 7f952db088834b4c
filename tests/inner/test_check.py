"""What is wrong with a problem is said in words: each fault on its own, in a problem that has no other."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l2lcli
from l2lcli import Problem, registry

KEY = jax.random.key(0)


def init(key, data):
    return {"x": jax.random.normal(key, (3,)), "y": jnp.ones(())}, ()


def batch(key, task, data):
    return jax.random.normal(key, (2, 3))


def loss(theta, batch):
    return jnp.mean((batch @ theta["x"] - theta["y"]) ** 2)


GOOD = Problem(init, batch, loss, {"train": ()}, minibatch=True)


def fails(*_):
    raise ValueError("out of coffee\nand of tea")


def branches(theta, batch):
    return jnp.mean(theta["x"]) if theta["y"] > 0 else jnp.zeros(())


def growing():
    """A batch that has a row more each time."""
    rows = itertools.count(1)
    return lambda key, task, data: jax.random.normal(key, (next(rows), 3))


def narrowing():
    """A batch whose numbers are of another type each time."""
    dtypes = itertools.cycle([jnp.float32, jnp.float16])
    return lambda key, task, data: jnp.ones((2, 3), next(dtypes))


def as_drawn(key, task, data):
    return jnp.ones((jax.random.randint(key, (), 1, 5), 3))


def starting(theta):
    return GOOD._replace(init=lambda key, data: (theta, ()))


def judged(loss):
    return GOOD._replace(loss=loss)


WRONG = {
    "no problem": (None, "must return an l2lcli.Problem, and returned NoneType"),
    "no split train": (GOOD._replace(data={"test": ()}), "data has no split 'train' (it has test)"),
    "no split": (GOOD._replace(data={}), "data has no split 'train' (it has none)"),
    "data without splits": (GOOD._replace(data=(jnp.ones(3), jnp.ones(3))), "no split 'train'"),
    "init gives theta alone": (GOOD._replace(init=lambda key, data: init(key, data)[0]), "init must return a pair"),
    "init gives three": (GOOD._replace(init=lambda key, data: (*init(key, data), 1.0)), "init must return a pair"),
    "theta is empty": (starting({}), "theta_0 has no arrays"),
    "theta is whole": (starting({"x": jnp.arange(3), "y": jnp.ones(())}), "theta_0 must be arrays of floats; x is int32"),
    "theta is true": (starting(jnp.ones(3, bool)), "theta_0 must be arrays of floats; theta is bool"),
    "batch grows": (GOOD._replace(batch=growing()), "batch gives arrays of other shapes each time"),
    "batch changes type": (GOOD._replace(batch=narrowing()), "batch gives arrays of other shapes each time"),
    "batch of a drawn size": (GOOD._replace(batch=as_drawn), "batch cannot be compiled: it branches, or chooses a shape"),
    "loss is a vector": (judged(lambda theta, batch: batch @ theta["x"]), "must be a scalar, and has shape [2]: take the mean"),
    "loss is a pair": (judged(lambda theta, batch: (loss(theta, batch), {})), "the loss must be a number, and is tuple"),
    "loss is nothing": (judged(lambda theta, batch: None), "the loss must be a number, and is NoneType"),
    "loss is whole": (judged(lambda theta, batch: jnp.sum(theta["x"] > 0)), "the loss must be a float, and is int32"),
    "loss is infinite": (judged(lambda theta, batch: theta["y"] / 0), "the loss is inf at the start"),
    "loss is no number": (judged(lambda theta, batch: jnp.log(-theta["y"])), "the loss is nan at the start"),
    "gradient is infinite": (
        judged(lambda theta, batch: jnp.sqrt(theta["y"] - 1) + theta["x"].sum()),
        "the gradient is not finite at the start, in y: a root or logarithm of 0",
    ),
    "gradient is no number": (  # at y = 1 the branch that is not taken has slope inf, times 0
        judged(lambda theta, batch: jnp.where(theta["y"] > 1, jnp.sqrt(theta["y"] - 1), 0.0) + theta["x"].sum()),
        "the gradient is not finite at the start, in y",
    ),
    "init raises": (GOOD._replace(init=fails), "init fails: ValueError: out of coffee"),
    "batch raises": (GOOD._replace(batch=fails), "batch fails: ValueError: out of coffee"),
    "loss raises": (judged(fails), "loss fails: ValueError: out of coffee"),
    "loss does not fit": (judged(lambda theta, batch: loss(theta, batch.T)), "loss fails: TypeError: "),
    "loss branches": (judged(branches), "loss cannot be compiled: it branches"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_one_line(what):
    problem, said = WRONG[what]
    wrong, odd = l2lcli.check_problem(problem, KEY)
    assert len(wrong) == 1 and said in wrong[0] and "\n" not in wrong[0]
    assert odd == []


ODD = {
    "init ignores its key": (
        Problem(lambda key, data: (jnp.ones(3), ()), lambda key, task, data: task, lambda x, _: jnp.sum(x * x), {"train": ()}),
        "init gives the same theta_0 and task for every key",
    ),
    "loss ignores theta": (judged(lambda theta, batch: jnp.mean(batch)), "the gradient is 0 at the start"),
}


@pytest.mark.parametrize("what", ODD)
def test_what_is_odd_may_be_meant_so(what):
    problem, said = ODD[what]
    wrong, odd = l2lcli.check_problem(problem, KEY)
    assert wrong == []
    assert len(odd) == 1 and said in odd[0]


FINE = {
    "minibatches": GOOD,
    "one start, and minibatches": starting({"x": jnp.zeros(3), "y": jnp.ones(())}),
    "one start, and tasks": Problem(
        lambda key, data: (jnp.ones(3), jax.random.split(key)[0]),
        lambda key, task, data: task,
        lambda x, key: jnp.sum((x - jax.random.normal(key, (3,))) ** 2),
        {"train": ()},
    ),
    "a number alone": Problem(
        lambda key, data: (jax.random.normal(key), ()), lambda key, task, data: task, lambda x, _: x**2, {"train": ()}
    ),
    "a list, and data": Problem(
        lambda key, data: ([jax.random.normal(key), 2.0], ()),
        lambda key, task, data: data[jax.random.randint(key, (), 0, 4)],
        lambda theta, row: (theta[0] * row - theta[1]) ** 2,
        {"train": np.arange(1.0, 5.0, dtype=np.float32)},
        minibatch=True,
    ),
}


@pytest.mark.parametrize("what", FINE)
def test_nothing_is_said_of_what_is_right(what):
    assert l2lcli.check_problem(FINE[what], KEY) == ([], [])


def test_nothing_is_said_of_one_of_the_packages_own():
    problem = registry.problem.build(registry.problem.specs()["quadratic"](), None)
    assert l2lcli.check_problem(problem, KEY) == ([], [])
