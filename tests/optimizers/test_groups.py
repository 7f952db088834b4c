"""A family per parameter group: each member has its own leaves and nothing else, applied, replayed, stored and refused."""

import subprocess
import sys
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l2lcli
from l2lcli import config, experiment, registry
from l2lcli.base import Objective, Problem, Spec
from l2lcli.optimizers.groups import Group, GroupsSpec, groups
from l2lcli.optimizers.lstm import LstmSpec
from l2lcli.problems.classification import ClassificationSpec
from l2lcli.problems.quadratic import QuadraticSpec
from l2lcli.runs import trained
from l2lcli.runs.artefact import write_artefact
from l2lcli.runs.files import RunError
from l2lcli.tree import misfit, to_host
from tests.estimators.test_replay import as_dtype, relative
from tests.support import ROOT

T, M = 4, 2
WEIGHTS = (0.5, 1.0, 0.3, 0.8)
HAND = registry.optimizer.specs()
ADAM, FIXED = HAND["adam"](learning_rate=0.02), HAND["adam"](learning_rate=0.02, learned=False)
SMALL, LARGE = LstmSpec(layers=1, hidden=2), LstmSpec(layers=1, hidden=3)


def of(first, second, glob="*bias"):
    """Biases and the rest: with a network's leaves, both are in several pieces of the raveled theta."""
    named = {"z": Group(match=["nothing", glob], optimizer=first), "a": Group(match=["*"], optimizer=second)}
    return groups(GroupsSpec(groups=named))


def two_leaves():
    """The quadratic in which theta comes in pieces of 4 (transposed) and 3 coordinates."""
    whole = registry.problem.build(QuadraticSpec(dimension=7), None)

    def init(key, data):
        theta, task = whole.init(key, data)
        return {"kernel": theta["theta"][3:].reshape(2, 2), "in": {"bias": theta["theta"][:3]}}, task

    def loss(theta, batch):
        return whole.loss({"theta": jnp.concatenate([theta["in"]["bias"], theta["kernel"].T.ravel()])}, batch)

    return Problem(init, whole.batch, loss, whole.data)


PROBLEMS = {
    "quadratic": two_leaves(),
    "digits": registry.problem.build(ClassificationSpec(hidden=[2], batch_size=8), None),
}


def test_each_member_trains_its_own_leaves_and_no_others():
    theta = {"conv_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}, "fc": {"bias": jnp.full(2, 0.5)}}
    family = of(SMALL, ADAM, "[c]onv_?/*")
    phi = family.init(jax.random.key(0), theta)
    assert phi["z"]["lstm_0"]["recurrent"].shape == (8, 2)
    own = registry.optimizer.build(SMALL).bind(phi["z"]), optax.adam(0.02)
    parts = [{"conv_0": theta["conv_0"]}, {"fc": theta["fc"]}]
    states = [tx.init(part) for tx, part in zip(own, parts, strict=True)]
    tx = family.bind(phi)
    state = tx.init(theta)
    for t in range(3):
        grad = jax.tree.map(lambda x, t=t: jnp.sin(jnp.arange(x.size, dtype=x.dtype) + t).reshape(x.shape), theta)
        found, state = tx.update(grad, state, theta, value=jnp.float32(t))
        for i, name in enumerate(("conv_0", "fc")):
            expected, states[i] = own[i].update({name: grad[name]}, states[i], {name: theta[name]})
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found[name], expected[name])


def test_the_loss_and_theta_reach_every_member(monkeypatch):
    seen = {}

    class WholeSpec(Spec):
        kind: Literal["whole"] = "whole"

    def whole(spec):
        def update(grad, state, theta=None, *, value, **extra):
            seen[jax.tree.structure(grad)] = value, theta
            return grad, state

        return l2lcli.LearnedOptimizer(
            lambda key, theta: {}, lambda phi: optax.GradientTransformationExtraArgs(dict.copy, update)
        )

    monkeypatch.setitem(registry.optimizer._entries, "whole", (WholeSpec, whole))
    family, theta = of(WholeSpec(), WholeSpec(), "b"), {"a": jnp.ones(2), "b": jnp.zeros(1)}
    family.bind({}).update(theta, family.bind({}).init(theta), theta, value=3.0)
    assert sorted(len(jax.tree.leaves(t)) for _, t in seen.values()) == [1, 1]
    assert {value for value, _ in seen.values()} == {3.0}
    # What cannot be replayed is differentiated.
    estimators = registry.estimator.specs()
    with pytest.raises(ValueError, match="cannot be replayed"):
        registry.estimator.build(estimators["replay"](), PROBLEMS["quadratic"], family, M, Objective(WEIGHTS))
    registry.estimator.build(estimators["auto"](), PROBLEMS["quadratic"], family, M, Objective(WEIGHTS))
    # A kind that another file registers is a member by its name, and groups are not.
    union = registry.optimizer.specs()["groups"](groups={"a": {"match": ["*"], "optimizer": {"kind": "whole"}}})
    assert type(union.groups["a"].optimizer) is WholeSpec


def gradients(kind, family, problem, dtype, window, **more):
    made = registry.estimator.build(
        registry.estimator.specs()[kind](window=window, **more), problem, family, M, Objective(WEIGHTS)
    )
    data = problem.data["train"]
    phi = as_dtype(family.init(jax.random.key(1), problem.init(jax.random.key(0), data)[0]), dtype)
    state, found = as_dtype(made.init(jax.random.key(2), phi, data), dtype), []
    estimate = jax.jit(made.estimate)
    for _ in range(T // window):
        result, state = estimate(jax.random.key(3), phi, data, state)
        assert jax.tree.structure(result.grad) == jax.tree.structure(phi)
        found.append(result)
    return found, state.theta


@pytest.mark.parametrize(
    ("problem", "members", "dtype", "block"),
    [
        ("quadratic", (SMALL, LARGE), "float64", 3),
        ("quadratic", (LARGE, ADAM), "float64", 2),
        ("digits", (SMALL, ADAM), "float32", 7),
    ],
)
def test_replay_equals_autodiff(problem, members, dtype, block):
    """To 1e-5 in float32 and 1e-12 in float64; blocks that do not divide, windows that carry state on, unequal weights."""
    tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
    with jax.enable_x64(dtype == "float64"):
        family = of(*members)
        plain, after = gradients("autodiff", family, PROBLEMS[problem], jnp.dtype(dtype), 2, checkpoint=False)
        replayed, end = gradients("replay", family, PROBLEMS[problem], jnp.dtype(dtype), 2, block=block)
        for ours, theirs in zip(replayed, plain, strict=True):
            for name in theirs.grad:
                assert relative(ours.grad[name], theirs.grad[name]) < tolerance, name
            np.testing.assert_allclose(ours.loss, theirs.loss, rtol=tolerance)
        assert relative(end, after) < tolerance


SCRIPT = """
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
import jax.numpy as jnp
from l2lcli import registry
from l2lcli.base import Objective, Problem
from l2lcli.estimators.replay import ReplaySpec
from tests.support import ROOT
from tests.optimizers.test_groups import ADAM, SMALL, of

# One task, split: of the LSTM's 3 coordinates one device has 2; of Adam's 2 each has as many as there are tasks.
problem = Problem(
    lambda key, data: ({"x": jnp.ones(3), "y_bias": jnp.ones(2)}, ()), lambda key, task, data: (),
    lambda theta, batch: jnp.sum(theta["x"] ** 2) + jnp.sum(theta["y_bias"] ** 4) * jnp.sum(theta["x"]), {"train": ()},
)
family, found = of(ADAM, SMALL), []
phi = family.init(jax.random.key(1), problem.init(jax.random.key(0), ())[0])
for devices in (1, 2):
    made = registry.estimator.build(ReplaySpec(window=2, block=2), problem, family, 1, Objective((1.0,) * 4), devices)
    state, estimate = made.init(jax.random.key(2), phi, ()), jax.jit(made.estimate)
    for _ in range(2):
        result, state = estimate(jax.random.key(3), phi, (), state)
    found.append(jax.tree.map(np.asarray, (result, state.theta, state.opt)))
trim = lambda a, b: b[..., : a.shape[-1]] if a.ndim else b  # the LSTM's 3 coordinates are 4 on two devices
found[1] = jax.tree.map(trim, *found)
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *found)
print("equal")
"""


def test_two_devices_equal_one():
    done = subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "equal\n", done.stderr


CONFIG = """
optimizer:
  kind: groups
  groups:  # that z comes first is what makes a the rest
    z: {match: ["*bias"], optimizer: {kind: adam, learning_rate: 0.02, learned: false}}
    a: {match: ["*"], optimizer: {kind: lstm, layers: 1, hidden: 2}}
"""


def test_a_stored_optimizer_is_the_same_in_anybodys_loop(tmp_path):
    (tmp_path / "c.yaml").write_text(CONFIG)
    loaded = config.load(tmp_path / "c.yaml")
    theta = {"Dense_0": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}}
    family = registry.optimizer.build(loaded.optimizer)
    phi = family.init(jax.random.key(0), theta)
    write_artefact(tmp_path / "mine.npz", to_host(phi), {"config": loaded.model_dump(mode="json")})
    tx, own = l2lcli.load(tmp_path / "mine.npz"), family.bind(phi)
    found, expected = (t.update(theta, t.init(theta), theta)[0] for t in (tx, own))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    first = optax.adam(0.02)
    bias = first.update(theta["Dense_0"]["bias"], first.init(theta["Dense_0"]["bias"]))[0]
    np.testing.assert_allclose(found["Dense_0"]["bias"], bias, rtol=1e-6)
    with pytest.raises(ValueError, match=r"^group 'z' matches no parameter .* there are kernel$"):
        tx.init({"kernel": jnp.ones(2)})
    smaller = of(FIXED, SMALL).init(jax.random.key(0), theta) | {"a": {}}
    assert misfit(to_host(phi), smaller) == "a/lstm_0/bias is not needed"


FAULTS = """
optimizer:
  kind: groups
  groups:
    o/t: {match: [], optimizer: {kind: lstm, hiden: 3}}
    match: {match: "*", optimizer: {kind: groups}}
    nix: {mach: ["a"], optimizer: {kind: adm}}
    a: {match: [""], optimizer: {hidden: 3}}
    optimizer: {match: ["a"], optimizer: {kind: lstm, preprocess: {kind: log_sign, k: 3}}}
    b: 3
"""
LINES = """
c.yaml:5:5: optimizer.groups.o/t: 'o/t' does not match ^[A-Za-z0-9][A-Za-z0-9_-]*$
c.yaml:5:11: optimizer.groups.o/t.match: must not be empty
c.yaml:5:46: optimizer.groups.o/t.optimizer.hiden: unknown key; did you mean 'hidden'?
c.yaml:6:13: optimizer.groups.match.match: expected a list, got '*'
c.yaml:6:37: optimizer.groups.match.optimizer.kind: unknown kind 'groups'; known: adadelta, adagrad, adam,
c.yaml:7:5: optimizer.groups.nix.match: must be given
c.yaml:7:11: optimizer.groups.nix.mach: unknown key; did you mean 'match'?
c.yaml:7:36: optimizer.groups.nix.optimizer.kind: unknown kind 'adm'; did you mean 'adam'? Known: adadelta,
c.yaml:8:17: optimizer.groups.a.match.0: must not be empty
c.yaml:8:22: optimizer.groups.a.optimizer.kind: must be given
c.yaml:9:84: optimizer.groups.optimizer.optimizer.preprocess.k: unknown key; known: kind, p
c.yaml:10:5: optimizer.groups.b: expected a mapping, got 3
"""


def test_a_bad_config_gets_a_line_a_fault(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(FAULTS)
    with pytest.raises(config.ConfigError) as info:
        config.load("c.yaml")
    for found, expected in zip(info.value.faults, LINES.split("\n")[1:-1], strict=True):
        assert found.startswith(expected)


LEFT = "matches no parameter that an earlier group does not take"


def test_what_only_the_parameters_show_to_be_wrong_is_an_error_of_the_config(tmp_path):
    (tmp_path / "c.yaml").write_text(CONFIG)
    for change, reason in {
        "optimizer.groups.a.match=[layers_*]": "optimizer: no group matches the parameter 'theta'",
        "optimizer.groups.z.match=[th*]": f"optimizer: group 'a' {LEFT}; there are theta",
        "optimizer={kind: adam, learned: false}": "optimizer: nothing of it is learned",
    }.items():
        with pytest.raises(config.ConfigError) as info:
            experiment.build(config.load(tmp_path / "c.yaml", [change]))
        assert info.value.faults == [reason]


TINY = """
problem: {kind: classification, hidden: [3], batch_size: 8}
train: {episodes: 1, tasks: 2, horizon: 2, estimator: {window: 2}, validate_every: 1, validation_seeds: 2}
eval:
  {steps: 2, seeds: 2, tuning_seeds: 2, baselines: [], variants: {deep: {problem.hidden: [3, 3]}, flat: {problem.hidden: []}}}
"""


def test_another_architecture_is_one_where_the_same_globs_match(tmp_path):
    (tmp_path / "c.yaml").write_text(CONFIG + TINY)
    wide = ["problem.hidden=[40]", "optimizer.groups.a.match=[layers_3*]", "optimizer.groups.z.match=['*bias', layers_1*]"]
    here, there = (experiment.build(config.load(tmp_path / "c.yaml", changes)) for changes in ([], wide))
    phi = here.phi()
    assert misfit(to_host(phi), there.phi()) is None
    write_artefact(tmp_path / "optimizer.npz", to_host(phi), {"config": here.config.model_dump(mode="json")})
    assert there.fitted(trained.read(tmp_path / "optimizer.npz").phi, tmp_path)["z"] == {}  # what is not learned is in no file
    assert jax.tree.structure(here.varied("deep", phi).phi()) == jax.tree.structure(phi)
    with pytest.raises(config.ConfigError, match=r"^eval.variants.flat: optimizer: group 'a' matches no parameter"):
        there.varied("flat", phi)
    with pytest.raises(RunError, match=r"^eval.variants.deep: the optimizer's parameters do not fit it: b is not needed$"):
        here.varied("deep", {**phi, "b": jnp.ones(1)})
