"""What limits on many devices: the noise scale and the links against closed forms, and a small measurement."""

import json
import math

import numpy as np
import pytest

from l2lcli.bench import grow
from l2lcli.bench.links import Link, collective, simulated
from tests.command_line import CONFIG, l2l


def test_the_noise_scale_is_that_of_drawn_gradients():
    draw = np.random.default_rng(0)
    gradient, deviation = np.array([3.0, -4.0, 0.0]), np.array([1.0, 2.0, 2.0])  # tr(Σ) = 9, |G|² = 25
    grads = gradient + deviation * draw.standard_normal((4000, 3, 3))
    assert grow.noise_scale(grads) == pytest.approx(9 / 25, rel=0.05)
    assert grow.noise_scale(draw.standard_normal((2, 3, 3)) - 0 * gradient) > 0
    assert grow.noise_scale(np.array([[[1.0]], [[-1.0]]])) == math.inf


def test_an_exchange_is_the_quicker_of_two():
    link = Link(latency=1.0, bandwidth=10.0)
    assert collective(link, 1, 1000) == 0
    assert collective(link, 8, 0) == 3  # recursive doubling: log2(8) messages
    assert collective(link, 8, 10_000) == 14 * (1 + 10_000 / 8 / 10)  # a ring: 2 (8 - 1) messages of an eighth
    assert collective(link, 5, 0) == 3


def test_devices_wait_for_the_slowest():
    nothing = Link(0.0, math.inf)
    even = simulated(nothing, 64, 2.0, 0.0, 128, 100)
    assert even == {"devices": 64, "tasks": 128, "seconds": 2.0, "collective": 0.0, "busy": 1.0}
    assert simulated(nothing, 1024, 2.0, 0.0, 128, 100)["tasks"] == 1024  # one each
    two = simulated(nothing, 2, 1.0, 0.1, 2, 100)["seconds"]
    assert two == pytest.approx(1 + 0.1 / math.sqrt(math.pi), rel=0.005)  # the greater of two normal draws


def test_an_experiment_is_measured(tmp_path):
    (tmp_path / "small.yaml").write_text(CONFIG)
    out, _ = l2l(tmp_path, "bench", "--grow", "small.yaml", "--json", JAX_NUM_CPU_DEVICES="2")
    found = json.loads(out)
    assert (found["tasks"], found["parameters"]) == (2, 35)
    [row] = found["here"]
    assert (row["devices"], row["collectives"]) == (2, 1)
    assert row["bytes"] >= 4 * (35 + 1)  # the gradient and the loss
    assert [each["devices"] for each in found["there"]["in a node"]] == [8, 64, 1024]
