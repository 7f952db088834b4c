"""The native LSTM gives what the step in JAX gives, wherever it is called from; its own arithmetic under the sanitizers."""

import platform
import shutil
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2lcli import registry
from l2lcli.base import Objective
from l2lcli.estimators import _sharding
from l2lcli.estimators.replay import ReplaySpec
from l2lcli.optimizers import _lstm_cell, _native
from l2lcli.optimizers._lstm_cell import Fused
from l2lcli.problems.quadratic import QuadraticSpec
from tests.support import ROOT

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
needs_a_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
SHAPES = [(2, 20, 2, 70), (1, 8, 7, 33), (1, 1, 1, 1), (3, 5, 2, 40)]  # layers, hidden, inputs, coordinates
WINDOW = 6


@pytest.fixture
def native(monkeypatch):
    monkeypatch.setenv("L2L_NATIVE", "on")
    _native._loaded.cache_clear()
    assert _native.described().startswith("native "), _native.described()
    yield
    _native._loaded.cache_clear()


def arrays(layers, hidden, inputs, size, *leading):
    generator = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(0.4 * generator.normal(size=shape), jnp.float32)
    columns = [inputs, *[hidden] * (layers - 1)]
    weights = Fused(tuple(draw(4 * hidden, i + hidden + 1) for i in columns), draw(hidden), draw())
    state = lambda: tuple(draw(*leading, hidden, size) for _ in range(layers))
    return weights, state(), state(), draw(*leading, inputs, size)


def close(found, expected, tolerance=2e-6):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max()))


def moved(weights, layer, row, column, by):
    layers = [*weights.layers]
    layers[layer] = layers[layer].at[row, column].add(by)
    return weights._replace(layers=tuple(layers))


@needs_a_compiler
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_that_of_jax(native, shape):
    given = arrays(*shape)
    close(jax.jit(_native._step)(*given), jax.jit(lambda *g: _lstm_cell.step(*g)[:3])(*given))


@needs_a_compiler
@pytest.mark.parametrize("shape", SHAPES)
def test_a_window_has_the_gradient_of_jax(native, shape):
    weights, h, c, _ = arrays(*shape)
    x = jnp.stack([arrays(*shape)[3] * (1 + t) for t in range(WINDOW)])
    d = jnp.sin(jnp.arange(WINDOW * shape[3], dtype=jnp.float32)).reshape(WINDOW, shape[3])
    gradient = lambda window: jax.jit(jax.grad(lambda w: jnp.vdot(d, window(w, h, c, x))))(weights)
    close(gradient(_native._window), gradient(_lstm_cell.window), 1e-5)


@needs_a_compiler
def test_a_gradient_is_the_finite_difference_in_double_precision(native):
    weights, h, c, _ = arrays(2, 4, 2, 9)
    x = jnp.stack([arrays(2, 4, 2, 9)[3] * (1 + t) for t in range(WINDOW)])
    found = jax.grad(lambda w: _native._window(w, h, c, x).sum())(weights)
    with jax.enable_x64(True):
        double = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), tree)
        w64, rest = double(weights), double((h, c, x))
        total = jax.jit(lambda w: _lstm_cell.window(w, *rest).sum())
        for layer, row, column in ((0, 3, 1), (0, 9, 5), (1, 0, 0), (1, 15, 8), (1, 6, 7)):
            slope = (total(moved(w64, layer, row, column, 1e-6)) - total(moved(w64, layer, row, column, -1e-6))) / 2e-6
            assert found.layers[layer][row, column] == pytest.approx(float(slope), rel=2e-5, abs=2e-5)


@needs_a_compiler
@pytest.mark.parametrize("of", ["tasks", "tasks of tasks", "optimizers", "optimizers with tasks", "tasks with optimizers"])
def test_under_vmap(native, of):
    plain, step = lambda *g: _lstm_cell.step(*g)[:3], _native._step
    weights, *rest = arrays(2, 5, 2, 10)
    phis = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf, 2 * leaf]), weights)
    batch = lambda *sizes: arrays(2, 5, 2, 10, *sizes)[1:]
    each, shared = (None, 0, 0, 0), (0, None, None, None)
    mapped, given = {
        "tasks": (lambda f: jax.vmap(f, each), (weights, *batch(4))),
        "tasks of tasks": (lambda f: jax.vmap(jax.vmap(f, each), each), (weights, *batch(2, 3))),
        "optimizers": (lambda f: jax.vmap(f, shared), (phis, *rest)),
        "optimizers with tasks": (lambda f: jax.vmap(jax.vmap(f, each)), (phis, *batch(3, 4))),
        "tasks with optimizers": (lambda f: jax.vmap(jax.vmap(f, shared), each), (phis, *batch(4))),
    }[of]
    close(jax.jit(mapped(step))(*given), jax.jit(mapped(plain))(*given))


@needs_a_compiler
def test_its_derivatives_are_those_of_jax_of_the_second_order_too(native):
    weights, h, c, x = arrays(2, 4, 2, 7)
    of = lambda step: jax.jit(jax.grad(lambda x: jax.grad(lambda w: step(w, h, c, x)[2].sum())(weights).kernel.sum()))(x)
    close(of(_native._step), of(_lstm_cell.step), 1e-6)


@needs_a_compiler
def test_what_is_not_a_number_stays_so(native):
    weights, h, c, x = arrays(2, 4, 2, 40)
    found = _native._step(weights, h, c, x.at[0, 7].set(jnp.nan))[2]
    assert np.flatnonzero(np.isnan(found)).tolist() == [7]


@needs_a_compiler
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("tasks", [1, 4])
def test_a_meta_gradient_by_it(native, monkeypatch, devices, tasks):
    """Of tasks side by side and of one that the devices share, over two windows."""
    if jax.device_count() < devices:
        pytest.skip("one device alone")
    problem = registry.problem.build(QuadraticSpec(dimension=6), None)

    def gradients():
        family = registry.optimizer.build(registry.optimizer.specs()["lstm"](hidden=5, averages={}))
        build = lambda m, d: registry.estimator.build(ReplaySpec(window=4), problem, family, m, Objective((1.0,) * 8), d)
        made = _sharding.over_tasks(build, tasks, devices)
        phi = family.init(jax.random.key(0), {"theta": jnp.zeros(6)})
        state, found = jax.jit(made.init)(jax.random.key(1), phi, problem.data["train"]), []
        for _ in range(2):
            result, state = jax.jit(made.estimate)(jax.random.key(2), phi, problem.data["train"], state)
            found.append((result.grad, result.loss))
        return found

    by_native = gradients()
    monkeypatch.setenv("L2L_NATIVE", "off")
    _native._loaded.cache_clear()
    for (a, f), (b, g) in zip(by_native, gradients(), strict=True):
        assert float(f) == pytest.approx(float(g), rel=1e-5)
        close(a, b, 2e-4)


def test_without_a_compiler_jax_serves(monkeypatch):
    monkeypatch.setenv("L2L_NATIVE", "on")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    _native._loaded.cache_clear()
    assert _native.described() == "XLA: no C++ compiler"
    given = arrays(2, 4, 2, 7)
    close(_native.step(*given), _lstm_cell.step(*given)[:3], 0)
    _native._loaded.cache_clear()


@needs_a_compiler
def test_a_source_that_cannot_be_compiled_leaves_jax(monkeypatch, tmp_path):
    monkeypatch.setenv("L2L_NATIVE", "on")
    (tmp_path / "broken.cc").write_text("this is no C++\n")
    monkeypatch.setattr(_native, "SOURCE", tmp_path / "broken.cc")
    _native._loaded.cache_clear()
    assert "cannot be compiled" in _native.described() and not _native.serves(arrays(1, 2, 1, 3)[0])
    _native._loaded.cache_clear()


FLAGS = [["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma"], ["-mavx2", "-mfma"], []]


@needs_a_compiler
@pytest.mark.parametrize("flags", FLAGS if platform.machine() == "x86_64" else FLAGS[-1:], ids=lambda flags: "".join(flags[:1]))
def test_its_arithmetic_and_its_memory(tmp_path, flags):
    """A stand-alone driver compares it with double precision, under the sanitizers where the compiler has them."""
    told = Path("/proc/cpuinfo").read_text().split() if flags else []
    supported = {f"-m{word}" for word in told}
    if flags and not set(flags) <= supported:
        pytest.skip("this machine has not these instructions")
    source, program = ROOT / "tests" / "optimizers" / "native_driver.cc", tmp_path / "driver"
    command = [COMPILER, "-std=c++17", "-O1", "-DL2L_ISA=x", *flags, str(source), "-o", str(program)]
    sanitized = subprocess.run([*command, "-fsanitize=address,undefined", "-fno-sanitize-recover=all"], capture_output=True)
    if sanitized.returncode:  # a compiler without their libraries
        subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
