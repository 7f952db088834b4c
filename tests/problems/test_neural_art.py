"""Neural art against NumPy: the three terms, their gradient, what is held out, and the files it reads."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from PIL import Image
from safetensors.numpy import save

from l2lcli import registry
from l2lcli.config import ConfigError, load
from l2lcli.data import _kernels, _photographs
from l2lcli.data.source import DataError
from l2lcli.evaluation.pictures import in_bytes
from l2lcli.experiment import build
from l2lcli.problems._textures import TEXTURES, texture
from l2lcli.problems.neural_art import COUNTS, NeuralArtSpec
from tests.support import ROOT

WEIGHTS = {"alpha": 0.7, "beta": 1.3, "gamma": 0.4}


def kernels(*channels, seed=0, dtype=np.float32):
    draw, found, inputs = np.random.default_rng(seed), {}, 3
    for i, outputs in enumerate(channels):
        found[f"conv{i}/kernel"] = draw.standard_normal((3, 3, inputs, outputs)).astype(dtype) / 4
        found[f"conv{i}/bias"] = draw.standard_normal(outputs).astype(dtype) / 4
        inputs = outputs
    return found


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("features") / "two.safetensors"
    path.write_bytes(save(kernels(2, 3)))
    return path


def one_layer(network, **rest):
    return NeuralArtSpec(features=str(network), content_layer=0, style_layers=[0], **rest)


@pytest.fixture(scope="module")
def small(network):
    """8 x 8 pixels, two layers of 2 and 3 channels."""
    return NeuralArtSpec(size=8, features=str(network), content_layer=1, style_layers=[0, 1], **WEIGHTS)


@pytest.fixture(scope="module")
def problem(small):
    return registry.problem.build(small, None)


def by_hand(arrays, image):
    """Two layers in loops: image [h, w, 3] -> [h, w, C] each."""
    found, x = [], image
    for i in range(2):
        if i:
            x = (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4
        kernel, padded = arrays[f"conv{i}/kernel"].astype(float), np.pad(x, ((1, 1), (1, 1), (0, 0)))
        out = np.empty((*x.shape[:2], kernel.shape[3]))
        for h in range(x.shape[0]):
            for w in range(x.shape[1]):
                out[h, w] = np.einsum("ijc,ijcd->d", padded[h : h + 3, w : w + 3], kernel)
        x = np.maximum(out + arrays[f"conv{i}/bias"], 0)
        found.append(x)
    return found


def test_f_is_the_sum_of_the_three_terms(problem):
    data = problem.data["train"]
    theta, task = jax.jit(problem.init)(jax.random.key(3), data)
    value = problem.loss(theta, problem.batch(jax.random.key(0), task, data))

    arrays, every = kernels(2, 3), np.asarray(data["content"], float)
    seen = lambda image: by_hand(arrays, (image / 255 - 0.5) / 0.25)
    squares = np.mean([[np.mean(x**2) for x in seen(image)] for image in every[:: COUNTS["train"] // 60]], 0)
    scale = np.sqrt(squares)
    image = np.asarray(theta["image"], float)
    mine, content, style = ([x / s for x, s in zip(found, scale, strict=True)] for found in (
        by_hand(arrays, image), seen(np.asarray(task["content"], float)), seen(texture("waves", 8).astype(float)),
    ))  # fmt: skip
    gram = lambda x: x.reshape(-1, x.shape[2]).T @ x.reshape(-1, x.shape[2]) / (x.shape[0] * x.shape[1])
    apart = np.mean([np.mean((gram(a) - gram(b)) ** 2) for a, b in zip(mine, style, strict=True)])
    rough = sum(np.mean(np.diff(image, axis=axis) ** 2) for axis in (0, 1))
    want = WEIGHTS["alpha"] * np.mean((mine[1] - content[1]) ** 2) + WEIGHTS["beta"] * apart + WEIGHTS["gamma"] * rough
    np.testing.assert_allclose(value, want * 64 / 1024, rtol=1e-4)
    assert any(np.array_equal(task["content"], row) for row in data["content"])
    assert image.std() == pytest.approx(0.5, rel=0.15)


def test_its_gradient_is_that_of_finite_differences(problem):
    data = problem.data["train"]
    theta, task = jax.jit(problem.init)(jax.random.key(0), data)
    with jax.enable_x64(True):
        image, batch = np.float64(theta["image"]), problem.batch(jax.random.key(0), task, data)
        batch = jax.tree.map(lambda leaf: jnp.asarray(np.float64(leaf)), batch)
        loss = jax.jit(lambda image: problem.loss({"image": image}, batch))
        slope, draw, step = np.asarray(jax.jit(jax.grad(loss))(image)), np.random.default_rng(0), 1e-6
        for _ in range(3):
            along = draw.standard_normal(image.shape)
            difference = (loss(image + step * along) - loss(image - step * along)) / (2 * step)
            np.testing.assert_allclose((slope * along).sum(), difference, rtol=1e-6)


def test_second_derivatives_are_those_of_finite_differences_on_several_devices_too(problem):
    """The features are one for all tasks, which are split over devices: their kernels have no gradient for each."""
    data = problem.data["train"]
    keys, auto = jax.random.split(jax.random.key(0), 2), (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((2,), ("task",), axis_types=auto, devices=jax.devices()[:2])

    def one(key, data, along):
        theta, task = problem.init(key, data)
        slope = jax.grad(lambda image: problem.loss({"image": image}, problem.batch(key, task, data)))
        bent = jax.grad(lambda image: jnp.vdot(slope(image), along))(theta["image"])
        step = 1e-3 * along
        return bent, (slope(theta["image"] + step) - slope(theta["image"] - step)) / 2e-3

    spread = jax.shard_map(jax.vmap(one, (0, None, None)), mesh=mesh, in_specs=(P("task"), P(), P()), out_specs=P("task"))
    along = jnp.asarray(np.random.default_rng(0).standard_normal((8, 8, 3)), jnp.float32)
    bent, differences = jax.jit(spread)(keys, data, along)
    wrong = np.abs(bent - differences) > 0.05 * np.abs(bent) + 2e-5
    assert wrong.mean() < 0.1  # some places cross a kink of a ReLU on the way


def test_a_larger_image_has_gradients_of_the_same_size(small):
    """And a loss in proportion to its pixels."""
    found = []
    for size in (8, 16):
        problem = registry.problem.build(small.model_copy(update={"size": size}), None)
        data = problem.data["train"]

        def one(key, problem=problem, data=data):
            theta, task = problem.init(key, data)
            value, grad = jax.value_and_grad(problem.loss)(theta, problem.batch(key, task, data))
            return value, jnp.sqrt(jnp.square(grad["image"]).mean())

        found.append(np.mean(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 4)), 1))
    np.testing.assert_allclose(found[1] / found[0], [4, 1], rtol=0.25)


def test_the_same_key_gives_the_same_bits_and_another_one_another_task(small, problem):
    init = jax.jit(problem.init)
    one = init(jax.random.key(1), problem.data["train"])
    again = jax.jit(registry.problem.build(small, None).init)(jax.random.key(1), problem.data["train"])
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert not np.array_equal(one[0]["image"], init(jax.random.key(2), problem.data["train"])[0]["image"])


def test_no_content_is_in_two_splits(problem):
    rows = {split: {image.tobytes() for image in np.asarray(of["content"])} for split, of in problem.data.items()}
    assert problem.held_out and [len(of) for of in rows.values()] == [*COUNTS.values()]
    assert not rows["train"] & rows["test"] and not rows["train"] & rows["validation"] and not rows["validation"] & rows["test"]


def test_no_pixel_of_a_photograph_is_in_two_splits(tmp_path, monkeypatch):
    """A photograph whose red says in which of 256 columns a pixel stands."""
    columns = np.repeat(np.arange(256, dtype=np.uint8), 3)
    path = tmp_path / "ramp.png"
    Image.fromarray(np.broadcast_to(columns[None, :, None], (200, 768, 3)).copy()).save(path)
    monkeypatch.setattr(_photographs, "photograph", lambda name: path)
    red = {split: _photographs.parts(split, 30, 64)[..., 0] for split in _photographs.BANDS}
    for split, (begin, end) in _photographs.BANDS.items():
        assert red[split].min() >= 256 * begin and red[split].max() < 256 * end
        assert red[split].max() - red[split].min() > 0.8 * 256 * (end - begin)


def test_contents_of_cifar_are_those_of_its_own_splits(network, monkeypatch):
    """Pretended images whose colour is their number; the test's are of the test set."""
    from l2lcli.data import loader

    images = lambda first, n: np.broadcast_to(
        np.arange(first, first + n, dtype=np.uint16)[:, None, None, None] % 251, (n, 32, 32, 3)
    )
    splits = {name: {"image": images(first, n).astype(np.uint8)} for name, first, n in (("train", 0, 300), ("test", 77, 60))}
    monkeypatch.setattr(loader, "load", lambda name, raw_dir: loader.Dataset(splits, "cifar10[300/60]", 10, 255.0, "mark"))
    problem = registry.problem.build(one_layer(network, size=16, contents=["cifar10"]), None)
    means = {split: np.asarray(data["content"]).mean((1, 2, 3)) for split, data in problem.data.items()}
    assert means["train"].tolist() == list(range(240))
    assert means["validation"].tolist() == [n % 251 for n in range(240, 300)]
    assert means["test"].tolist() == list(range(77, 137))
    assert problem.provenance["cifar10[300/60]"] == "mark"


@pytest.mark.parametrize("name", TEXTURES)
def test_a_larger_texture_shows_more_of_the_same(name):
    small, large = texture(name, 32), texture(name, 96)
    np.testing.assert_array_equal(large[:32, :32], small)
    assert large.std() > 20


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("of", ["flax", "pytorch"])
def test_kernels_come_back_from_a_file(tmp_path, dtype, of):
    arrays = kernels(2, 5, dtype=dtype)
    kept = dict(arrays, fc=np.zeros(3, np.int32))
    if of == "pytorch":
        kept = {f"conv{i}.weight": np.ascontiguousarray(arrays[f"conv{i}/kernel"].transpose(3, 2, 0, 1)) for i in range(2)}
        kept |= {f"conv{i}.bias": arrays[f"conv{i}/bias"] for i in range(2)}
    path = tmp_path / "x.safetensors"
    path.write_bytes(save(kept))
    for i, (kernel, bias) in enumerate(_kernels.load(path).layers):
        assert kernel.dtype == bias.dtype == np.float32
        np.testing.assert_array_equal(kernel, arrays[f"conv{i}/kernel"].astype(np.float32))
        np.testing.assert_array_equal(bias, arrays[f"conv{i}/bias"].astype(np.float32))


def header(**about):
    text = json.dumps(about).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        (b"", "damaged, or not a .safetensors file"),
        (b"\xff" * 100, "damaged, or not a .safetensors file"),
        (header(conv0={"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}), "it breaks off"),
        (header(conv0={"dtype": "F32", "shape": [2], "data_offsets": [0, -8]}), "damaged, or not a .safetensors file"),
        (header(conv0=[1]), "damaged, or not a .safetensors file"),
        (header(), "neither conv0/kernel and conv0/bias nor conv0.weight and conv0.bias in it"),
        (save({"conv0/kernel": np.zeros((5, 5, 3, 2), np.float32), "conv0/bias": np.zeros(2, np.float32)}),
         "conv0 has a kernel [5, 5, 3, 2], not [3, 3, 3, out]"),
        (save({"conv0/kernel": np.zeros((3, 3, 3, 2), np.float32), "conv0/bias": np.zeros(3, np.float32)}),
         "conv0 has a bias [3], not [2]"),
        (save({"conv0.weight": np.zeros((2, 3), np.float32), "conv0.bias": np.zeros(2, np.float32)}),
         "conv0 has a kernel [2, 3], not"),
        (save({"conv0/kernel": np.zeros((3, 3, 3, 0), np.float32), "conv0/bias": np.zeros(0, np.float32)}),
         "conv0 has a kernel [3, 3, 3, 0], not"),
        (save(kernels(2, 5) | {"conv2/kernel": np.zeros((3, 3, 5, 5), np.float32)}), "conv2/kernel without its partner"),
        (save({name: array for name, array in kernels(2, 5, 4).items() if name != "conv1/bias"}),
         "conv1/kernel without its partner, or without the layer below"),
        (save({"conv0/kernel": np.full((3, 3, 3, 2), np.nan, np.float32), "conv0/bias": np.zeros(2, np.float32)}),
         "conv0/kernel has numbers that are not finite"),
        (save({"conv0/kernel": np.zeros((3, 3, 3, 2), np.int32), "conv0/bias": np.zeros(2, np.float32)}),
         "conv0/kernel is I32"),
    ],
)  # fmt: skip
def test_what_is_no_network_is_said_in_one_line(tmp_path, content, said):
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        _kernels.load(path)
    assert said in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_shipped_network_is_one_of_four_layers():
    found = _kernels.load(_kernels.SHIPPED / "art-features.safetensors")
    assert [kernel.shape[3] for kernel, _ in found.layers] == [16, 32, 48, 64]
    assert (_kernels.SHIPPED / "art-features.safetensors").stat().st_size < 200_000


@pytest.mark.parametrize(
    ("said", "error", "text"),
    [
        ({"size": 20}, ConfigError, "problem.size: 20 is not a multiple of 8"),
        ({"content_layer": 4}, ConfigError, "problem: no layer 4: features 'random' have 4"),
        ({"style": "starry"}, DataError, "problem.style: 'starry' is neither one of waves, cells, marble, china"),
        ({"features": "starry"}, DataError, "starry: No such file"),
        ({"style": "x.png"}, DataError, "x.png: not an image that can be read"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(tmp_path, said, error, text):
    (tmp_path / "x.png").write_bytes(b"\x89PNG no more")
    given = {"features": "random"} | said
    config = load(ROOT / "configs/neural-art.yaml", [f"problem.{key}={value}" for key, value in given.items()])
    config = config.model_copy(update={"data": config.data.model_copy(update={"raw_dir": str(tmp_path)})})
    config = config.model_copy(update={"problem": config.problem.model_copy(update={"contents": ["photographs"]})})
    with pytest.raises(error) as caught:
        build(config)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_a_photograph_whose_package_is_missing(monkeypatch):
    monkeypatch.setattr(_photographs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="'china' ships with sklearn, which is not installed"):
        _photographs.photograph("china")


def test_a_style_of_ones_own_is_the_middle_of_its_file(tmp_path, network):
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 10:30] = 200
    Image.fromarray(image).save(tmp_path / "own.png")
    problem = registry.problem.build(one_layer(network, size=8, style="own.png"), str(tmp_path))
    assert (np.asarray(problem.data["train"]["style"]) == 200).all()


def test_what_is_shown_is_the_image(problem):
    _, task = jax.jit(problem.init)(jax.random.key(0), problem.data["train"])
    given = problem.pictures.given(task)
    np.testing.assert_allclose(given["style"], texture("waves", 8) / 255, rtol=1e-6)
    same = {"image": (given["content"] - 0.5) / 0.25}
    np.testing.assert_allclose(problem.pictures.made(same), given["content"], atol=1e-6)
    far = problem.pictures.made(
        {"image": jnp.stack([jnp.full((8, 3), -9.0), jnp.full((8, 3), 9.0), jnp.full((8, 3), jnp.inf)])}
    )
    assert [int(in_bytes(row).max()) for row in far] == [0, 255, 0]
