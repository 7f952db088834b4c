"""What is said of updates by the size of gradients is what a loop over the steps finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2lcli.evaluation.response import EDGES, RUNS, respond
from l2lcli.inner.unroll import fresh
from l2lcli.optimizers.hand import hand
from l2lcli.problems.quadratic import QuadraticSpec, quadratic

PROBLEM, KEY, STEPS = quadratic(QuadraticSpec(dimension=6, start="gaussian", start_scale=1.0)), jax.random.key(3), 30


def phi(rate):
    return {"log_learning_rate": jnp.log(jnp.float32(rate))}


def test_sizes_and_opposite_signs_are_those_of_a_loop():
    members = {"momentum": (hand("momentum"), phi(0.01)), "sgd": (hand("sgd"), phi(0.02))}
    found = respond(PROBLEM, members, KEY, STEPS)
    assert found["steps"].tolist() == [1, 2, 3, 5, 10, 17, 30] and (found["edges"] == EDGES).all()
    seen = {int(step): ([], []) for step in found["steps"]}
    for key in jax.random.split(KEY, RUNS):
        inner = fresh(PROBLEM, *members["momentum"], key, ())
        x, trace = np.asarray(inner.theta["theta"], np.float64), 0.0
        w, y = (np.asarray(a, np.float64).squeeze() for a in inner.task)
        x = x.squeeze()
        for step in range(1, STEPS + 1):
            g = 2 * w.T @ (w @ x - y)
            trace = g + 0.9 * trace
            x = x - 0.01 * trace
            if step in seen:
                seen[step][0].append(g)
                seen[step][1].append(-0.01 * trace)
    for k, step in enumerate(found["steps"].tolist()):
        g, u = (np.stack(rows) for rows in seen[step])
        np.testing.assert_allclose(found["opposed/sgd"][k], (u * -g < 0).mean(1).mean(), atol=1e-6)
        bins = np.digitize(np.log10(np.abs(g)), EDGES) - 1
        for b in np.unique(bins):
            assert found["count"][k, b] == (bins == b).sum()
            np.testing.assert_allclose(found["size/momentum"][k, b], np.abs(u[bins == b]).mean(), rtol=1e-3)
            np.testing.assert_allclose(found["size/sgd"][k, b], 0.02 * np.abs(g[bins == b]).mean(), rtol=1e-3)
    assert np.isnan(found["size/sgd"][found["count"] == 0]).all()
    assert 0 < found["opposed/sgd"][-1] < 1


@pytest.mark.parametrize("steps", [1, 4])
def test_short_runs_have_fewer_looks(steps):
    found = respond(PROBLEM, {"sgd": (hand("sgd"), phi(0.01))}, KEY, steps)
    assert found["steps"].tolist() == list(range(1, steps + 1))
