"""How networks start, and what normalises and pools in them, against formulas and loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax.flatten_util import ravel_pytree

from l2lcli.data.loader import Dataset
from l2lcli.problems import _networks, conv_classification
from l2lcli.problems._convolution import EPSILON, normalise, pool
from l2lcli.problems.classification import ClassificationSpec
from l2lcli.problems.classification import on as classification
from l2lcli.problems.conv_classification import ConvClassificationSpec
from l2lcli.problems.conv_classification import on as convolutional
from tests.problems.test_convolution import by_hand, draw

VARIANCE = {  # LeCun et al. 1998, He et al. 2015, Glorot and Bengio 2010
    "lecun": lambda inputs, outputs: 1 / inputs,
    "he": lambda inputs, outputs: 2 / inputs,
    "glorot": lambda inputs, outputs: 2 / (inputs + outputs),
}


def images(n, *shape, classes=10):
    rng = np.random.default_rng(3)
    split = {"image": rng.integers(0, 256, (n, *shape), np.uint8), "label": np.arange(n, dtype=np.uint8) % classes}
    return Dataset({"train": split, "test": split}, "made up", classes, 255.0, "0")


def start(problem, seed=0):
    return jax.tree.map(np.asarray, jax.jit(problem.init)(jax.random.key(seed), problem.data["train"])[0])


def has_variance(kernel, wanted):
    """Mean 0 and that variance, of a normal distribution that is cut at two standard deviations of the uncut one."""
    assert kernel.std() == pytest.approx(wanted**0.5, rel=0.03)
    assert abs(kernel.mean()) < 4 * wanted**0.5 / kernel.size**0.5
    cut = np.abs(kernel).max() / kernel.std()
    assert 2.1 < cut < 2.35  # 2 / 0.8796 = 2.274, less what the sample falls short of it


@pytest.mark.parametrize("init", VARIANCE)
def test_a_perceptron_starts_as_the_formula_says(init):
    problem = classification(images(4, 20, 20), ClassificationSpec(hidden=[300, 200], init=init, init_scale=7.0))
    theta = start(problem)
    for layer, (inputs, outputs) in {"layers_1": (400, 300), "layers_3": (300, 200), "layers_5": (200, 10)}.items():
        assert theta[layer]["kernel"].shape == (inputs, outputs)
        has_variance(theta[layer]["kernel"], VARIANCE[init](inputs, outputs))
        assert not theta[layer]["bias"].any()


@pytest.mark.parametrize("init", VARIANCE)
def test_a_convolutional_network_starts_as_the_formula_says(init):
    spec = ConvClassificationSpec(channels=[40, 50], kernel=5, hidden=[60], init=init, init_scale=7.0)
    theta = start(convolutional(images(4, 8, 8, 3), spec))
    sizes = {  # a kernel's window counts on both sides
        "conv_0": (25 * 3, 25 * 40), "conv_1": (25 * 40, 25 * 50), "fc_0": (4 * 50, 60), "fc_1": (60, 10),
    }  # fmt: skip
    assert theta.keys() == sizes.keys()
    for layer, (inputs, outputs) in sizes.items():
        kernel = theta[layer]["kernel"]
        wanted = VARIANCE[init](inputs, outputs)
        if kernel.size > 2000:
            has_variance(kernel, wanted)
        assert kernel.std() == pytest.approx(wanted**0.5, rel=0.1)
        assert not theta[layer]["bias"].any()


def test_layers_of_a_convolutional_network_do_not_start_alike():
    theta = start(convolutional(images(4, 8, 8), ConvClassificationSpec(channels=[8, 8, 8], kernel=3, hidden=[], init="he")))
    first, second = (theta[name]["kernel"].ravel() for name in ("conv_1", "conv_2"))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2
    again = start(convolutional(images(4, 8, 8), ConvClassificationSpec(channels=[8], kernel=3, hidden=[], init="he")), seed=1)
    assert (again["conv_0"]["kernel"] != theta["conv_0"]["kernel"]).all()


def test_the_published_start_of_a_perceptron_is_what_it_was():
    """Kernels and biases alike N(0, scale²), the same bits as the network of the first version drew."""
    normal = linen.initializers.normal(0.3)
    dense = lambda width: linen.Dense(width, kernel_init=normal, bias_init=normal)
    before = linen.Sequential([lambda x: x.reshape(x.shape[0], -1), dense(50), linen.sigmoid, dense(10)])
    expected = jax.jit(before.init)(jax.random.key(0), jnp.zeros((1, 8, 8)))["params"]
    theta = start(classification(images(4, 8, 8), ClassificationSpec(hidden=[50], init_scale=0.3)))
    assert jax.tree.structure(theta) == jax.tree.structure(jax.tree.map(np.asarray, expected))
    jax.tree.map(np.testing.assert_array_equal, theta, expected)
    assert theta["layers_1"]["kernel"].std() == pytest.approx(0.3, rel=0.05)
    assert theta["layers_1"]["bias"].std() == pytest.approx(0.3, rel=0.4)


def test_the_published_start_of_a_convolutional_network_is_what_it_was():
    problem = convolutional(images(4, 8, 8), ConvClassificationSpec(channels=[4], kernel=3, hidden=[5], init_scale=0.02))
    theta = start(problem)
    flat, _ = ravel_pytree(theta)
    np.testing.assert_array_equal(flat, jax.jit(lambda key: 0.02 * jax.random.normal(key, flat.shape))(jax.random.key(0)))


def norm(x, axis, epsilon):
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + epsilon)


def cross_entropy(logits, label):
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -log_p[np.arange(len(label)), label].mean()


def wild(theta):
    """Parameters like theta of which none is 0 or 1, in float64."""
    return jax.tree.map(lambda leaf: np.float64(0.7 * draw(*leaf.shape, seed=leaf.size)), theta)


def drawn(problem):
    return jax.tree.map(np.asarray, problem.batch(jax.random.key(2), (), problem.data["train"]))


def test_a_perceptron_with_layer_norm_is_that_written_out():
    spec = ClassificationSpec(hidden=[6, 4], init="glorot", activation="silu", layer_norm=True, batch_size=5)
    problem = classification(images(20, 3, 3, classes=3), spec)
    theta, batch = start(problem), drawn(problem)
    assert [theta[f"layers_{i}"]["scale"].tolist() for i in (2, 5)] == [[1.0] * 6, [1.0] * 4]
    assert not any(theta[f"layers_{i}"]["bias"].any() for i in (1, 2, 4, 5, 7))
    theta = wild(theta)
    x = np.float64(batch["image"]).reshape(5, -1) / 255
    for linear, scale in ((1, 2), (4, 5)):
        x = x @ theta[f"layers_{linear}"]["kernel"] + theta[f"layers_{linear}"]["bias"]
        x = norm(x, 1, 1e-6) * theta[f"layers_{scale}"]["scale"] + theta[f"layers_{scale}"]["bias"]
        x = x / (1 + np.exp(-x))
    logits = x @ theta["layers_7"]["kernel"] + theta["layers_7"]["bias"]
    found = jax.jit(problem.loss)(jax.tree.map(jnp.float32, theta), batch)
    np.testing.assert_allclose(found, cross_entropy(logits, batch["label"]), rtol=1e-4)


def test_layer_norm_of_images_is_that_of_numpy():
    x = 3 + 2 * draw(4, 3, 5, 6)
    want = np.stack([norm(np.float64(x[..., b]), (0, 1, 2), EPSILON) for b in range(6)], -1)
    np.testing.assert_allclose(normalise(jnp.asarray(x), over_images=False), want, rtol=1e-4, atol=1e-5)


ACTIVATIONS = {
    "tanh": np.tanh,
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "softplus": lambda x: np.log1p(np.exp(x)),
}


def pooled(x):
    """The largest of each square of four, or of those that there are at the edge: [C, H, W, B]."""
    rows = [[x[:, h : h + 2, w : w + 2].max((1, 2)) for w in range(0, x.shape[2], 2)] for h in range(0, x.shape[1], 2)]
    return np.stack([np.stack(row, 1) for row in rows], 1)


def test_pooling_of_odd_sizes_is_of_what_there_is_though_it_be_negative():
    x = -1 - np.abs(draw(2, 5, 3, 3))
    np.testing.assert_array_equal(pool(jnp.asarray(x), -np.inf), pooled(x))
    slope = jax.grad(lambda x: pool(x, -np.inf).sum())(jnp.asarray(x))
    assert np.isfinite(slope).all() and slope.sum() == pooled(x).size  # each result hangs on one pixel


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_convolutional_network_with_layer_norm_is_that_written_out(activation):
    """On images of 5 x 5, which pooling meets with an edge at both its layers."""
    spec = ConvClassificationSpec(
        channels=[2, 3], kernel=3, hidden=[4], batch_norm=False, layer_norm=True, activation=activation, batch_size=6
    )
    problem, act = convolutional(images(20, 5, 5, classes=5), spec), ACTIVATIONS[activation]
    theta, batch = wild(start(problem)), drawn(problem)
    theta["conv_1"]["bias"] -= 2.0  # so that whole squares are negative

    def finish(x, bias):
        return act(norm(x, tuple(range(x.ndim - 1)), EPSILON) + bias.reshape(-1, *[1] * (x.ndim - 1)))

    x = np.float64(batch["image"])[..., None].transpose(3, 1, 2, 0) / 255
    for name in ("conv_0", "conv_1"):
        x = pooled(finish(by_hand(x, theta[name]["kernel"]), theta[name]["bias"]))
    x = finish(theta["fc_0"]["kernel"].T @ x.reshape(-1, 6), theta["fc_0"]["bias"])
    logits = (theta["fc_1"]["kernel"].T @ x).T + theta["fc_1"]["bias"]
    found = jax.jit(problem.loss)(jax.tree.map(jnp.float32, theta), batch)
    np.testing.assert_allclose(found, cross_entropy(logits, batch["label"]), rtol=1e-4)


def test_a_cut_normal_variable_has_the_deviation_that_it_is_divided_by():
    x = np.linspace(-2, 2, 400_001)
    density = np.exp(-x * x / 2)
    found = (np.trapezoid(x * x * density, x) / np.trapezoid(density, x)) ** 0.5
    assert found == pytest.approx(conv_classification.TRUNCATED, rel=1e-9)
    assert _networks.Init.__args__ == ("normal", *VARIANCE)


def test_a_layer_is_normalised_in_one_way():
    with pytest.raises(ValueError, match="batch_norm and layer_norm are both true"):
        ConvClassificationSpec(layer_norm=True)
