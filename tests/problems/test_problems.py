"""Every registered problem keeps the promises that `base.Problem` makes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2lcli import registry
from l2lcli.data.source import DataError

SMALL = {  # what makes a problem's defaults quick to test, without a download
    "classification": {"batch_size": 32},
    "conv_classification": {"dataset": "digits", "channels": [4], "kernel": 3, "hidden": [], "batch_size": 32},
}


WITH_FILES = {"omniglot", "image_folder"}  # need files of their own: test_few_shot.py has them


@pytest.fixture(scope="module", params=sorted(registry.problem.specs().keys() - WITH_FILES))
def problem(request):
    spec = registry.problem.specs()[request.param](**SMALL.get(request.param, {}))
    return registry.problem.build(spec, None)


def value_and_grad(problem, key, data):
    """f and its gradient at theta_0, at one draw of everything."""

    @jax.jit  # op by op there would be more to compile
    def both(key, data):
        start, step = jax.random.split(key)
        theta, task = problem.init(start, data)
        return jax.value_and_grad(problem.loss)(theta, problem.batch(step, task, data))

    return both(key, data)


def test_loss_is_a_finite_scalar_and_its_gradient_is_like_theta(problem):
    data = problem.data["train"]
    value, grad = value_and_grad(problem, jax.random.key(0), data)
    theta, _ = jax.eval_shape(problem.init, jax.random.key(0), data)
    assert value.shape == () and value.dtype == jnp.float32 and np.isfinite(value)
    assert jax.tree.structure(grad) == jax.tree.structure(theta)
    for g, x in zip(jax.tree.leaves(grad), jax.tree.leaves(theta), strict=True):
        assert g.shape == x.shape and np.isfinite(g).all() and np.abs(g).max() > 0


def test_vmap_equals_a_loop(problem, request):
    data, keys = problem.data["train"], jax.random.split(jax.random.key(1), 3)
    one = jax.jit(lambda key: value_and_grad(problem, key, data)[0])
    together, alone = jax.vmap(one)(keys), [one(key) for key in keys]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    alike = request.node.callspec.params["problem"].startswith("simple")  # nothing about these is random
    assert len(set(np.asarray(together).tolist())) == (1 if alike else 3)


def test_the_same_key_gives_the_same_bits(problem):
    once, again = (jax.jit(lambda k: value_and_grad(problem, k, problem.data["train"]))(jax.random.key(2)) for _ in "ab")
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(again), strict=True))


def test_adam_brings_the_loss_down(problem):
    data, tx = problem.data["train"], optax.adam(0.03)
    theta, task = jax.jit(problem.init)(jax.random.key(3), data)

    @jax.jit
    def step(theta, opt, key):
        value, grad = jax.value_and_grad(problem.loss)(theta, problem.batch(key, task, data))
        update, opt = tx.update(grad, opt)
        return optax.apply_updates(theta, update), opt, value

    opt, values = tx.init(theta), []
    for t in range(100):
        theta, opt, value = step(theta, opt, jax.random.fold_in(jax.random.key(4), t))
        values.append(float(value))
    assert np.mean(values[-10:]) < 0.8 * np.mean(values[:3])


def test_metrics_are_finite_on_the_test_split(problem):
    if problem.metrics is None:
        pytest.skip("this problem has no metrics")
    test = problem.data["test"]
    theta, task = jax.jit(problem.init)(jax.random.key(0), test if problem.query else problem.data["train"])
    measured = jax.jit(problem.query)(jax.random.key(1), task, test) if problem.query else test
    for value in jax.jit(problem.metrics)(theta, measured).values():
        assert value.shape == () and np.isfinite(value)


def test_quadratic_has_its_closed_form():
    spec = registry.problem.specs()["quadratic"](dimension=4)
    problem = registry.problem.build(spec, None)
    theta, (w, y) = problem.init(jax.random.key(5), ())
    x = np.asarray(theta["theta"])
    value, grad = jax.value_and_grad(problem.loss)(theta, (w, y))
    np.testing.assert_allclose(value, ((w @ x - y) ** 2).sum(), rtol=1e-5)
    np.testing.assert_allclose(grad["theta"], 2 * w.T @ (w @ x - y), rtol=1e-4)


@pytest.mark.parametrize(("distribution", "mean", "deviation"), [("gaussian", 0.0, 1.0), ("uniform", 0.5, 12**-0.5)])
def test_quadratic_draws_what_its_config_says(distribution, mean, deviation):
    spec = registry.problem.specs()["quadratic"](dimension=100, distribution=distribution, start="gaussian", start_scale=3.0)
    theta, (w, _) = registry.problem.build(spec, None).init(jax.random.key(6), ())
    np.testing.assert_allclose([w.mean(), w.std()], [mean, deviation], atol=0.02)
    assert 2.0 < theta["theta"].std() < 4.0


def test_a_quadratic_has_the_spectrum_that_its_config_says():
    ends = [0.1, 10.0]
    spec = registry.problem.specs()["quadratic"](dimension=20, spectrum={"log_uniform": ends}, instances=40)
    problem = registry.problem.build(spec)
    (w, _) = problem.init(jax.random.key(0), ())[1]
    singular = np.linalg.svd(np.asarray(w, np.float64), compute_uv=False)
    assert singular.min() >= 0.1 - 1e-4 and singular.max() <= 10 + 1e-3
    logs = np.log10(singular)
    np.testing.assert_allclose([logs.mean(), logs.std()], [0, 2 / np.sqrt(12)], atol=0.05)  # of 800 even in the logarithm
    (turned, _) = registry.problem.build(
        registry.problem.specs()["quadratic"](dimension=5, spectrum={"uniform": [1.0, 1.0]}, instances=2000)
    ).init(jax.random.key(0), ())[1]  # orthogonal, and no direction is another than the others
    np.testing.assert_allclose(
        turned @ np.asarray(turned).transpose(0, 2, 1), np.broadcast_to(np.eye(5), turned.shape), atol=1e-5
    )
    np.testing.assert_allclose(np.square(turned).mean(0), np.full((5, 5), 0.2), atol=0.025)
    with pytest.raises(ValueError, match="not negative"):
        registry.problem.build(registry.problem.specs()["quadratic"](spectrum={"uniform": [-1.0, 1.0]}))


def test_several_quadratics_are_the_mean_of_each():
    spec = registry.problem.specs()["quadratic"](dimension=3, distribution="uniform", start_scale=0.01, instances=5)
    problem = registry.problem.build(spec, None)
    theta, (w, y) = problem.init(jax.random.key(5), ())
    x = np.asarray(theta["theta"])
    assert (x.shape, w.shape, y.shape) == ((5, 3), (5, 3, 3), (5, 3))
    alone = [((w[i] @ x[i] - y[i]) ** 2).sum() for i in range(5)]
    value, grad = jax.value_and_grad(problem.loss)(theta, (w, y))
    np.testing.assert_allclose(value, np.mean(alone), rtol=1e-5)
    np.testing.assert_allclose(grad["theta"][2], 2 * w[2].T @ (w[2] @ x[2] - y[2]) / 5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "names"), [("simple", ["x"]), ("simple_multi", ["x_0", "x_1"])])
def test_simple_is_a_sum_of_squares_from_ones(kind, names):
    problem = registry.problem.build(registry.problem.specs()[kind](), None)
    theta, task = problem.init(jax.random.key(0), ())
    assert sorted(theta) == names and all(x.shape == () and x == 1 for x in theta.values())
    for _ in range(3):  # gradient descent of rate 1/4 halves every x
        theta = jax.tree.map(lambda x, g: x - g / 4, theta, jax.grad(problem.loss)(theta, task))
    np.testing.assert_allclose(problem.loss(theta, task), len(names) / 64, rtol=1e-6)


def test_polynomial_is_solved_by_least_squares():
    problem = registry.problem.build(registry.problem.specs()["polynomial"](noise=0.1, samples=500), None)
    theta, (powers, y) = problem.init(jax.random.key(7), ())
    best = np.linalg.lstsq(np.asarray(powers, np.float64), np.asarray(y, np.float64), rcond=None)[0]
    value, grad = jax.value_and_grad(problem.loss)({"theta": jnp.asarray(best, jnp.float32)}, (powers, y))
    assert 0.008 < value < 0.012 < problem.loss(theta, (powers, y))  # the noise's variance
    np.testing.assert_allclose(grad["theta"], np.zeros(7), atol=1e-5)


def test_classification_is_softmax_cross_entropy_of_the_network_written_out():
    spec = registry.problem.specs()["classification"](hidden=[5, 3], activation="tanh", init_scale=0.5, batch_size=8)
    problem = registry.problem.build(spec, None)
    data = problem.data["train"]
    theta, task = problem.init(jax.random.key(8), data)
    batch = problem.batch(jax.random.key(9), task, data)
    x = np.asarray(batch["image"], np.float64).reshape(8, -1) / 16  # scikit-learn's digits have 17 grey levels
    layers = [theta[name] for name in sorted(theta)]
    assert [layer["kernel"].shape for layer in layers] == [(64, 5), (5, 3), (3, 10)]
    for i, layer in enumerate(layers):
        x = x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)
        x = np.tanh(x) if i < 2 else x
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    np.testing.assert_allclose(problem.loss(theta, batch), -log_p[np.arange(8), batch["label"]].mean(), rtol=1e-5)
    accuracy = problem.metrics(theta, batch)["accuracy"]
    assert accuracy == pytest.approx((log_p.argmax(1) == np.asarray(batch["label"])).mean())


def test_pooled_images_are_the_rounded_means_of_squares_and_theta_is_smaller():
    build = lambda **more: registry.problem.build(registry.problem.specs()["classification"](**more), None)
    whole, halved = (build(pool=pool).data["test"]["image"] for pool in (1, 2))
    assert halved.shape == (len(whole), 4, 4)
    for n, y, x in [(0, 0, 1), (7, 2, 1), (50, 3, 3)]:
        mean = np.asarray(whole[n, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2], np.float64).mean()
        assert halved[n, y, x] == np.floor(mean + 0.5)
    problem = build(pool=4, hidden=[3])
    theta, _ = problem.init(jax.random.key(0), problem.data["train"])
    assert {leaf.shape for leaf in jax.tree.leaves(theta)} == {(4, 3), (3,), (3, 10), (10,)}
    with pytest.raises(DataError, match=r"problem\.pool: squares of 3 pixels do not fill images of 8x8"):
        build(pool=3)


@pytest.mark.parametrize(
    ("kind", "more"), [("classification", {"hidden": [50]}), ("conv_classification", {"dataset": "digits"})]
)
def test_parameters_start_at_the_scale_that_the_config_says(kind, more):
    problem = registry.problem.build(registry.problem.specs()[kind](init_scale=0.3, **more), None)
    theta, _ = jax.jit(problem.init)(jax.random.key(10), problem.data["train"])
    for layer in theta.values():
        np.testing.assert_allclose([layer["kernel"].mean(), layer["kernel"].std()], [0, 0.3], atol=0.03)
        assert 0.1 < layer["bias"].std() < 0.6
