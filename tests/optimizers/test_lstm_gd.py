"""The few-shot families against loops over coordinates written by hand, and where they are the same thing."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2lcli import registry
from l2lcli.optimizers.lstm_gd import BIAS, SCALE

N, STEPS = 5, 4


def family(kind, **spec):
    return registry.optimizer.build(registry.optimizer.specs()[kind](**spec))


def run(optimizer, phi, theta, grads, values):
    """theta after every step, and the last state."""
    tx, out = optimizer.bind(phi), []
    state = tx.init(theta)
    for grad, value in zip(grads, values, strict=True):
        update, state = tx.update(grad, state, theta, value=value)
        theta = optax.apply_updates(theta, update)
        out.append(theta)
    return out, state


def fed():
    keys = jax.random.split(jax.random.key(0), STEPS)
    grads = [jax.random.normal(key, (N,)).at[0].set(1e-6) for key in keys]
    return jnp.linspace(-1.0, 1.0, N), grads, [jnp.float32(2.0 / (t + 1)) for t in range(STEPS)]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def shown(x, p=10.0):
    """Andrychowicz et al. 2016, App. A."""
    return [np.log(abs(x)) / p, np.sign(x)] if abs(x) >= np.exp(-p) else [-1.0, np.exp(p) * x]


def moved(phi):
    """Weights large enough for the gates to differ."""
    return jax.tree.map(lambda x: 30 * x if jnp.max(jnp.abs(x)) <= SCALE else x / 4, phi)


@pytest.mark.parametrize("kind", ["lstm_gd_v1", "lstm_gd_v2"])
def test_lstm_gd_is_the_published_recurrence_written_by_hand(kind):
    """Ravi and Larochelle 2017, Section 3: theta_t = f_t theta_{t-1} - i_t grad_t, coordinate by coordinate."""
    theta, grads, values = fed()
    optimizer = family(kind, learn_start=False)
    phi = moved(optimizer.init(jax.random.key(1), theta))
    found, state = run(optimizer, phi, theta, grads, values)
    w = jax.tree.map(np.float64, phi)
    for n in range(N):
        x, f, i = float(theta[n]), 0.0, 0.0
        h, c = np.zeros(20), np.zeros(20)
        for t in range(STEPS):
            g = float(grads[t][n])
            inputs = np.array(shown(g) + shown(float(values[t])))
            if kind == "lstm_gd_v2":
                pre = w["lstm"]["input"] @ inputs + w["lstm"]["recurrent"] @ h + w["lstm"]["bias"]
                a, b, u, o = np.split(pre, 4)
                c = sigmoid(b) * c + sigmoid(a) * np.tanh(u)
                inputs = h = sigmoid(o) * np.tanh(c)
            f = sigmoid(w["forget"]["kernel"] @ [*inputs, x, f] + w["forget"]["bias"])
            i = sigmoid(w["input"]["kernel"] @ [*inputs, x, i] + w["input"]["bias"])
            x = f * x - i * g
            np.testing.assert_allclose(found[t][n], x, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose([state.forget[n], state.input[n]], [f, i], rtol=1e-4)
    gates = optimizer.gates(state)
    np.testing.assert_array_equal(gates["forget"], state.forget)
    assert np.ptp(np.asarray(gates["input"])) > 1e-3


@pytest.mark.parametrize("kind", ["lstm_gd_v1", "lstm_gd_v2"])
def test_the_gates_start_where_the_paper_has_them(kind):
    for seed in range(20):
        phi = family(kind).init(jax.random.key(seed), jnp.ones(N))
        for name, (low, high) in BIAS.items():
            assert low <= phi[name]["bias"] <= high
        kernels = [x for x in jax.tree.leaves({**phi, "start": 0.0}) if jnp.ndim(x)]
        assert all(np.abs(x).max() <= SCALE and np.abs(x).max() > SCALE / 10 for x in kernels)
        np.testing.assert_array_equal(phi["start"], np.ones(N))
    theta, grads, values = fed()
    _, state = run(family(kind), phi, theta, grads, values)
    assert (np.abs(state.forget - 0.99) < 0.01).all() and (np.abs(state.input - 0.012) < 0.01).all()


@pytest.mark.parametrize("kind", ["lstm_gd_v1", "lstm_gd_v2"])
def test_frozen_at_one_and_alpha_it_is_first_order_maml(kind):
    theta, grads, values = fed()
    maml = family("maml_first_order", learning_rate=0.4, learn_rate=False)
    want, _ = run(maml, maml.init(None, theta), theta, grads, values)
    frozen = family(kind, frozen_rate=0.4)
    phi = frozen.init(jax.random.key(0), theta)
    assert list(phi) == ["start"] == list(maml.init(None, theta))
    found, _ = run(frozen, phi, theta, grads, values)
    np.testing.assert_array_equal(found, want)
    # The same of gates that are learned, where they have come to: f = 1 in float32, i = alpha.
    free = family(kind)
    phi = jax.tree.map(jnp.zeros_like, free.init(jax.random.key(0), theta))
    phi["forget"]["bias"], phi["input"]["bias"] = jnp.float32(40.0), jnp.log(jnp.float32(0.4 / 0.6))
    found, _ = run(free, phi, theta, grads, values)
    np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-7)


def test_maml_and_meta_sgd_descend_from_where_they_learned_to_start():
    theta = {"a": jnp.ones((2, 2)), "b": jnp.zeros(3)}
    grad = jax.tree.map(lambda x: x + jnp.arange(x.size, dtype=x.dtype).reshape(x.shape), theta)
    for kind in ("maml", "maml_first_order"):
        optimizer = family(kind, learning_rate=0.5)
        phi = optimizer.init(None, theta)
        assert optimizer.second_order == (kind == "maml") != (optimizer.replay is not None)
        update, _ = optimizer.bind(phi).update(grad, optax.EmptyState())
        jax.tree.map(lambda u, g: np.testing.assert_allclose(u, -0.5 * g, rtol=1e-6), update, grad)
    optimizer = family("meta_sgd", second_order=False)
    phi = optimizer.init(None, theta)
    assert optimizer.replay.per_coordinate(phi) == {"rate": True, "start": True}
    np.testing.assert_array_equal(phi["start"], [1, 1, 1, 1, 0, 0, 0])
    phi = {"rate": jnp.array([1.0, 2, 3, 4, 5, 6, -7]), "start": 2 * phi["start"]}
    update, _ = optimizer.bind(phi).update(grad, optax.EmptyState())
    np.testing.assert_array_equal(update["a"], [[-1, -4], [-9, -16]])
    np.testing.assert_array_equal(update["b"], [0, -6, 14])
    np.testing.assert_array_equal(optimizer.start(phi, theta)["a"], [[2, 2], [2, 2]])


@pytest.mark.parametrize(
    ("kind", "spec"),
    [("maml", {"learn_rate": False, "learn_start": False}), ("lstm_gd_v2", {"frozen_rate": 0.1, "learn_start": False})],
)
def test_a_family_that_learns_nothing_is_refused(kind, spec):
    with pytest.raises(ValueError, match="nothing of it is learned"):
        family(kind, **spec)


def test_lstm_gd_says_what_it_has_to_be_given():
    optimizer = family("lstm_gd_v1", learn_start=False)
    theta, grads, _ = fed()
    tx = optimizer.bind(optimizer.init(jax.random.key(0), theta))
    with pytest.raises(ValueError, match="call update with params and value=loss"):
        tx.update(grads[0], tx.init(theta), theta)
