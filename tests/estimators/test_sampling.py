"""Meta-gradients of sampled coordinates and averaged minibatches: right in expectation, exact where nothing is left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2lcli import registry
from l2lcli.base import Objective
from l2lcli.estimators._sampling import draw
from l2lcli.inner.flat import flat
from l2lcli.inner.query import averaged
from l2lcli.optimizers.maml import MamlFirstOrderSpec
from tests.estimators.test_replay import FAMILIES, PROBLEMS, M, T, gradients


def test_draws_have_the_sum_as_their_expectation_and_never_take_what_has_no_size():
    sizes = jnp.asarray([0.0, 3.0, 0.5, 0.0, 8.0, 0.1, 1.0, 0.0])
    x = np.asarray([0.0, -2.0, 5.0, 0.0, 1.0, 7.0, 3.0, 0.0])
    indices, weights = map(np.asarray, jax.vmap(lambda key: draw(key, sizes, 3))(jax.random.split(jax.random.key(0), 40_000)))
    assert set(np.unique(indices)) == {1, 2, 4, 5, 6}
    found = (weights * x[indices]).sum(1)
    assert abs(found.mean() - x.sum()) < 4 * found.std() / np.sqrt(len(found))
    # In proportion to size: x = sizes has no variance at all.
    np.testing.assert_allclose((weights * np.asarray(sizes)[indices]).sum(1), sizes.sum(), rtol=1e-5)


def test_nothing_to_draw_from_counts_nothing():
    indices, weights = draw(jax.random.key(0), jnp.zeros(5), 2)
    assert np.isfinite(weights).all() and not weights.any() and (indices < 5).all()


@pytest.mark.parametrize("family", ["lstm", "nosy"])
def test_the_mean_of_sampled_meta_gradients_is_the_exact_one(family):
    problem, optimizer = PROBLEMS["quadratic"], flat(FAMILIES[family])
    data, weights = problem.data["train"], tuple(0.3 + 0.2 * t for t in range(T))
    phi = FAMILIES[family].init(jax.random.key(1), problem.init(jax.random.key(0), data)[0])

    def estimates(keys, **more):
        spec = registry.estimator.specs()["replay"](window=3, block=2, **more)
        made = registry.estimator.build(spec, problem, optimizer, M, Objective(weights))
        _, state = made.estimate(jax.random.key(3), phi, data, made.init(jax.random.key(2), phi, data))  # a window of its own
        found = jax.jit(jax.vmap(lambda key: made.estimate(key, phi, data, state)[0].grad))(keys)
        return np.concatenate([np.asarray(leaf).reshape(len(keys), -1) for leaf in jax.tree.leaves(found)], 1)

    exact = estimates(jax.random.split(jax.random.key(4), 1))[0]
    found = estimates(jax.random.split(jax.random.key(5), 4000), sample=2)  # 2 of 6 coordinates
    error, standard = found.mean(0) - exact, found.std(0) / np.sqrt(len(found))
    assert (found.std(0) > 0.05 * np.abs(exact)).any()
    assert (np.abs(error) < 5 * standard + 1e-6 * np.abs(exact).max()).all()


def test_a_sample_of_all_is_exact_to_the_bit():
    (exact, _), (sampled, _) = (
        gradients("replay", "lstm", "quadratic", jnp.float32, 6, **more) for more in ({}, {"sample": 6})
    )
    jax.tree.map(np.testing.assert_array_equal, exact[0], sampled[0])


def test_an_outer_loss_over_several_minibatches_is_their_mean_and_replay_differentiates_it():
    problem, optimizer, weights = PROBLEMS["digits"], flat(FAMILIES["lstm"]), (1.0, 0.5)
    data, many = problem.data["train"], averaged(PROBLEMS["digits"], 3)
    theta, task = problem.init(jax.random.key(0), data)
    batches = many.query(jax.random.key(1), task, data)
    each = [problem.loss(theta, jax.tree.map(lambda leaf, i=i: leaf[i], batches)) for i in range(3)]
    assert len({float(loss) for loss in each}) == 3
    np.testing.assert_allclose(many.loss(theta, batches), np.mean(each), rtol=1e-6)
    phi = FAMILIES["lstm"].init(jax.random.key(1), theta)
    kinds = registry.estimator.specs()

    def batch(key, task, data):  # what is fed is one minibatch of the same loss: `many.loss` of it alone
        return jax.tree.map(lambda leaf: leaf[None], problem.batch(key, task, data))

    found = []
    for spec, of in (
        (kinds["replay"](window=2, batches=3), problem),
        (kinds["autodiff"](window=2), many._replace(batch=batch)),
    ):
        made = registry.estimator.build(spec, of, optimizer, M, Objective(weights))
        state = jax.jit(made.init)(jax.random.key(2), phi, data)
        found.append(jax.jit(made.estimate)(jax.random.key(3), phi, data, state)[0])
    np.testing.assert_allclose(found[0].loss, found[1].loss, rtol=1e-5)
    for ours, theirs in zip(*(jax.tree.leaves(each.grad) for each in found), strict=True):
        np.testing.assert_allclose(
            ours, theirs, rtol=0, atol=1e-5 * max(np.abs(leaf).max() for leaf in jax.tree.leaves(found[1].grad))
        )


def test_what_cannot_be_sampled_or_averaged_is_refused():
    kind = registry.estimator.specs()["replay"]
    with pytest.raises(ValueError, match="no minibatches to average"):
        registry.estimator.build(kind(batches=2), PROBLEMS["quadratic"], FAMILIES["lstm"], M, Objective((1.0,) * 20))
    learned = registry.optimizer.build(MamlFirstOrderSpec())
    with pytest.raises(ValueError, match="need all of them"):
        registry.estimator.build(kind(sample=2), PROBLEMS["quadratic"], learned, M, Objective((1.0,) * 20))
