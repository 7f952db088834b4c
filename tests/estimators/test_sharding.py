"""Two devices give what one gives: the same optimizees, bit for bit, and the same meta-gradient up to rounding."""

import subprocess
import sys

import pytest

from l2lcli.estimators._sharding import over_tasks

SCRIPT = """
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
import jax.numpy as jnp
from l2lcli import registry
from l2lcli.base import Objective
from l2lcli.estimators import _sharding
from l2lcli.optimizers.lstm import LstmSpec, lstm
from l2lcli.problems.quadratic import QuadraticSpec

problem = registry.problem.build(QuadraticSpec(dimension=4), None)
family = lstm(LstmSpec(hidden=3))
phi = family.init(jax.random.key(1), {"theta": jnp.zeros(4)})
for kind in ("autodiff", "replay"):
    spec = registry.estimator.specs()[kind]
    build = lambda *n: registry.estimator.build(spec(window=5), problem, family, n[0], Objective((1.0,) * 10), n[1])
    found = []
    for devices in (1, 2):
        made = _sharding.over_tasks(build, 4, devices)
        state = jax.jit(made.init)(jax.random.key(2), phi, ())
        starts = np.asarray(state.theta["theta"])
        estimates = []
        for _ in range(2):
            if not estimates:
                compiled = jax.jit(made.estimate).lower(jax.random.key(3), phi, (), state).compile()
                state = jax.device_put(state, compiled.input_shardings[0][3])
            estimate, state = compiled(jax.random.key(3), phi, (), state)
            estimates.append(jax.tree.map(np.asarray, estimate))
        found.append((starts, estimates, np.asarray(state.theta["theta"])))
    assert len(state.theta["theta"].sharding.device_set) == 2, kind
    np.testing.assert_array_equal(found[0][0], found[1][0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found[0][1:], found[1][1:])
    text = compiled.as_text()
    assert 1 <= text.count(" all-reduce(") <= 3, (kind, text.count(" all-reduce("))
from l2lcli.estimators.replay import ReplaySpec
found = []
for devices in (1, 2):  # one task, whose coordinates are split: 4 in blocks of 3, then 6 in blocks of 1 over 2 devices
    for size, block in ((4, 3), (5, 1)):
        small = registry.problem.build(QuadraticSpec(dimension=size), None)
        made = registry.estimator.build(ReplaySpec(window=5, block=block), small, family, 1, Objective((1.0,) * 10), devices)
        state = made.init(jax.random.key(2), phi, ())
        found.append(jax.tree.map(np.asarray, jax.jit(made.estimate)(jax.random.key(3), phi, (), state)[0]))
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found[:2], found[2:])
from l2lcli.estimators._staggered import Horizons, staggered
thetas = []
for devices in (1, 2):  # tasks are spread over horizons of their own: 5 coordinates filled up to 6, or tasks apart
    for tasks in (3, 4):
        build = lambda m, n: registry.estimator.build(ReplaySpec(window=5), small, family, m, Objective((1.0,) * 20), n)
        made = _sharding.over_tasks(build, tasks, devices)
        made = staggered(made, small, family, tasks, Horizons(10, 20, 5, 0))
        spread = lambda: made.restart(jax.random.key(2), 0, phi, (), made.init(jax.random.key(2), phi, ()))
        state = jax.jit(spread)()
        assert state.t.max() > 0
        thetas.append(np.asarray(jax.jit(made.estimate)(jax.random.key(3), phi, (), state)[1].theta["theta"]))
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), thetas[:2], thetas[2:])
print("equal")
"""


ONCE = """
import logging
import jax, jax.numpy as jnp
jax.config.update("jax_num_cpu_devices", 2)
from l2lcli.config.specs import MetaOptimizerSpec, TrainSpec
from l2lcli import registry
from l2lcli.base import Objective
from l2lcli.estimators import _sharding
from l2lcli.estimators.replay import ReplaySpec
from l2lcli.meta.steps import meta_training
from l2lcli.optimizers.lstm import LstmSpec, lstm
from l2lcli.problems.quadratic import QuadraticSpec

compiled = []
class Heard(logging.Handler):
    def emit(self, record):
        compiled.append(record.getMessage())
logging.getLogger("jax").addHandler(Heard())
jax.config.update("jax_log_compiles", True)
problem = registry.problem.build(QuadraticSpec(dimension=4), None)
family = lstm(LstmSpec(layers=1, hidden=3))
for tasks in (2, 1):  # a task on each device; one task, whose coordinates are split
    spec = ReplaySpec(window=5)
    build = lambda *n: registry.estimator.build(spec, problem, family, n[0], Objective((1.0,) * 10), n[1])
    adam = MetaOptimizerSpec(name="adam", learning_rate=0.01, schedule="cosine", clip=1.0, factors={})
    section = TrainSpec(
        episodes=4, horizon=10, tasks=tasks, estimator=spec, validation_seeds=2, weights="all", meta_optimizer=adam
    )
    meta = meta_training(problem, family, _sharding.over_tasks(build, tasks, 2), section)
    root = jax.random.key(0)
    state = meta.place(meta.init(root, family.init(root, {"theta": jnp.zeros(4)}), ()))
    compiled.clear()
    for count in (1, 3, 2):
        state, _ = meta.advance(root, state, (), jnp.int32(count))
    assert int(state.step) == 6
    leaf = state.inner.opt.h[0]
    assert not leaf.sharding.is_fully_replicated, leaf.sharding
    print(sum("Finished XLA compilation of jit(dispatched)" in line for line in compiled))
"""


def test_meta_training_is_compiled_once_not_again_for_what_the_first_dispatch_leaves_on_the_devices():
    done = subprocess.run([sys.executable, "-W", "error", "-c", ONCE], capture_output=True, text=True)
    assert done.stdout == "1\n1\n", done.stderr[-2000:]


def test_two_devices_equal_one_with_one_reduction_per_meta_gradient():
    done = subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr


@pytest.mark.parametrize(("tasks", "devices", "message"), [(4, 10_000, "10000 devices asked for"), (3, 1, None)])
def test_too_many_devices_are_refused(tasks, devices, message):
    if message is None:
        assert over_tasks(lambda tasks, devices: tasks, tasks, devices) == tasks
    else:
        with pytest.raises(ValueError, match=message):
            over_tasks(lambda tasks, devices: tasks, tasks, devices)
