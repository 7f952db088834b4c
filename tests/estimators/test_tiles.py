"""Steps that are recomputed tile by tile, and coordinates split over devices, give the derivative of the unroll as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2lcli import registry
from l2lcli.base import Objective
from l2lcli.estimators import _tiles
from l2lcli.estimators.autodiff import AutodiffSpec
from l2lcli.optimizers.hand import hand
from l2lcli.optimizers.lstm import LstmSpec, lstm
from l2lcli.optimizers.meta_sgd import MetaSgdSpec
from l2lcli.problems.classification import ClassificationSpec
from tests.estimators.test_replay import as_dtype, relative

W, M, ADAM = 3, 2, "adam"
NETWORK = registry.problem.build(
    ClassificationSpec(hidden=[4], batch_size=8), None
)  # 310 coordinates: three tiles, or two by two
FAMILIES = {
    "lstm": lstm(LstmSpec(layers=1, hidden=4)),
    "learned start": lstm(LstmSpec(layers=1, hidden=3, learn_start=True)),
    ADAM: hand("adam", 0.01),  # a scalar in its state
    "members": registry.optimizer.build(
        registry.optimizer.specs()["groups"](
            groups={
                "kernels": {"match": ["*/kernel"], "optimizer": {"kind": "lstm", "layers": 1, "hidden": 2}},
                "rest": {"match": ["*"], "optimizer": {"kind": "lstm", "layers": 1, "hidden": 3}},
            }
        )
    ),
    "phi by coordinate": registry.optimizer.build(MetaSgdSpec()),
}


def gradient(family, devices, **more):
    """The second window's meta-gradient, theta at its end, and the state of the optimizees."""
    optimizer, data = FAMILIES[family], NETWORK.data["train"]
    spec = AutodiffSpec(window=W, **more)
    made = registry.estimator.build(spec, NETWORK, optimizer, M, Objective(tuple(0.5 + t for t in range(2 * W))), devices)
    theta = as_dtype(jax.jit(NETWORK.init)(jax.random.key(0), data)[0], jnp.float64)
    phi = as_dtype(jax.jit(optimizer.init)(jax.random.key(1), theta), jnp.float64)
    state = as_dtype(jax.jit(made.init)(jax.random.key(2), phi, data), jnp.float64)
    estimate = jax.jit(made.estimate)
    for _ in range(1 if optimizer.start is not None else 2):  # a learned start has one window
        found, state = estimate(jax.random.key(3), phi, data, state)
    return jax.tree.map(np.asarray, (found.grad, found.loss)), np.asarray(jax.flatten_util.ravel_pytree(state.theta)[0])


SECOND, CLIP = {"second_order": True, "discount": 0.9}, {"clip": 1e-3}


@pytest.mark.parametrize(
    ("family", "more", "devices"),
    [
        *(("lstm", SECOND, 1), ("lstm", CLIP, 2), ("learned start", {}, 2), (ADAM, {}, 2), ("members", {}, 2)),
        ("phi by coordinate", {}, 2),
    ],
)
def test_tiles_and_devices_leave_the_derivative_as_it_is(family, more, devices):
    with jax.enable_x64(True):
        plain = gradient(family, 1, checkpoint=False, **more)
        (grad, loss), theta = gradient(family, devices, **more)
        assert relative(grad, plain[0][0]) < 1e-11
        np.testing.assert_allclose(loss, plain[0][1], rtol=1e-12)
        np.testing.assert_allclose(theta, plain[1], rtol=1e-11, atol=1e-14)


def test_what_enters_tiles_leaves_them():
    for shape in ((), (310,), (2, 3, 310), (128,), (5,)):
        leaf = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
        size = shape[-1] if shape else 310
        inside = _tiles.enter(size, jnp.asarray(leaf))
        assert inside.shape == (_tiles.tiles(size), *shape[:-1], *([128 if size > 128 else size] if shape else []))
        np.testing.assert_array_equal(_tiles.leave(size, inside), leaf)
