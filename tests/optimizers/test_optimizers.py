"""Every registered optimizer keeps the promises that `base.LearnedOptimizer` makes; the LSTM equals one written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2lcli import registry
from l2lcli.base import Objective
from l2lcli.optimizers._preprocess import Clamp, DeepmindLogSign, Identity, LogSign, features, preprocess
from l2lcli.optimizers.hand import CLIPPED, COMMON, COSINE, check, hand
from l2lcli.optimizers.lstm import LstmSpec, lstm

THETA = {"kernel": jnp.ones((3, 1, 2)), "bias": jnp.zeros(()), "scale": jnp.full((1,), 2.0)}  # odd shapes


@pytest.fixture(params=sorted(registry.optimizer.specs()))
def family(request):
    return registry.optimizer.build(registry.optimizer.specs()[request.param]())


def gradients(steps, like=THETA):
    keys = jax.random.split(jax.random.key(0), steps)
    return [jax.tree.map(lambda x, key=key: jax.random.normal(key, x.shape) * 0.3, like) for key in keys]


def updates(family, phi, grads, theta=THETA, transform=lambda f: f):
    tx, out = family.bind(phi), []
    step = transform(lambda g, s, x: tx.update(g, s, x, value=jnp.float32(1.0)))
    state = tx.init(theta)
    for grad in grads:
        update, state = step(grad, state, theta)
        theta = optax.apply_updates(theta, update)
        out.append(update)
    return out


def test_updates_are_like_theta_and_finite(family):
    phi = family.init(jax.random.key(1), THETA)
    for update in updates(family, phi, gradients(3)):
        assert jax.tree.structure(update) == jax.tree.structure(THETA)
        for u, x in zip(jax.tree.leaves(update), jax.tree.leaves(THETA), strict=True):
            assert u.shape == x.shape and u.dtype == x.dtype and np.isfinite(u).all()


def test_permuting_the_coordinates_permutes_the_updates(family):
    theta, order = jnp.linspace(-1.0, 1.0, 7), np.random.default_rng(0).permutation(7)
    grads = gradients(4, theta)
    phi = family.init(jax.random.key(1), theta)
    plain = updates(family, phi, grads, theta)
    permuted = updates(family, phi, [g[order] for g in grads], theta[order])
    for a, b in zip(plain, permuted, strict=True):
        np.testing.assert_allclose(a[order], b, rtol=1e-5, atol=1e-7)
    assert not np.allclose(plain[-1], plain[-1][order])  # the test would see it if coordinates were mixed up


def test_jit_equals_eager(family):
    phi = family.init(jax.random.key(1), THETA)
    for a, b in zip(updates(family, phi, gradients(3)), updates(family, phi, gradients(3), transform=jax.jit), strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-7), a, b)


def test_init_takes_an_abstract_theta(family):
    if family.start is not None:
        return  # it begins as that theta
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), THETA)
    a, b = family.init(jax.random.key(2), THETA), family.init(jax.random.key(2), abstract)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_phi_is_nested_dictionaries_and_differentiable(family):
    phi = family.init(jax.random.key(1), THETA)
    assert all(isinstance(k, jax.tree_util.DictKey) for path, _ in jax.tree.leaves_with_path(phi) for k in path)
    total = lambda phi: sum(leaf.sum() for leaf in jax.tree.leaves(updates(family, phi, gradients(2))))
    assert any(np.abs(g).max() > 0 for g in jax.tree.leaves(jax.grad(total)(phi)))


@pytest.mark.parametrize("name", COMMON)
def test_hand_made_optimizers_are_optax_with_the_papers_constants(name):
    expected = {
        "sgd": optax.sgd(0.02), "momentum": optax.sgd(0.02, momentum=0.9), "nag": optax.sgd(0.02, momentum=0.9, nesterov=True),
        "rmsprop": optax.rmsprop(0.02, decay=0.99, eps_in_sqrt=False), "adam": optax.adam(0.02, 0.9, 0.999),
        "adagrad": optax.adagrad(0.02), "adadelta": optax.adadelta(0.02),
    }[name]  # fmt: skip
    theta, state = THETA, expected.init(THETA)
    for grad, found in zip(gradients(3), updates(hand(name), {"log_learning_rate": jnp.log(0.02)}, gradients(3)), strict=True):
        update, state = expected.update(grad, state, theta)
        theta = optax.apply_updates(theta, update)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), update, found)


def test_epsilon_of_rmsprop_is_added_to_the_root():
    """As in Torch7; inside the root, which is Optax's default, it would be as large as 1e-4 beside that."""
    family, gradient = hand("rmsprop"), jnp.float32(1e-7)  # whose averaged square has a root of 1e-8 after one step
    tx = family.bind({"log_learning_rate": jnp.log(0.02)})
    found, _ = tx.update(gradient, tx.init(gradient))
    np.testing.assert_allclose(found, -0.02 * 1e-7 / (1e-8 + 1e-8), rtol=1e-4)


@pytest.mark.parametrize("name", COSINE)
def test_cosine_families_are_their_base_with_a_rate_that_falls_to_zero(name):
    phi, base = {"log_learning_rate": jnp.log(0.02)}, COSINE[name]
    constant, falling = (updates(f, phi, gradients(7)) for f in (hand(base), hand(name, horizon=6)))
    for t, (plain, found) in enumerate(zip(constant, falling, strict=True)):
        share = (1 + np.cos(np.pi * t / 6)) / 2  # on given gradients both optimizers' updates are the rate times the same
        jax.tree.map(lambda a, b, share=share: np.testing.assert_allclose(share * a, b, rtol=1e-5, atol=1e-9), plain, found)
    for missing in (check, hand):
        with pytest.raises(ValueError, match=f"{name} needs to know the last step"):
            missing(name)


@pytest.mark.parametrize("name", CLIPPED)
def test_clipped_families_cut_a_gradient_to_length_one_by_the_norm_of_all_coordinates(name):
    phi, base = {"log_learning_rate": jnp.log(0.02)}, hand(CLIPPED[name])
    grads = [jax.tree.map(lambda x, scale=scale: scale * x, g) for g, scale in zip(gradients(3), (10.0, 0.1, 1.0), strict=True)]
    norms = [np.sqrt(sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves(g))) for g in grads]
    assert norms[0] > 1 > norms[1]
    cut = [jax.tree.map(lambda x, norm=norm: x / max(norm, 1), g) for g, norm in zip(grads, norms, strict=True)]
    for expected, found in zip(updates(base, phi, cut), updates(hand(name), phi, grads), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), expected, found)
    assert hand(name).replay is None  # a coordinate alone does not know the norm


@pytest.mark.parametrize("name", ["lion", "muon", "prodigy", "adamw", "adabelief"])
def test_other_constructors_of_optax_serve_by_their_name(name):
    family = hand(name)
    theta = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones((3,))}
    last = updates(family, family.init(None, theta), gradients(2, theta), theta)[-1]
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(last))


@pytest.mark.parametrize(
    "name", ["lbfgs", "sophia", "dpsgd", "chain", "adma", "_src", "apply_if_finite", "cosine_decay_schedule"]
)
def test_what_needs_more_than_a_learning_rate_is_refused_by_name(name):
    with pytest.raises(ValueError, match=name) as error:
        check(name)
    assert "\n" not in str(error.value)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_lstm_equals_a_loop_over_coordinates_written_by_hand(layers):
    spec = LstmSpec(layers=layers, hidden=5, preprocess=LogSign(p=7.0), output_scale=0.3, forget_bias=0.5)
    family, theta = lstm(spec), jnp.zeros(6)
    phi = family.init(jax.random.key(3), theta)
    phi["readout"]["bias"] = jnp.float32(0.2)
    grads = [g.at[0].set(1e-5).at[1].set(0.0) for g in gradients(4, theta)]
    found = updates(family, phi, grads, theta)
    w = jax.tree.map(lambda x: np.asarray(x, np.float64), phi)
    for n in range(6):
        h, c = np.zeros((layers, 5)), np.zeros((layers, 5))
        for t, grad in enumerate(grads):
            g = float(grad[n])
            x = np.array([np.log(abs(g)) / 7, np.sign(g)] if abs(g) >= np.exp(-7) else [-1, np.exp(7) * g])
            for i in range(layers):
                cell = w[f"lstm_{i}"]
                a, f, u, o = np.split(cell["input"] @ x + cell["recurrent"] @ h[i] + cell["bias"], 4)
                c[i] = sigmoid(f + 0.5) * c[i] + sigmoid(a) * np.tanh(u)
                x = h[i] = sigmoid(o) * np.tanh(c[i])
            np.testing.assert_allclose(found[t][n], 0.3 * (w["readout"]["kernel"] @ x + 0.2), rtol=2e-5, atol=1e-7)


def test_lstm_state_is_one_per_coordinate():
    state = lstm(LstmSpec(layers=2, hidden=3)).bind(None).init(THETA)
    assert {leaf.shape for leaf in jax.tree.leaves(state)} == {(3, 8)}


@pytest.mark.parametrize(
    ("spec", "g", "shown"),
    [
        (Identity(), -3.0, [-3.0]),
        (Clamp(low=-0.5, high=2.0), -3.0, [-0.5]),
        (Clamp(low=-0.5, high=2.0), 1.5, [1.5]),
        (LogSign(p=10.0), -np.exp(-5), [-0.5, -1.0]),  # Andrychowicz et al. 2016, App. A
        (LogSign(p=10.0), np.exp(-12), [-1.0, np.exp(-2)]),
        (LogSign(p=10.0), 0.0, [-1.0, 0.0]),
        (DeepmindLogSign(k=5.0), np.exp(-2), [-0.4, 1.0]),  # google-deepmind/learning-to-learn, preprocess.py
        (DeepmindLogSign(k=5.0), -np.exp(-7), [-1.0, -np.exp(-2)]),
    ],
)
def test_preprocessing_has_its_published_values(spec, g, shown):
    found = preprocess(spec)(jnp.float32(g))
    assert features(spec) == len(shown)
    np.testing.assert_allclose(found, shown, rtol=1e-5, atol=1e-6)


def test_preprocessing_has_finite_second_derivatives_at_zero():
    for spec in (LogSign(), DeepmindLogSign(), Clamp()):
        second = jax.jacfwd(jax.jacrev(preprocess(spec)))(jnp.float32(0.0))
        assert np.isfinite(second).all()


def test_a_matrix_with_more_inputs_moves_less():
    shapes = {"bias": (3,), "convolution": (3, 3, 2, 4), "narrow": (4, 3), "wide": (24, 3)}
    theta = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    plain, shrinking = lstm(LstmSpec()), lstm(LstmSpec(fan_in=6))
    phi = plain.init(jax.random.key(1), theta)
    pairs = zip(*(updates(family, phi, gradients(3, theta), theta) for family in (plain, shrinking)), strict=True)
    factors = {"bias": 1.0, "convolution": 6 / 18, "narrow": 1.0, "wide": 6 / 24}
    for usual, smaller in pairs:
        for name, factor in factors.items():
            np.testing.assert_allclose(smaller[name], factor * usual[name], rtol=1e-6)
            assert np.abs(usual[name]).max() > 0


def test_what_tells_matrices_apart_is_not_replayed_by_coordinates():
    problem = registry.problem.build(registry.problem.specs()["quadratic"](), None)
    spec = registry.estimator.specs()["replay"]()
    with pytest.raises(ValueError, match="cannot be replayed"):
        registry.estimator.build(spec, problem, lstm(LstmSpec(fan_in=6)), 1, Objective((1.0,) * 20))
