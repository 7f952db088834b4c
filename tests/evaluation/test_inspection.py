"""What is recorded of an update rule is what the rule does, by closed forms and by a loop; the pictures show it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2lcli.evaluation.inspection import LEAVES, QUANTILES, UNITS, inspect
from l2lcli.inner.unroll import fresh
from l2lcli.optimizers.hand import hand
from l2lcli.optimizers.lstm import LstmSpec, lstm
from l2lcli.problems.quadratic import QuadraticSpec, quadratic
from l2lcli.reports.figures import drawing, updates
from l2lcli.runs.artefact import read_artefact, write_artefact
from l2lcli.runs.files import RunError

PROBLEM, KEY, STEPS = quadratic(QuadraticSpec(dimension=5)), jax.random.key(3), 7


def phi(rate):
    return {"log_learning_rate": jnp.log(jnp.float32(rate))}


@pytest.fixture(scope="module")
def recorded():
    family = lstm(LstmSpec(layers=2, hidden=30))
    weights = family.init(jax.random.key(1), {"theta": jnp.zeros(5)})
    optimizers = {"lstm": (family, weights), "sgd": (hand("sgd"), phi(0.02)), "adam": (hand("adam"), phi(0.1))}
    return family, weights, inspect(PROBLEM, optimizers, KEY, STEPS)


def test_the_learned_updates_are_those_of_a_loop(recorded):
    family, weights, found = recorded
    inner, tx = fresh(PROBLEM, family, weights, KEY, ()), family.bind(weights)
    theta, opt, rows, states = inner.theta, inner.opt, [], []
    for _ in range(STEPS):
        grad = jax.grad(PROBLEM.loss)(theta, inner.task)
        update, opt = tx.update(grad, opt, theta)
        theta = {"theta": theta["theta"] + update["theta"]}
        rows.append((grad["theta"], update["theta"]))
        states.append(opt.c[1])
    grads, updates = (np.array(column) for column in zip(*rows, strict=True))
    places = [int(name.removeprefix("theta[").removesuffix("]")) for name in found.meta["coordinates"]]
    assert places == np.argsort(np.abs(grads).mean(0))[[4, 2]].tolist()  # of ranks 4, 3.6 and 2 of 5
    np.testing.assert_allclose(found.arrays["gradient"], grads[:, places], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.arrays["update/lstm"], updates[:, places], rtol=1e-3, atol=1e-6)
    sizes = np.quantile(np.abs(updates / grads), QUANTILES, axis=1).T
    np.testing.assert_allclose(found.arrays["step_size/lstm"], sizes, rtol=1e-3)
    np.testing.assert_allclose(found.arrays["uphill/lstm"], (updates * grads > 0).mean(1))
    assert {key for key in found.arrays if key.startswith("state/")} == {"state/c/0", "state/c/1", "state/h/0", "state/h/1"}
    shown = found.arrays["state/c/1"]
    assert shown.shape == (STEPS, UNITS, 2)
    np.testing.assert_allclose(shown, np.array(states)[:, :UNITS, places], rtol=2e-3, atol=1e-4)


def test_the_others_see_the_same_gradients(recorded):
    arrays = recorded[2].arrays
    np.testing.assert_allclose(arrays["update/sgd"], -0.02 * arrays["gradient"], rtol=1e-5)
    np.testing.assert_allclose(arrays["step_size/sgd"], 0.02, rtol=1e-5)
    assert not arrays["uphill/sgd"].any()
    m = v = 0.0
    for t, gradient in enumerate(arrays["gradient"], start=1):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        step = -0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(arrays["update/adam"][t - 1], step, rtol=1e-3, atol=1e-6)


def test_coordinates_have_names_and_gradients_of_zero_do_not_count():
    theta = {"kernel": jnp.ones((2, 3)), "scale": jnp.float32(1.0)}
    weigh = jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 9.0]])
    problem = PROBLEM._replace(
        init=lambda key, data: (theta, ()), batch=lambda key, task, data: (),
        loss=lambda theta, _: (weigh * theta["kernel"]).sum() + 100 * theta["scale"],
    )  # fmt: skip
    found = inspect(problem, {"sgd": (hand("sgd"), phi(0.5))}, KEY, 1000)
    assert found.arrays["gradient"].shape == (100, 3)
    assert found.meta["coordinates"][:2] == ["scale", "kernel[1, 2]"]
    np.testing.assert_allclose(found.arrays["step_size/sgd"], 0.5, rtol=1e-6)


def test_the_file_is_small_whatever_the_optimizer(tmp_path):
    family, steps = lstm(LstmSpec(layers=8, hidden=64)), 100
    weights = family.init(jax.random.key(1), {"theta": jnp.zeros(5)})
    found = inspect(PROBLEM, {"lstm": (family, weights)}, KEY, steps)
    assert sum(key.startswith("state/") for key in found.arrays) == LEAVES
    write_artefact(tmp_path / updates.FILE, *found)
    assert (tmp_path / updates.FILE).stat().st_size < 300_000


@pytest.mark.filterwarnings("error")
def test_pictures_show_what_was_recorded(recorded, tmp_path):
    write_artefact(tmp_path / updates.FILE, *recorded[2])
    figures = {figure.name: figure for figure in updates.planned(tmp_path, "quadratic")}
    assert list(figures) == ["updates", "step_sizes", "states"]
    axes = figures["updates"].draw().axes
    drawn = {line.get_label(): line.get_ydata() for line in axes[2].lines}
    np.testing.assert_allclose(drawn["sgd"], recorded[2].arrays["update/sgd"][:, 0])
    assert len(figures["states"].draw().axes[0].lines) == UNITS
    for figure in figures.values():
        assert "<svg" in drawing.save(figure, tmp_path)
    assert updates.planned(tmp_path / "none", "x") == []


@pytest.mark.filterwarnings("error")
def test_strange_and_damaged_recordings(recorded, tmp_path):
    arrays, meta = recorded[2]
    wild = {key: np.full_like(array, np.nan) for key, array in arrays.items() if not key.startswith("state/")}
    write_artefact(tmp_path / updates.FILE, wild, meta)
    for figure in updates.planned(tmp_path, "x"):
        drawing.save(figure)
    for wrong in ({"gradient": np.zeros(3)}, {"uphill/sgd": np.zeros(3)}, {"state/c/0": np.zeros((2, 2))}):
        write_artefact(tmp_path / updates.FILE, {**arrays, **wrong}, meta)
        with pytest.raises(RunError, match=r"inspection.npz: damaged: [^\n]+$"):
            updates.planned(tmp_path, "x")
    for wrong in ({"coordinates": None}, {"optimizers": []}, {"optimizers": [3]}, {"coordinates": "ab"}):
        write_artefact(tmp_path / updates.FILE, arrays, {**meta, **wrong})
        with pytest.raises(RunError, match=r"inspection.npz: damaged: [^\n]+$"):
            updates.planned(tmp_path, "x")
    assert set(read_artefact(tmp_path / updates.FILE)[0]) == set(arrays)
