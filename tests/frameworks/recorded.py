"""Real gradients: a small convolutional network on digits, trained in JAX by a shipped optimizer, recorded for PyTorch."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from sklearn.datasets import load_digits

import l2lcli
from l2lcli.runs.artefact import write_artefact
from l2lcli.tree import to_host


class Step(NamedTuple):
    """Leaves in PyTorch's layout: theta, its gradient, the update; and the loss."""

    theta: list
    grad: list
    update: list
    value: float


def network(dtype):
    draw = np.random.default_rng(0)
    normal = lambda scale, *shape: jnp.asarray(scale * draw.standard_normal(shape), dtype)
    return {
        "conv": {"kernel": normal(0.3, 3, 3, 1, 4), "bias": jnp.zeros(4, dtype)},
        "hidden": {"kernel": normal(0.12, 64, 20), "bias": jnp.zeros(20, dtype)},
        "out": {"kernel": normal(0.2, 20, 10), "bias": jnp.zeros(10, dtype)},
        "gain": jnp.ones((), dtype),
    }


def loss(theta, x, y):
    with jax.numpy_rank_promotion("allow"):
        at = ("NHWC", "HWIO", "NHWC")
        h = jax.lax.conv_general_dilated(x.reshape(-1, 8, 8, 1), theta["conv"]["kernel"], (2, 2), "SAME", dimension_numbers=at)
        h = jax.nn.relu(h + theta["conv"]["bias"]).reshape(len(x), -1)
        h = jnp.tanh(h @ theta["hidden"]["kernel"] + theta["hidden"]["bias"])
        logits = theta["gain"] * (h @ theta["out"]["kernel"] + theta["out"]["bias"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


value_and_grad = jax.jit(jax.value_and_grad(loss))


def turned(tree):
    """The leaves in PyTorch's layout: [kh, kw, in, out] -> [out, in, kh, kw], [in, out] -> [out, in]."""
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}
    return [np.array(np.transpose(leaf, axes.get(leaf.ndim)), order="C") for leaf in map(np.asarray, jax.tree.leaves(tree))]


@functools.cache
def record(name, dtype, steps=100):
    """A training by the optimizer: its steps."""
    x, y = load_digits(return_X_y=True)
    tx, theta, draw, found = l2lcli.load(name, horizon=steps), network(dtype), np.random.default_rng(1), []
    update, state = jax.jit(tx.update), tx.init(theta)
    for _ in range(steps):
        rows = draw.integers(0, 1500, 64)
        value, grad = value_and_grad(theta, jnp.asarray(x[rows] / 16, dtype), jnp.asarray(y[rows]))
        step, state = update(grad, state, theta, value=value)
        found.append(Step(turned(theta), turned(grad), turned(step), float(value)))
        theta = optax.apply_updates(theta, step)
    return found


def parameters(leaves):
    return [torch.nn.Parameter(torch.tensor(leaf)) for leaf in leaves]


def put(params, leaves, grads):
    """Set parameters and their gradients to what was recorded."""
    with torch.no_grad():
        for p, leaf, grad in zip(params, leaves, grads, strict=True):
            p.copy_(torch.from_numpy(np.array(leaf)))
            p.grad = torch.tensor(grad)


def errors(optimizer, params, steps):
    """Of each step, the differences of the parameters after it, over the root mean square of the recorded update."""
    for step in steps:
        put(params, step.theta, step.grad)
        optimizer.step(loss=step.value)
        after = [theta + update for theta, update in zip(step.theta, step.update, strict=True)]
        flat = lambda leaves: np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves])
        off = flat([p.detach().numpy() for p in params]) - flat(after)
        yield off / np.sqrt(np.mean(flat(step.update) ** 2))


def stored(path, spec, phi):
    """The path of an artefact of that family."""
    write_artefact(path, to_host(phi), {"config": {"optimizer": spec.model_dump(mode="json")}})
    return path


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other are slow where other programs run, and these networks need none."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
