"""The NumPy steps of docs/examples make the updates that JAX makes, on a training that JAX recorded.

`python -m tests.docs.test_numpy_step` prints the tables of docs/guides/other-frameworks.md: differences and times.
"""

import importlib
import re
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

import l2lcli
from l2lcli import registry, tree
from l2lcli.runs import trained
from tests.support import ROOT

EXAMPLES = ROOT / "docs/examples"
FILES = ("numpy_lstm", "numpy_scaled", "numpy_tensors")
STEPS = 100
SHIPPED = sorted(path.stem for path in trained.SHIPPED.glob("*.npz"))
CASES = [(name, horizon) for name in SHIPPED for horizon in ((0, STEPS) if name.startswith("general") else (0,))]
# A convolution, matrices with many inputs and with some that are always 0, vectors, a number, and what gets no gradient.
SHAPES = {"conv": (3, 3, 1, 4), "hidden": (256, 3), "bias": (3,), "out": (3, 10), "pixels": (64, 10),
          "gain": (), "unused": (3, 2)}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def importable():
    """As for one who runs a file of that folder; products on one core, or two test processes get in each other's way."""
    sys.path.insert(0, str(EXAMPLES))
    with threadpool_limits(1):
        yield
    sys.path.remove(str(EXAMPLES))
    for name in FILES:
        sys.modules.pop(name, None)


def numpy_step(name):
    """(init, step) of a shipped optimizer."""
    kind = trained.read(name).optimizer.kind
    return importlib.import_module(f"numpy_{kind}").load(trained.SHIPPED / f"{name}.npz")


def loss(theta, batch):
    """A convolution over 8 x 8 digits, whose patches [B, 64, 9] are cut already, and a layer beside it."""
    patches, labels = batch
    planes = jax.nn.relu(patches @ theta["conv"].reshape(9, 4)).reshape(len(patches), -1)
    hidden = jnp.tanh(planes @ theta["hidden"] + theta["bias"][None])
    logits = hidden @ theta["out"] + patches[:, :, 4] @ theta["pixels"]
    return optax.softmax_cross_entropy_with_integer_labels(jnp.exp(theta["gain"]) * logits, labels).mean()


def batches(dtype):
    images, labels = load_digits(return_X_y=True)
    padded = np.pad(images.reshape(-1, 8, 8) / 16, ((0, 0), (1, 1), (1, 1)))
    patches = np.stack([padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)], -1).reshape(-1, 64, 9)
    rows = np.random.default_rng(0).integers(0, len(labels), (STEPS, 32))
    return patches[rows].astype(dtype), labels[rows]


def begun(dtype):
    draw = np.random.default_rng(1)
    return {key: np.asarray(draw.normal(size=shape) * 0.1, dtype) for key, shape in SHAPES.items()}


def recorder(name, dtype):
    """A function of the horizon: (gradients, losses, parameters, updates) of each step of a training by that optimizer."""
    found = trained.read(name)
    tx = registry.optimizer.build(found.optimizer).bind(tree.nest({key: leaf.astype(dtype) for key, leaf in found.phi.items()}))

    @jax.jit
    def run(theta, data, horizon):
        def step(carry, batch):
            theta, state = carry
            value, grads = jax.value_and_grad(loss)(theta, batch)
            updates, state = tx.update(grads, state, theta, value=value, horizon=horizon)
            return (optax.apply_updates(theta, updates), state), (grads, value, theta, updates)

        return jax.lax.scan(step, (theta, tx.init(theta)), data)[1]

    return lambda horizon: jax.tree.map(np.asarray, run(begun(dtype), batches(dtype), horizon))


def largest(name, horizon, recorded):
    """The largest difference between an update of NumPy and of JAX, in units of the root mean square of a tensor's update."""
    init, step = numpy_step(name)
    grads, values, theta, updates = recorded
    at = lambda t, of: [of[key][t] for key in SHAPES]
    state, worst = init(at(0, theta)), 0.0
    for t in range(STEPS):
        if name.startswith("general"):
            found, state = step(at(t, grads), state, at(t, theta), values[t], horizon)
        else:
            found, state = step(at(t, grads), state)
        for ours, theirs in zip(found, at(t, updates), strict=True):
            off = np.abs(ours - theirs).max()
            worst = max(worst, float(off / np.sqrt(np.mean(np.float64(theirs) ** 2))) if off else 0.0)
    return worst


@pytest.mark.parametrize("name", SHIPPED)
def test_the_updates_are_those_of_jax(name):
    with jax.enable_x64(True):
        record = recorder(name, np.float64)
        recorded = {horizon: record(horizon) for of, horizon in CASES if of == name}
    for horizon, found in recorded.items():
        values, updates = found[1], found[3]
        assert values.dtype == np.float64 and values[-10:].mean() < 0.8 * values[:10].mean()  # it was a training
        assert largest(name, horizon, found) < 1e-6
        assert updates["unused"].any() != name.startswith("general")


@pytest.mark.parametrize(
    ("shapes", "first"), [([(3, 4), (2, 2, 3, 2), (5,), ()], [1e-4, 1e-3, 1e2]), ([(5,), ()], [1.0, -9.0000001, 1.0])]
)
def test_they_are_on_gradients_and_losses_of_any_size_too(shapes, first):
    """What is cut off in what the step size rests on is reached by no training that goes well; and there may be no matrix."""
    draw = np.random.default_rng(2)
    swing = 10.0 ** np.r_[-4, draw.uniform(-4, 4, 19)].reshape(20, 1)
    like = lambda scale, shape: (draw.normal(size=(20, int(np.prod(shape)))) * scale).reshape(20, *shape)
    grads, theta = [like(swing, shape) for shape in shapes], [like(0.02 * 2500**k, shape) for k, shape in enumerate(shapes)]
    values = np.r_[first, swing[3:, 0]]
    init, step = numpy_step("general")
    found = trained.read("general")
    with jax.enable_x64(True):
        tx = registry.optimizer.build(found.optimizer).bind(tree.nest({k: np.float64(leaf) for k, leaf in found.phi.items()}))
        known, update, state = tx.init([leaf[0] for leaf in theta]), jax.jit(tx.update), init([leaf[0] for leaf in theta])
        for t in range(20):
            at = lambda of, t=t: [leaf[t] for leaf in of]
            expected, known = update(at(grads), known, at(theta), value=values[t], horizon=15)  # which is passed by
            ours, state = step(at(grads), state, at(theta), values[t], 15)
            for a, b in zip(ours, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.sqrt(np.mean(np.square(b))))


def test_the_pages_example_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "general.npz").symlink_to(trained.SHIPPED / "general.npz")
    (example,) = re.findall(r"```python\n(import sys.*?)```", (ROOT / "docs/guides/other-frameworks.md").read_text(), re.S)
    exec(example, {})
    assert 0 <= float(capsys.readouterr().out) < 0.05  # of 55 at the start


def test_each_is_short_and_needs_numpy_alone():
    code = f"import sys; sys.path.insert(0, {str(EXAMPLES)!r}); import {', '.join(FILES)}; "
    code += "print({name.split('.')[0] for name in sys.modules} & {'l2lcli', 'jax', 'optax', 'scipy', 'sklearn'})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
    assert all(len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 80 for name in FILES)


def differences():
    """Rows of the table: the largest difference where JAX computes in float64, and in float32."""
    for name, horizon in CASES:
        with jax.enable_x64(True):
            whole = largest(name, horizon, recorder(name, np.float64)(horizon))
        yield name, horizon, whole, largest(name, horizon, recorder(name, np.float32)(horizon))


def milliseconds(name, rounds=50):
    """Medians of a step on 784-20-10, in turn: NumPy's, JAX's as one program, optax.adam's."""
    draw = np.random.default_rng(0)
    theta = [np.float32(draw.normal(size=shape) * 0.1) for shape in ((784, 20), (20,), (20, 10), (10,))]
    grads = [np.float32(draw.normal(size=leaf.shape) * 0.01) for leaf in theta]
    init, step = numpy_step(name)
    more = (theta, 1.0, STEPS) if name.startswith("general") else ()
    ours, times, jitted = init(theta), [[], [], []], []
    for tx in (l2lcli.load(name, horizon=STEPS), optax.with_extra_args_support(optax.adam(1e-3))):
        jitted.append([jax.jit(tx.update), tx.init(theta)])
    for _ in range(rounds):
        begun = time.perf_counter()
        _, ours = step(grads, ours, *more)
        times[0].append(time.perf_counter() - begun)
        for of, row in zip(jitted, times[1:], strict=True):
            begun = time.perf_counter()
            updates, of[1] = of[0](grads, of[1], theta, value=jnp.float32(1))
            jax.block_until_ready((updates, of[1]))
            row.append(time.perf_counter() - begun)
    return [1e3 * statistics.median(row) for row in times]


if __name__ == "__main__":
    sys.path.insert(0, str(EXAMPLES))
    print("| optimizer | horizon | JAX in float64 | JAX in float32 |\n|---|---|---|---|")
    for name, horizon, *found in differences():
        print(f"| `{name}` | {horizon or 'none'} | {' | '.join(f'{x:.0e}' for x in found)} |", flush=True)
    print("\n| ms per step, 784-20-10 | NumPy | JAX | optax.adam |\n|---|---|---|---|")
    for name in SHIPPED:
        print(f"| `{name}` | {' | '.join(f'{x:.2g}' for x in milliseconds(name))} |", flush=True)
