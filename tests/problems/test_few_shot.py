"""Episodes, their learners and the sinusoids, against NumPy, XLA's own convolution and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2lcli import registry
from l2lcli.data.loader import DataError
from l2lcli.problems._convolution import EPSILON
from l2lcli.problems._episodes import EpisodeSpec, episodes
from l2lcli.problems._learners import ConvLearner, MlpLearner, network

COUNTS = {"train": [9, 5, 12, 7, 5], "validation": [6, 6, 6], "test": [5, 6, 7, 8]}
BASE = {"train": 0, "validation": 60, "test": 120}  # an image's pixels say its class, and its second one its number in it


def images(split):
    label = np.repeat(np.arange(len(COUNTS[split])), COUNTS[split])
    number = np.concatenate([np.arange(n) for n in COUNTS[split]])
    image = np.full((len(label), 4, 4), 0, np.uint8)
    image[:, 0, 0], image[:, 0, 1] = BASE[split] + label, number
    shuffled = np.random.default_rng(0).permutation(len(label))
    return {"image": image[shuffled], "label": label[shuffled]}


def build(**spec):
    spec = {"ways": 3, "shots": 2, "queries": 3, "learner": MlpLearner(hidden=[4])} | spec
    return episodes(EpisodeSpec(**spec), "made", {split: images(split) for split in COUNTS}, 255.0, {"made": "0"})


def draw(problem, split, keys):
    """Support and query of many episodes; pixels as integers."""

    @jax.jit
    @jax.vmap
    def one(key):
        start, step = jax.random.split(key)
        _, task = problem.init(start, problem.data[split])
        return problem.batch(step, task, problem.data[split]), problem.query(step, task, problem.data[split])

    return jax.tree.map(lambda leaf: np.asarray(leaf, int), one(keys))


def episode(problem, seed):
    return jax.jit(problem.init)(jax.random.key(seed), problem.data["train"])


@pytest.mark.parametrize("split", COUNTS)
def test_an_episode_is_some_classes_with_different_images_of_each(split):
    support, query = draw(build(), split, jax.random.split(jax.random.key(0), 2000))
    assert support["label"].tolist() == [[0, 0, 1, 1, 2, 2]] * 2000
    assert query["label"].tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2]] * 2000
    pixels = np.concatenate([support["image"].reshape(2000, 3, 2, 4, 4), query["image"].reshape(2000, 3, 3, 4, 4)], 2)
    of, number = pixels[..., 0, 0] - BASE[split], pixels[..., 0, 1]
    assert (of == of[:, :, :1]).all()  # one class for a label, in support and query
    of = of[:, :, 0]
    assert all(len(set(classes)) == 3 for classes in of.tolist())
    assert all(len(set(row)) == 5 for row in number.reshape(-1, 5).tolist())  # no image twice
    # Every class is as likely under every label, and every image of a class as any other.
    classes = len(COUNTS[split])
    for label in range(3):
        np.testing.assert_allclose(np.bincount(of[:, label], minlength=classes) / 2000, 1 / classes, atol=0.05)
    for c, count in enumerate(COUNTS[split]):
        seen = np.bincount(number[of == c].ravel(), minlength=count)
        np.testing.assert_allclose(seen / seen.sum(), 1 / count, atol=0.25 / count)
        first = np.bincount(number[of == c][:, 0], minlength=count)
        np.testing.assert_allclose(first / first.sum(), 1 / count, atol=0.25 / count)


def test_all_of_the_support_set_is_the_same_batch_at_every_step():
    problem = build(batch_size=6)
    assert not problem.minibatch and not build().minibatch
    data = problem.data["train"]
    task = episode(problem, 0)[1]
    once, again = (problem.batch(jax.random.key(i), task, data) for i in range(2))
    np.testing.assert_array_equal(once["image"], again["image"])


def test_a_minibatch_is_a_part_of_the_support_set_with_its_labels():
    problem = build(batch_size=4)
    assert problem.minibatch
    data = problem.data["train"]
    task = episode(problem, 0)[1]
    whole = build().batch(jax.random.key(0), task, data)
    known = {tuple(image.ravel().tolist()): label for image, label in zip(*map(np.asarray, whole.values()), strict=True)}
    batches = jax.jit(jax.vmap(lambda key: problem.batch(key, task, data)))(jax.random.split(jax.random.key(1), 20))
    seen = set()
    for image, label in zip(*map(np.asarray, batches.values()), strict=True):
        rows = list(map(tuple, image.reshape(4, -1).tolist()))
        assert len(set(rows)) == 4
        assert [known[row] for row in rows] == label.tolist()
        seen |= set(rows)
    assert seen == set(known)


def test_loss_and_accuracy_are_of_the_learner_written_out():
    problem = build()
    theta, task = episode(problem, 1)
    query = problem.query(jax.random.key(0), task, problem.data["train"])
    first, second = (jax.tree.map(np.float64, theta[name]) for name in sorted(theta))
    x = np.float64(query["image"]).reshape(9, -1) / 255
    logits = np.maximum(x @ first["kernel"] + first["bias"], 0) @ second["kernel"] + second["bias"]
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    value, metrics = jax.jit(lambda theta: (problem.loss(theta, query), problem.metrics(theta, query)))(theta)
    np.testing.assert_allclose(value, -log_p[np.arange(9), query["label"]].mean(), rtol=1e-5)
    assert metrics["accuracy"] == pytest.approx((logits.argmax(1) == np.asarray(query["label"])).mean())


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({"ways": 4}, "made: validation has 3 classes, and problem.ways is 4"),
        ({"queries": 4}, "made: class 1 of train has 5 images: too few for problem.shots 2 and problem.queries 4"),
        ({"learner": ConvLearner(blocks=3)}, "made: images of 4x4 are too small for problem.learner.blocks 3"),
    ],
)
def test_what_the_data_cannot_give_is_one_line(spec, complaint):
    with pytest.raises(DataError, match=complaint):
        build(**spec)


def test_a_batch_larger_than_the_support_set_is_refused():
    with pytest.raises(ValueError, match="batch_size 7 is more than the support set's 6 images"):
        EpisodeSpec(ways=3, shots=2, batch_size=7)


def test_digits_are_tested_on_classes_and_validated_on_images_that_training_does_not_see():
    from sklearn.datasets import load_digits

    problem = registry.problem.build(registry.problem.specs()["digits_fewshot"](), None)
    whole, label = load_digits(return_X_y=True)
    digit = {tuple(image): d for image, d in zip(whole.astype(int).tolist(), label.tolist(), strict=True)}
    assert len(digit) == len(label)
    rows = {split: list(map(tuple, np.asarray(d["image"]).reshape(-1, 64).tolist())) for split, d in problem.data.items()}
    classes = {split: {digit[row] for row in those} for split, those in rows.items()}
    assert classes == {"train": set(range(5)), "validation": set(range(5)), "test": set(range(5, 10))}
    assert sum(map(len, rows.values())) == len(set().union(*rows.values())) == len(label)


def reference(theta, x, blocks):
    """The convolutional learner on [B, H, W, C], its normalisation in NumPy in double precision."""
    for i in range(blocks):
        p = theta[f"conv_{i}"]
        x = jax.lax.conv_general_dilated(x, p["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = np.asarray(x, np.float64) + np.asarray(p["bias"])
        x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + EPSILON) * np.asarray(p["scale"]) + np.asarray(p["shift"])
        x = np.maximum(x, 0)
        b, h, w, c = x.shape
        x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4)).astype(np.float32)
    return x, theta["fc"]


def test_the_convolutional_learner_is_that_of_xlas_convolution_and_numpys_batch_norm():
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.uniform(keys[0], (6, 10, 13, 3))  # odd heights and widths are cut
    learner = network(ConvLearner(filters=4, blocks=2), 5)
    theta = jax.jit(learner.init)(keys[1], x)["params"]
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), theta)
    features, fc = reference(moved, x, 2)
    assert features.shape == (6, 2, 3, 4)
    # Features are flattened channel by channel; a linear layer does not mind, but the reference has to.
    flat = np.float64(features).transpose(0, 3, 1, 2).reshape(6, -1)
    want = flat @ np.float64(fc["kernel"]) + np.asarray(fc["bias"])
    np.testing.assert_allclose(jax.jit(learner.apply)({"params": moved}, x), want, rtol=1e-3, atol=1e-4)
    theta["conv_0"]["kernel"] = theta["conv_0"]["kernel"][:, :, :1]
    with_axis, without = (jax.jit(learner.apply)({"params": theta}, image) for image in (x[..., :1], x[..., 0]))
    np.testing.assert_array_equal(with_axis, without)


@pytest.mark.parametrize(("shape", "parameters"), [((84, 84, 3), 32_901), ((28, 28), 28_485)])
def test_the_published_learners_size(shape, parameters):
    learner = network(ConvLearner(), 5)
    theta = jax.eval_shape(learner.init, jax.random.key(0), jnp.zeros((1, *shape)))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(theta)) == parameters
    assert list(theta) == ["conv_0", "conv_1", "conv_2", "conv_3", "fc"]


def test_tasks_side_by_side_have_the_gradients_of_tasks_one_by_one():
    problem = build(learner=ConvLearner(filters=2, blocks=1), batch_size=4)
    data = problem.data["train"]

    def gradient(key):
        start, step = jax.random.split(key)
        theta, task = problem.init(start, data)
        return jax.grad(problem.loss)(theta, problem.batch(step, task, data))

    keys = jax.random.split(jax.random.key(0), 3)
    together, alone = jax.jit(jax.vmap(gradient))(keys), jax.jit(lambda keys: jax.lax.map(gradient, keys))(keys)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), together, alone)


def test_a_sinusoids_points_lie_on_one_curve_of_the_published_range():
    problem = registry.problem.build(registry.problem.specs()["sinusoid"](queries=20), None)
    task = jax.jit(jax.vmap(lambda key: problem.init(key, ())[1]))(jax.random.split(jax.random.key(0), 1000))
    support, query = (jax.tree.map(lambda leaf: np.float64(leaf)[..., 0], task[part]) for part in ("support", "query"))
    assert (support["x"].shape, query["x"].shape) == ((1000, 10), (1000, 20))
    curves = []
    for i in range(1000):  # A sin(x − φ) = a sin x + b cos x: support and query have one solution
        x, y = (np.concatenate([part[key][i] for part in (support, query)]) for key in ("x", "y"))
        (a, b), *_ = np.linalg.lstsq(np.c_[np.sin(x), np.cos(x)], y, rcond=None)
        np.testing.assert_allclose(a * np.sin(x) + b * np.cos(x), y, atol=1e-4)
        curves.append((np.hypot(a, b), np.arctan2(-b, a)))
    amplitude, phase = np.transpose(curves)
    for drawn, low, high in ((amplitude, 0.1, 5), (phase, 0, np.pi), (query["x"], -5, 5)):
        assert low - 1e-3 <= drawn.min() and drawn.max() <= high + 1e-3
        np.testing.assert_allclose(
            np.quantile(drawn, [0.25, 0.5, 0.75]), np.linspace(low, high, 5)[1:4], atol=0.06 * (high - low)
        )


def test_a_sinusoids_loss_is_the_mean_squared_error_of_the_network_written_out():
    problem = registry.problem.build(registry.problem.specs()["sinusoid"](), None)
    theta, task = jax.jit(problem.init)(jax.random.key(2), ())
    assert problem.batch(jax.random.key(3), task, ()) is task["support"] and not problem.minibatch
    query = problem.query(jax.random.key(3), task, ())
    x = np.float64(query["x"])
    layers = [theta[name] for name in sorted(theta)]
    assert [layer["kernel"].shape for layer in layers] == [(1, 40), (40, 40), (40, 1)]
    for i, layer in enumerate(layers):
        x = x @ np.float64(layer["kernel"]) + np.float64(layer["bias"])
        x = np.maximum(x, 0) if i < 2 else x
    want = ((x - np.asarray(query["y"])) ** 2).mean()
    value, metrics = jax.jit(lambda theta: (problem.loss(theta, query), problem.metrics(theta, query)))(theta)
    np.testing.assert_allclose([value, metrics["mse"]], [want, want], rtol=1e-5)
