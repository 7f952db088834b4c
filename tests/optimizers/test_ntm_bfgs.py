"""The shared memory against NumPy; a controller of exact arithmetic follows a textbook BFGS; the learned one stays bounded."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from l2lcli.config import ConfigError, load
from l2lcli.experiment import build
from l2lcli.optimizers._memory import Act, Controller, latest, remembering, whole
from l2lcli.optimizers._preprocess import Identity
from l2lcli.optimizers.ntm_bfgs import NtmBfgsSpec, NtmLbfgsSpec, ntm_bfgs, ntm_lbfgs

N, STEPS = 8, 20  # more than 2N


def quadratic():
    """A [N, N] of condition number 100 and theta_0, whose minimum is at 0."""
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.standard_normal((N, N)))
    return turn @ np.diag(np.geomspace(0.1, 10, N)) @ turn.T, rng.standard_normal(N)


class Trace(NamedTuple):
    directions: np.ndarray  # [STEPS, N] the d_t of theta - α d
    lengths: np.ndarray  # [STEPS] α_t
    gradients: np.ndarray  # [STEPS, N]
    hessians: np.ndarray  # [STEPS, N, N] inverse, H_t


def bfgs(pairs: int | None = None) -> Trace:
    """BFGS as textbooks have it, or L-BFGS of so many pairs by its two loops; each length halved from 1 (Armijo's rule)."""
    a, theta = quadratic()
    inverse, eye, past, found = np.eye(N), np.eye(N), [], []
    f = lambda theta: theta @ a @ theta / 2
    for _ in range(STEPS):
        g = a @ theta
        d = inverse @ g if pairs is None else two_loops(g, past[-pairs:])
        length = 1.0
        while f(theta - length * d) > f(theta) - 0.1 * length * (d @ g):
            length /= 2
        found.append((d, length, g, inverse))
        s, y = -length * d, -length * a @ d
        theta, rho = theta + s, 1 / (y @ s)
        inverse = (eye - rho * np.outer(s, y)) @ inverse @ (eye - rho * np.outer(y, s)) + rho * np.outer(s, s)
        past.append((s, y))
    return Trace(*(np.stack(part) for part in zip(*found, strict=True)))


def two_loops(g, past):
    """Nocedal and Wright 2006, Algorithm 7.4, from H_0 = I."""
    q, weights = g.copy(), []
    for s, y in reversed(past):
        weights.append(s @ q / (y @ s))
        q -= weights[-1] * y
    for s, y in past:
        q += (weights.pop() - y @ q / (y @ s)) * s
    return q


class Known(NamedTuple):
    """What the exact controller remembers: three numbers a coordinate, two for all, as a learned one could."""

    t: Any
    gradient: Any  # [N]
    direction: Any  # [N]
    product: Any  # () d_tᵀ∇_t
    length: Any  # () α_t


def exact(lengths, forget=False) -> Controller:
    """BFGS by one read and three writes. It uses of other coordinates what it reads, and the two sums A and B, alone.

    With `forget` it writes as if M were the identity, and so what the latest pair alone would.
    """
    lengths = jnp.asarray(lengths)

    def act(grad, reads, state):
        (r,) = reads
        y, d = grad - state.gradient, state.direction
        s = -state.length * d
        hy = y if forget else r - d
        total = jnp.sum(s * grad), jnp.sum(hy * grad) if forget else jnp.sum(y * r)
        ys = total[0] + state.length * state.product
        yhy = jnp.sum(y * y) if forget else total[1] + ys / state.length
        rho = 1 / ys
        last = rho * (rho * yhy + 1)
        base = grad if forget else r
        direction = base - rho * total[1] * s - rho * total[0] * hy + last * total[0] * s
        before = jnp.sum(grad * grad) if forget else total[1] - total[0] / state.length
        product = before - 2 * rho * total[0] * total[1] + last * total[0] ** 2
        left, right = jnp.stack([-rho * s, -rho * hy, last * s]), jnp.stack([hy, s, s])
        first = state.t == 0  # no pair yet
        direction = jnp.where(first, grad, direction)
        product = jnp.where(first, jnp.sum(grad * grad), product)
        left, right = (jnp.where(first, 0, part) for part in (left, right))
        length = lengths[state.t]
        return Act(-length * direction, left, right), Known(state.t + 1, grad, direction, product, length)

    def init(flat):
        return Known(jnp.zeros((), jnp.int32), jnp.zeros_like(flat), jnp.zeros_like(flat), jnp.zeros(()), jnp.ones(()))

    return Controller(init, lambda grad, state: grad[None], act)


def followed(controller, memory, gradients=None):
    """(updates [STEPS, N], M after each step) on the quadratic, or on given gradients."""
    a, theta = (jnp.asarray(x) for x in quadratic())
    tx = remembering(controller, memory)

    def step(carry, given):
        theta, state = carry
        update, state = tx.update(a @ theta if gradients is None else given, state)
        return (theta + update, state), (update, memory.read(state.memory, jnp.eye(N)).T)

    given = jnp.zeros((STEPS, N)) if gradients is None else jnp.asarray(gradients)
    return jax.jit(lambda: jax.lax.scan(step, (theta, tx.init(theta)), given)[1])()


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def apart(found, expected):
    """The largest relative distance of two rows."""
    return max(np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1))


@pytest.mark.parametrize("memory", [whole(), latest(3 * STEPS)], ids=["whole", "latest"])
def test_one_read_three_writes_and_two_sums_are_bfgs(memory, float64):
    expected = bfgs()
    updates, matrices = followed(exact(expected.lengths), memory)
    directions = -np.asarray(updates) / expected.lengths[:, None]
    assert apart(directions, expected.directions) < 1e-6
    np.testing.assert_allclose(matrices, expected.hessians, rtol=1e-6, atol=1e-8)
    assert np.linalg.norm(expected.gradients[-1]) < 1e-3 * np.linalg.norm(expected.gradients[0])  # that of a method that works
    assert apart(expected.gradients[2 * N :], expected.directions[2 * N :]) > 0.1  # and H is not the identity


def test_a_window_is_l_bfgs_until_it_slides_and_then_another_thing(float64):
    """On the gradients of L-BFGS itself: only what is made of them is compared."""
    pairs = 5
    limited = bfgs(pairs)
    updates, matrices = followed(exact(limited.lengths), latest(3 * pairs), limited.gradients)
    directions = -np.asarray(updates) / limited.lengths[:, None]
    distance = [apart(d[None], e[None]) for d, e in zip(directions, limited.directions, strict=True)]
    assert max(distance[: pairs + 1]) < 1e-6
    assert distance[pairs + 1] > 1e-3  # a pair is forgotten, and its part in the later writes is not
    np.testing.assert_allclose(matrices, np.swapaxes(matrices, 1, 2), rtol=1e-6, atol=1e-9)


def test_a_window_of_one_pair_can_be_l_bfgs(float64):
    limited = bfgs(1)
    updates, _ = followed(exact(limited.lengths, forget=True), latest(3))
    assert apart(-np.asarray(updates) / limited.lengths[:, None], limited.directions) < 1e-6


def test_the_memory_is_the_identity_and_a_sum_of_outer_products():
    rng = np.random.default_rng(1)
    left, right, keys = rng.standard_normal((5, 2, 4)), rng.standard_normal((5, 2, 4)), rng.standard_normal((3, 4))
    for memory, kept in ((whole(), 5), (latest(6), 3)):
        state = memory.init(jnp.zeros(4))
        for a, b in zip(left, right, strict=True):
            state = memory.write(state, jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
        matrix = np.eye(4)
        for t in range(5 - kept, 5):
            for k in range(2):
                matrix += np.outer(left[t, k], right[t, k])
        expected = [matrix @ key for key in keys]
        np.testing.assert_allclose(memory.read(state, jnp.asarray(keys, jnp.float32)), expected, rtol=1e-4, atol=1e-5)


SMALL = {"hidden": 4, "averaged": 2, "reads": 2, "writes": 2}


def fed(family, grads, phi=None):
    phi = family.init(jax.random.key(1), grads[0]) if phi is None else phi
    tx = family.bind(phi)

    def step(state, grad):
        update, state = tx.update(grad, state)
        return state, update

    return jax.jit(lambda: jax.lax.scan(step, tx.init(grads[0]), grads))()


def test_both_memories_serve_the_same_controller():
    """Until the window slides."""
    grads = jax.random.normal(jax.random.key(0), (6, 5))
    found = fed(ntm_lbfgs(NtmLbfgsSpec(window=6, **SMALL)), grads)[1]
    expected = fed(ntm_bfgs(NtmBfgsSpec(**SMALL)), grads)[1]
    np.testing.assert_allclose(found[:4], expected[:4], rtol=1e-4, atol=1e-6)
    assert np.abs(found[4:] - expected[4:]).max() > 1e-5


def perturbed(family, theta):
    """phi with no leaf at what it begins as: biases are not 0, nothing is silent."""
    phi = family.init(jax.random.key(1), theta)
    rng = np.random.default_rng(5)
    return jax.tree.map(lambda leaf: leaf + 0.3 * jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype), phi)


def by_hand(phi, grads, spec):
    """Updates [T, N] and M after the last, from what `_family` says, one coordinate after the other."""
    sigmoid = lambda a: 1 / (1 + np.exp(-a))
    length = lambda x: max(np.sqrt(np.mean(np.square(x))), 1e-8)
    steps, n = grads.shape
    matrix, h, c = np.eye(n), np.zeros((n, spec.hidden)), np.zeros((n, spec.hidden))
    before, step, out = np.zeros(n), np.zeros(n), []

    def say(head, o, vectors):
        at = range(len(vectors))
        return np.array([sum((head["kernel"][o, v] @ h[i] + head["bias"][o, v]) * vectors[v][i] for v in at) for i in range(n)])

    for t in range(steps):
        g = grads[t]
        size, both, moved = length(g), length(g) + length(before), length(step)
        vectors = [g / size, (g - before) / both, step / moved]
        reads = [matrix @ say(phi["keys"], r, vectors) for r in range(spec.reads)]
        gains = [length(read) for read in reads]
        vectors += [read / gain for read, gain in zip(reads, gains, strict=True)]
        logs = [max(np.log(x), -10) / 10 for x in (size, moved, *gains)]
        for i in range(n):
            x = np.array([g[i], *(vector[i] for vector in vectors), *logs])
            of = phi["lstm_0"]
            takes, keeps, cell, gives = np.split(of["input"] @ x + of["recurrent"] @ h[i] + of["bias"], 4)
            c[i] = sigmoid(keeps + spec.forget_bias) * c[i] + sigmoid(takes) * np.tanh(cell)
            h[i] = sigmoid(gives) * np.tanh(c[i])
        h[:, : spec.averaged] = h[:, : spec.averaged].mean(0)
        units = [spec.rate * size, spec.rate * both, moved, *(spec.rate * size * gain for gain in gains)]
        update = say(phi["act"], 0, [unit * vector for unit, vector in zip(units, vectors, strict=True)])
        update *= min(1, spec.growth * max(moved, spec.rate * size) / length(update))
        for k in range(spec.writes):
            left, right = say(phi["act"], 1 + k, vectors), say(phi["act"], 1 + spec.writes + k, vectors)
            matrix = matrix + spec.write_scale / n * np.outer(left, right)
        before, step = g, update
        out.append(update)
    return np.stack(out), matrix


@pytest.mark.parametrize("growth", [2.0, 1e6])
def test_the_learned_controller_equals_a_loop_written_by_hand(growth):
    spec = NtmBfgsSpec(**SMALL, preprocess=Identity(), forget_bias=0.5, rate=0.2, growth=growth, write_scale=3.0)
    family, grads = ntm_bfgs(spec), jax.random.normal(jax.random.key(0), (4, 5))
    phi = perturbed(family, grads[0])
    state, updates = fed(family, grads, phi)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), phi)
    expected, matrix = by_hand(wide, np.asarray(grads, np.float64), spec)
    np.testing.assert_allclose(updates, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(state.memory, matrix, rtol=1e-3, atol=1e-4 * np.abs(matrix).max())


def test_what_is_written_does_not_depend_on_the_size_of_gradients_or_of_reads():
    """So the memory grows no faster than in proportion to the steps, and an untrained update stays one of gradient descent."""
    grads = jax.random.normal(jax.random.key(0), (200, 5))
    family = ntm_bfgs(NtmBfgsSpec(rate=0.1, **SMALL))
    phi = family.init(jax.random.key(1), grads[0])
    moved = []
    for scale in (1e-4, 1.0, 1e4, 1e20):  # the square of the last is no float32
        state, updates = fed(family, scale * grads, phi)
        moved.append(np.linalg.norm(state.memory - np.eye(5)))
        assert np.abs(updates[:5]).max() < scale
    assert min(moved) > 0.1 and max(moved) < 5  # of 200 steps with two writes each; what is shown are logarithms of sizes, too
    loud = fed(ntm_bfgs(NtmBfgsSpec(rate=0.1, write_scale=5.0, **SMALL)), grads, phi)[0]
    assert np.linalg.norm(loud.memory - np.eye(5)) > 5  # so that without the division by N it would be more


def test_without_writes_the_memory_stays_the_identity_and_the_update_is_near_gradient_descent():
    grads = jax.random.normal(jax.random.key(0), (1, 5))
    family = ntm_bfgs(NtmBfgsSpec(**SMALL | {"writes": 0}))
    phi = family.init(jax.random.key(1), grads[0])
    state, updates = fed(family, grads, phi)
    np.testing.assert_array_equal(state.memory, np.eye(5))
    np.testing.assert_allclose(updates, -0.1 * grads, atol=0.03)
    silent = jax.tree.map_with_path(lambda path, leaf: 0 * leaf if path[-1].key == "kernel" else leaf, phi)
    np.testing.assert_allclose(fed(family, grads, silent)[1], -0.1 * grads, rtol=1e-5)


def test_its_derivatives_are_finite_where_there_is_no_gradient():
    family = ntm_bfgs(NtmBfgsSpec(**SMALL))
    tx = family.bind(family.init(jax.random.key(1), jnp.zeros(3)))

    def summed(grad):
        update, state = tx.update(grad, tx.init(grad))
        return update.sum() + state.memory.sum()

    # A meta-gradient of the second order is the slope of a slope along some direction.
    second = lambda grad: jax.jvp(jax.grad(summed), (grad,), (jnp.ones(3),))
    for derivative in jax.jit(second)(jnp.zeros(3)):
        assert np.isfinite(derivative).all()


@pytest.mark.parametrize(
    ("spec", "keys", "said"),
    [
        (NtmBfgsSpec, {"hidden": 4, "averaged": 5}, "averaged 5 is more than the 4 units of a layer"),
        (NtmLbfgsSpec, {"writes": 3, "window": 10}, "window 10 is not a multiple of writes, 3"),
    ],
)
def test_what_cannot_be_is_said(spec, keys, said):
    with pytest.raises(ValidationError, match=said):
        spec(**keys)


def test_a_memory_that_would_not_fit_is_refused():
    """Of a trained optimizer on a larger network, too."""
    family = ntm_bfgs(NtmBfgsSpec())
    begin = family.bind(family.init(jax.random.key(0), jnp.zeros(3))).init
    with pytest.raises(ValueError, match="N = 10000 is above 4096: ntm_lbfgs is for that"):
        jax.eval_shape(begin, jax.ShapeDtypeStruct((100, 100), jnp.float32))
    large: Any = {"problem": {"kind": "quadratic", "dimension": 4097}, "optimizer": {"kind": "ntm_bfgs"}}
    with pytest.raises(ConfigError, match="optimizer: ntm_bfgs remembers N x N numbers, and N = 4097"):
        build(load(large))
    build(load(large | {"optimizer": {"kind": "ntm_lbfgs"}}))


def test_an_update_is_at_most_twice_as_long_as_the_one_before():
    """Or as `rate` times the gradient, where that is longer; whatever phi says."""
    grads = jnp.array([[1.0], [1e-6], [1e-6], [1e-6], [5.0]]) * jax.random.normal(jax.random.key(0), (5, 6))
    family = ntm_bfgs(NtmBfgsSpec(rate=0.1, growth=2.0, **SMALL))
    phi = jax.tree.map(lambda leaf: 100 * leaf, family.init(jax.random.key(1), grads[0]))
    lengths, sizes = (np.linalg.norm(rows, axis=1) for rows in (fed(family, grads, phi)[1], grads))
    bounds = 2 * np.maximum(np.append(0, lengths[:-1]), 0.1 * sizes)
    assert (lengths <= 1.0001 * bounds).all()
    assert lengths[4] > 0.99 * bounds[4]  # it is the bound that held it
