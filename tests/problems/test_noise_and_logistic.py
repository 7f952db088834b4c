"""Heavy-tailed gradients against SciPy's F distribution; the minimum of a logistic regression against scikit-learn's."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression

from l2lcli.problems.heavy_tailed import HeavyTailedSpec, heavy_tailed
from l2lcli.problems.logistic import LogisticSpec, logistic
from l2lcli.problems.quadratic import QuadraticSpec, quadratic


def test_the_gradient_alone_is_disturbed_by_a_multivariate_t():
    spec = HeavyTailedSpec(dimension=5, noise=0.3, tail=1.5)
    problem, clean = heavy_tailed(spec), quadratic(QuadraticSpec(dimension=5))
    theta, task = problem.init(jax.random.key(0), ())
    draw = jax.vmap(lambda key: jax.value_and_grad(problem.loss)(theta, problem.batch(key, task, ())))
    values, grads = jax.jit(draw)(jax.random.split(jax.random.key(1), 4000))
    value, grad = jax.value_and_grad(clean.loss)(theta, task)
    np.testing.assert_allclose(values, value, rtol=1e-6)
    noise = np.asarray(grads["theta"] - grad["theta"][None], np.float64)
    # A squared norm over N noise² is distributed as F(N, tail), and directions are evenly spread.
    assert stats.kstest((noise**2).sum(1) / (5 * 0.3**2), stats.f(5, 1.5).cdf).pvalue > 0.01
    directions = noise / np.linalg.norm(noise, axis=1, keepdims=True)
    np.testing.assert_allclose(directions.T @ directions / 4000, np.eye(5) / 5, atol=0.02)


def test_a_meta_gradient_is_not_disturbed():
    problem, clean = heavy_tailed(HeavyTailedSpec(dimension=5, seen=1)), quadratic(QuadraticSpec(dimension=5))
    theta, task = problem.init(jax.random.key(0), ())
    batch = problem.batch(jax.random.key(1), task, ())
    outer = jax.grad(lambda theta: jax.value_and_grad(problem.loss)(theta, batch)[0])(theta)
    inner = jax.grad(problem.loss)(theta, batch)
    expected = jax.grad(clean.loss)(theta, task)["theta"]
    np.testing.assert_allclose(outer["theta"], expected, rtol=1e-6)
    factors = (np.asarray(inner["theta"] - batch[1]) / np.asarray(expected)).round(3)
    assert sorted(factors) == [0, 0, 0, 0, 5]


def test_a_logistic_regression_is_measured_from_its_minimum():
    problem = logistic(LogisticSpec(dimension=4, samples=60, correlation=0.8, weight_decay=0.01, floor=0.25))
    for seed in range(3):
        theta, (rows, least) = jax.jit(problem.init)(jax.random.key(seed), ())
        rows = np.asarray(rows, np.float64)
        # All labels turned to 1 and their rows with them; scikit-learn wants both classes, so half are turned back.
        sign = np.where(np.arange(60) % 2, 1, -1)
        model = LogisticRegression(C=1 / (60 * 0.01), fit_intercept=False, tol=1e-10).fit(rows * sign[:, None], sign)
        f = lambda theta, rows=rows: np.mean(np.log1p(np.exp(-rows @ theta))) + 0.005 * theta @ theta
        np.testing.assert_allclose(least, f(model.coef_[0]), rtol=1e-5)
        found = problem.loss(theta, (jnp.asarray(rows, jnp.float32), least))
        np.testing.assert_allclose(found, f(np.asarray(theta["theta"], np.float64)) - f(model.coef_[0]) + 0.25, rtol=1e-4)


def test_features_side_by_side_are_correlated():
    rows = jax.jit(logistic(LogisticSpec(dimension=4, samples=20_000, correlation=0.8)).init)(jax.random.key(0), ())[1][0]
    found = np.asarray(rows.T @ rows) / 20_000  # signs of whole rows do not matter
    np.testing.assert_allclose(found, 0.8 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4))), atol=0.03)
