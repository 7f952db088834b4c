"""Families whose updates are a function of whole tensors: replay against autodiff, and what makes them fit any network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2lcli import registry, tree
from l2lcli.base import Objective
from l2lcli.estimators import _sharding
from l2lcli.optimizers import _tensors
from l2lcli.problems.networks import NetworksSpec
from l2lcli.problems.table import TableSpec
from tests.estimators.test_replay import as_dtype, relative

TABLE = registry.problem.build(TableSpec(table="iris", hidden=[4], batch_size=8, activation="tanh"), None)
NETWORKS = registry.problem.build(NetworksSpec(pool=4, depth=[1, 2], width=4.0, batch_size=8.0), None)
T, M = 4, 2
OBJECTIVES = {
    "plain": Objective(tuple(0.3 + 0.2 * t for t in range(T))),
    "log, the end": Objective((1.0,) * T, last=0.5, measure="log"),
    "relative, cut": Objective((1.0,) * T, measure="relative", cut=1.01),
}


def family(**given):
    return registry.optimizer.build(registry.optimizer.specs()["scaled"](**given))


def wild(family, theta, dtype):
    """phi with all its parts at work: those that start at zero, too."""
    phi = as_dtype(jax.jit(family.init)(jax.random.key(1), theta), dtype)
    leaves, structure = jax.tree.flatten(phi)
    keys = jax.random.split(jax.random.key(4), len(leaves))
    moved = [leaf + 0.1 * jax.random.normal(k, leaf.shape, dtype) for leaf, k in zip(leaves, keys, strict=True)]
    return structure.unflatten(moved)


def gradients(kind, optimizer, problem, dtype, window, objective, devices=1, **more):
    spec = registry.estimator.specs()[kind](window=window, **more)
    build = lambda tasks, devices: registry.estimator.build(spec, problem, optimizer, tasks, objective, devices)
    made = _sharding.over_tasks(build, M if devices == 1 else 1, devices)
    data = problem.data["train"]
    phi = wild(optimizer, as_dtype(jax.jit(problem.init)(jax.random.key(0), data)[0], dtype), dtype)
    state, found = as_dtype(jax.jit(made.init)(jax.random.key(2), phi, data), dtype), []
    estimate = jax.jit(made.estimate)
    for _ in range(T // window):
        result, state = estimate(jax.random.key(3), phi, data, state)
        found.append(jax.tree.map(np.asarray, result))
    return found


@pytest.mark.parametrize(
    ("given", "problem", "objective", "window", "block"),
    [
        ({"normalise": "rms"}, TABLE, "plain", 4, 5),
        ({"normalise": "orthogonal"}, NETWORKS, "log, the end", 2, 5),
        ({"rule": None}, TABLE, "plain", 2, 10_000),
        ({"normalise": "none", "rule": {"kind": "lstm", "layers": 1, "hidden": 3}, "hidden": 0}, TABLE, "relative, cut", 2, 5),
    ],
)
def test_replay_equals_autodiff_in_float64(given, problem, objective, window, block):
    with jax.enable_x64(True):
        plain = gradients("autodiff", family(**given), problem, jnp.float64, window, OBJECTIVES[objective])
        replayed = gradients("replay", family(**given), problem, jnp.float64, window, OBJECTIVES[objective], block=block)
        for ours, theirs in zip(replayed, plain, strict=True):
            if not any(leaf.any() for leaf in jax.tree.leaves(theirs.grad)):  # a window before the last half
                assert not any(leaf.any() for leaf in jax.tree.leaves(ours.grad)) and objective == "log, the end"
                continue
            assert relative(ours.grad, theirs.grad) < 1e-9
            np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-9)


def test_two_devices_share_the_coordinates_of_one_task():
    two = gradients("replay", family(normalise="rms"), TABLE, jnp.float32, 2, OBJECTIVES["plain"], devices=2, block=5)
    spec = registry.estimator.specs()["replay"](window=2, block=5)
    alone = registry.estimator.build(spec, TABLE, family(normalise="rms"), 1, OBJECTIVES["plain"], 1)
    data = TABLE.data["train"]
    phi = wild(family(normalise="rms"), jax.jit(TABLE.init)(jax.random.key(0), data)[0], jnp.float32)
    state = jax.jit(alone.init)(jax.random.key(2), phi, data)
    assert relative(two[0].grad, jax.jit(alone.estimate)(jax.random.key(3), phi, data, state)[0].grad) < 1e-4


def test_the_cotangent_of_a_normalised_tensor_is_the_closed_form():
    """u = d / r: (C − u · mean(C u)) / r, over live coordinates; dead ones get none. GENERAL.md's formula, by NumPy."""
    rng = np.random.default_rng(0)
    d, c, live = rng.normal(size=7), rng.normal(size=7), np.array([1, 1, 0, 1, 1, 1, 0], bool)
    with jax.enable_x64(True):
        u, pull = jax.vjp(lambda d: _tensors.sized("rms", d, jnp.array(live), jnp.array([1.0, 7.0])), jnp.array(d))
        found = np.asarray(pull(jnp.array(c))[0])
    r = np.sqrt((d[live] ** 2).mean())
    expected = np.where(live, (c - d / r * (c * d / r)[live].mean()) / r, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.asarray(u), np.where(live, d / r, 0), rtol=1e-9)


def test_orthogonalised_has_the_singular_vectors_of_the_matrix_and_values_near_one():
    for shape in ((5, 3), (3, 5)):
        matrix = np.random.default_rng(1).normal(size=shape)
        found = np.asarray(_tensors.orthogonalised(jnp.asarray(matrix, jnp.float32)))
        values = np.linalg.svd(found)[1]
        assert (values > 0.6).all() and (values < 1.3).all()
        left, _, right = np.linalg.svd(matrix, full_matrices=False)
        mixed = left.T @ found @ right.T
        np.testing.assert_allclose(mixed, np.diag(np.diag(mixed)), atol=1e-4)


def test_orthogonalised_is_the_iteration_written_out():
    """σ ↦ aσ + bσ³ + cσ⁵, five times, on the singular values by float64; many of them tiny, none, and dead rows."""
    rng = np.random.default_rng(2)
    for shape, spread in (((30, 8), 1), ((8, 30), 1e4), ((12, 12), 1e8), ((40, 6), 0)):
        left, _, right = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
        values = np.logspace(0, -np.log10(spread or 1), min(shape)) if spread else np.eye(1, min(shape))[0]
        matrix = left * values @ right
        matrix[-1] = 0
        found = np.asarray(_tensors.orthogonalised(jnp.asarray(matrix, jnp.float32)))
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        values = values / np.sqrt((values**2).sum())
        a, b, c = _tensors.NEWTON_SCHULZ
        for _ in range(5):
            values = a * values + b * values**3 + c * values**5
        assert np.linalg.norm(found - left * values @ right, 2) < 0.004
        assert not found[-1].any()


def test_updates_do_not_depend_on_the_scale_of_the_loss_and_dead_coordinates_stay():
    optimizer = family()
    theta = {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3), "gain": jnp.ones(())}
    grad = jax.tree.map(lambda x: jax.random.normal(jax.random.key(0), x.shape), theta)
    grad["kernel"] = grad["kernel"].at[1].set(0)
    tx = optimizer.bind(wild(optimizer, theta, jnp.float32))
    step = jax.jit(lambda grad, state, value: tx.update(grad, state, theta, value=value, horizon=10))
    found = []
    for scale in (1.0, 1000.0):
        state = tx.init(theta)
        for _ in range(3):
            scaled = jax.tree.map(lambda g, scale=scale: scale * g, grad)
            update, state = step(scaled, state, scale * 2.0)
        found.append(update)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), *found)
    assert not np.asarray(found[0]["kernel"])[1].any() and np.asarray(found[0]["kernel"])[0].all()


def test_it_needs_theta_and_loss_and_a_coordinatewise_rule():
    optimizer = family()
    theta = {"w": jnp.ones((2, 2))}
    tx = optimizer.bind(optimizer.init(jax.random.key(0), theta))
    with pytest.raises(ValueError, match="reads the parameters and the loss"):
        tx.update(theta, tx.init(theta))
    with pytest.raises(ValueError, match="not a rule for single coordinates"):
        family(rule={"kind": "maml"})


def test_without_a_rule_it_goes_against_the_average_gradient():
    optimizer, grad = family(rule=None), {"bias": jnp.array([3.0, -1.0, 0.5, 2.0])}
    phi = wild(optimizer, grad, jnp.float32)
    assert set(phi["output"]) > {"step"} and not jax.tree.leaves(phi["rule"])
    written = tree.nest(dict(tree.named(phi)))  # as an artefact has it, where names without numbers are lost
    updates = []
    for of_phi in (phi, written):
        tx = optimizer.bind(of_phi)
        updates.append(tx.update(grad, tx.init(grad), grad, value=jnp.float32(1.0))[0]["bias"])
    np.testing.assert_array_equal(*updates)
    np.testing.assert_allclose(updates[0] / np.linalg.norm(updates[0]), -grad["bias"] / np.linalg.norm(grad["bias"]), rtol=1e-5)


def test_what_it_is_not_shown_does_not_matter():
    theta = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(3)}
    keys = jax.random.split(jax.random.key(5), 4)
    grads = [jax.tree.map(lambda x, key=key: jax.random.normal(key, x.shape), theta) for key in keys]

    def last(horizon, grads=grads, **given):
        optimizer = family(rule={"kind": "mlp", "clock": False}, anneal=False, **given)
        tx = optimizer.bind(wild(optimizer, theta, jnp.float32))
        state = tx.init(theta)
        for grad in grads:
            update, state = tx.update(grad, state, theta, value=1.0, horizon=horizon)
        return update["kernel"]

    assert not np.allclose(last(10), last(1000))
    assert not np.allclose(last(10, clock=False), last(1000, clock=False))  # what is summed is still cut at part of the horizon
    np.testing.assert_array_equal(last(10, clock=False, control=False), last(1000, clock=False, control=False))
    assert not np.allclose(last(10), last(10, control=False))
