"""Convolutional optimizees against loops in NumPy, and against XLA's own convolution."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
import pytest

from l2lcli import registry
from l2lcli.data.loader import Dataset, load
from l2lcli.problems import _convolution
from l2lcli.problems._convolution import EPSILON, PATCHES, convolve, normalise, pool
from l2lcli.problems.classification import of_network
from l2lcli.problems.conv_classification import ConvClassificationSpec, chosen, on


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def by_hand(x, kernel):
    """Σ over shifts and input channels, pixel by pixel: x [C, H, W, B], kernel [K, K, C, D] -> [D, H, W, B]."""
    k, (_, height, width, batch) = len(kernel), x.shape
    padded = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    out = np.zeros((kernel.shape[-1], height, width, batch))
    for h in range(height):
        for w in range(width):
            out[:, h, w] = np.einsum("cijb,ijcd->db", padded[:, h : h + k, w : w + k], kernel)
    return out


SHAPES = [
    ((3, 6, 7, 4), (5, 5, 3, 2)),
    ((2, 3, 3, 2), (5, 5, 2, 4)),
    ((1, 4, 5, 3), (1, 1, 1, 2)),
    ((2, 5, 4, 1), (3, 3, 2, 1)),
]


@pytest.mark.parametrize(("image", "kernel"), SHAPES)
@pytest.mark.parametrize(("backend", "patches"), [("cpu", PATCHES), ("cpu", 0), ("gpu", 0)])
def test_convolution_is_the_sum_over_shifts(image, kernel, backend, patches, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)  # what a GPU is given runs here, too
    monkeypatch.setattr(_convolution, "PATCHES", patches)
    x, k = draw(*image), draw(*kernel, seed=1)
    np.testing.assert_allclose(convolve(x, k), by_hand(x, k), rtol=1e-4, atol=1e-5)


def test_its_gradients_are_those_of_xlas_convolution(monkeypatch):
    x, k = draw(3, 6, 7, 4), draw(5, 5, 3, 2, seed=1)

    def f(x, k):
        return jnp.sum(jnp.sin(convolve(x, k)))

    def gradients():
        def slope(x, k):  # along the gradient: its own gradient tests the second derivative
            return sum(jnp.vdot(g, jnp.cos(g)) for g in jax.grad(f, (0, 1))(x, k))

        return jax.jit(jax.grad(f, (0, 1)))(x, k), jax.jit(jax.grad(slope, (0, 1)))(x, k)

    at_once = gradients()
    monkeypatch.setattr(_convolution, "PATCHES", 0)
    jax.clear_caches()
    by_rows = gradients()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jax.clear_caches()
    theirs = gradients()
    for ours in (at_once, by_rows):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), ours, theirs)


def test_tasks_side_by_side_are_those_one_by_one():
    x, k = draw(3, 2, 4, 4, 5), draw(3, 3, 3, 2, 2, seed=1)
    step = jax.grad(lambda x, k: jnp.sum(convolve(x, k) ** 2), 1)
    np.testing.assert_allclose(jax.jit(jax.vmap(step))(x, k)[2], jax.jit(step)(x[2], k[2]), rtol=1e-5)


def test_batch_norm_is_that_of_numpy():
    x = 3 + 2 * draw(4, 3, 5, 6)
    flat = np.float64(x).reshape(4, -1)
    want = (flat - flat.mean(1, keepdims=True)) / np.sqrt(flat.var(1, keepdims=True) + EPSILON)
    np.testing.assert_allclose(normalise(jnp.asarray(x)), want.reshape(x.shape), rtol=1e-4, atol=1e-5)


def test_pooling_takes_the_largest_of_four_or_of_what_there_is():
    x = np.abs(draw(2, 5, 4, 3))
    found = np.asarray(pool(jnp.asarray(x)))
    assert found.shape == (2, 3, 2, 3)
    for h in range(3):
        for w in range(2):
            np.testing.assert_array_equal(found[:, h, w], x[:, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2].max((1, 2)))


def images(n, *shape, classes=10):
    rng = np.random.default_rng(3)
    split = {"image": rng.integers(0, 256, (n, *shape), np.uint8), "label": np.arange(n, dtype=np.uint8) % classes}
    return Dataset({"train": split, "test": split}, "made up", classes, 255.0, "0")


def test_the_published_network_has_its_parameters():
    problem = on(images(8, 32, 32, 3), ConvClassificationSpec())
    theta = jax.eval_shape(problem.init, jax.random.key(0), problem.data["train"])[0]
    shapes = {f"{layer}/{name}": leaf.shape for layer, leaves in theta.items() for name, leaf in leaves.items()}
    kernels = {"conv_0": (5, 5, 3, 16), "conv_1": (5, 5, 16, 16), "conv_2": (5, 5, 16, 16), "fc_0": (256, 32), "fc_1": (32, 10)}
    assert shapes == {f"{k}/kernel": s for k, s in kernels.items()} | {f"{k}/bias": s[-1:] for k, s in kernels.items()}
    # 32 / 2³ = 4 pixels each way reach the first fully connected layer; 75 and 400 inputs reach a convolution's unit.
    assert sum(leaf.size for leaf in jax.tree.leaves(theta)) == 76 * 16 + 401 * 16 * 2 + 257 * 32 + 33 * 10


@pytest.mark.parametrize("batch_norm", [True, False])
def test_the_loss_is_that_of_the_network_written_out(batch_norm):
    spec = ConvClassificationSpec(channels=[2, 3], kernel=3, hidden=[4], batch_norm=batch_norm, init_scale=0.5, batch_size=6)
    problem = on(images(20, 7, 7, classes=5), spec)
    theta, task = jax.jit(problem.init)(jax.random.key(1), problem.data["train"])
    batch = problem.batch(jax.random.key(2), task, problem.data["train"])
    theta = jax.tree.map(np.float64, theta)

    def finish(x, bias):
        rest = tuple(range(1, x.ndim))
        if batch_norm:
            x = (x - x.mean(rest, keepdims=True)) / np.sqrt(x.var(rest, keepdims=True) + EPSILON)
        return np.maximum(x + bias.reshape(-1, *[1] * (x.ndim - 1)), 0)

    x = np.float64(batch["image"])[..., None].transpose(3, 1, 2, 0) / 255
    for name in ("conv_0", "conv_1"):
        x = finish(by_hand(x, theta[name]["kernel"]), theta[name]["bias"])
        x = np.stack(
            [[x[:, h : h + 2, w : w + 2].max((1, 2)) for w in range(0, x.shape[2], 2)] for h in range(0, x.shape[1], 2)]
        )
        x = x.transpose(2, 0, 1, 3)
    x = finish(theta["fc_0"]["kernel"].T @ x.reshape(-1, 6), theta["fc_0"]["bias"])
    logits = (theta["fc_1"]["kernel"].T @ x).T + theta["fc_1"]["bias"]
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    want = -log_p[np.arange(6), batch["label"]].mean()
    np.testing.assert_allclose(jax.jit(problem.loss)(jax.tree.map(jnp.float32, theta), batch), want, rtol=1e-4)


def test_metrics_are_taken_minibatch_by_minibatch_and_count_every_image_once():
    network = SimpleNamespace(apply=lambda variables, x: 9 * (x - x.mean(0, keepdims=True)).reshape(len(x), -1))
    problem = of_network(images(10, 5, 2), network, batch_size=3, block=4)
    whole = problem.data["test"]
    right, total = 0, 0.0
    for first, last, counted in ((0, 4, 4), (4, 8, 4), (6, 10, 2)):
        x = np.float64(whole["image"][first:last]).reshape(-1, 10) / 255
        logits = 9 * (x - x.mean(0))
        rows, labels = np.arange(4 - counted, 4), np.asarray(whole["label"][last - counted : last])
        right += (logits[rows].argmax(1) == labels).sum()
        total += (np.log(np.exp(logits[rows]).sum(1)) - logits[rows, labels]).sum()
    found = problem.metrics({"w": jnp.zeros(())}, whole)
    np.testing.assert_allclose([found["accuracy"], found["loss"]], [right / 10, total / 10], rtol=1e-5)


def test_labels_are_chosen_and_renumbered_in_the_order_given():
    whole = load("digits")
    part = chosen(whole, [7, 0, 3])
    assert part.classes == 3
    for split in ("train", "test"):
        for number, label in enumerate([7, 0, 3]):
            np.testing.assert_array_equal(
                part.splits[split]["image"][part.splits[split]["label"] == number],
                whole.splits[split]["image"][whole.splits[split]["label"] == label],
            )
        assert set(part.splits[split]["label"].tolist()) == {0, 1, 2}
    spec = ConvClassificationSpec(dataset="digits", labels=[7, 0, 3], channels=[2], kernel=3, hidden=[], batch_size=8)
    problem = registry.problem.build(spec, None)
    theta, _ = jax.eval_shape(problem.init, jax.random.key(0), problem.data["train"])
    assert theta["fc_0"]["kernel"].shape == (2 * 4 * 4, 3)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [({"labels": [1, 2, 1]}, "a label twice"), ({"labels": [3, 10]}, "less than or equal to 9"), ({"kernel": 4}, "is not odd")],
)
def test_what_makes_no_sense_is_refused(changes, complaint):
    with pytest.raises(pydantic.ValidationError, match=complaint):
        ConvClassificationSpec(**changes)
