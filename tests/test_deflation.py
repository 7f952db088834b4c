"""Deflation against gradients whose directions of large variance are known."""

import jax
import jax.numpy as jnp
import numpy as np

from l2lcli.deflation import KEEP, deflate

SIZE = 40
PHI = {"a": jnp.zeros(30), "b": jnp.zeros((5, 2))}


def gradients(rng, count, loud):
    """`count` gradients with a mean of 1 along every axis, and deviations of 1, but of 50 along the rows of `loud`."""
    return 1 + rng.normal(size=(count, SIZE)) + 50 * rng.normal(size=(count, len(loud))) @ loud


def test_noise_along_loud_directions_is_shrunk_and_everything_else_is_left_as_it_is():
    rng = np.random.default_rng(0)
    loud = np.linalg.qr(rng.normal(size=(SIZE, 2)))[0].T
    tx = deflate(2)
    state, update, found, given = tx.init(PHI), jax.jit(tx.update), [], gradients(rng, 600, loud)
    for row in given.astype(np.float32):
        out, state = update({"a": row[:30], "b": row[30:].reshape(5, 2)}, state)
        found.append(np.concatenate([out["a"], out["b"].ravel()]))
    late, before = np.array(found[100:]), given[100:]
    assert np.linalg.svd(loud @ np.array(state))[1].min() > 0.97  # the subspaces are the same
    assert KEEP * 0.9 < (late @ loud.T).std() / (before @ loud.T).std() < KEEP * 1.2
    rest = np.eye(SIZE) - loud.T @ loud
    assert np.abs((late - before) @ rest).mean() < 0.1 * np.abs(before @ loud.T).mean()
    np.testing.assert_allclose((late @ rest).mean(0), (before @ rest).mean(0), atol=0.35)


def test_a_gradient_along_a_known_direction_keeps_a_share_and_one_across_keeps_all():
    tx = deflate(1)
    axis = jnp.zeros(SIZE).at[3].set(1.0)
    along, _ = tx.update(axis * 7, axis[:, None])
    np.testing.assert_allclose(along, 7 * KEEP * axis, atol=1e-6)
    across = jnp.ones(SIZE).at[3].set(0.0)
    np.testing.assert_allclose(tx.update(across, axis[:, None])[0], across, atol=1e-6)
    still, basis = tx.update(jnp.zeros(SIZE), axis[:, None])
    assert not still.any() and np.isfinite(basis).all()
