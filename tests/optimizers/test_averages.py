"""Running averages of the gradient against sums written out; cells that begin with long time scales against those scales."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2lcli.optimizers._averages import AveragesSpec, averages_shown, see, unseen
from l2lcli.optimizers._averages import shown as features
from l2lcli.optimizers.lstm import LstmSpec, lstm

SPEC = AveragesSpec(decays=[0.5, 0.9], square_decay=0.8)


def shown(grads):
    state, found = unseen(SPEC, grads[0]), []
    for g in grads:
        state, ratios, root = see(SPEC, state, g)
        found.append(features(ratios, root))
    return np.stack(found)


def weighted(decay, past):
    """The mean of the past [t], the latest with weight 1, the one before with `decay`, and so on."""
    weights = decay ** np.arange(len(past))[::-1]
    return weights @ past / weights.sum()


def test_averages_are_weighted_means_of_the_past():
    grads = np.asarray(jax.random.normal(jax.random.key(0), (6, 3)) * jnp.array([[1.0, 1e-5, 30.0]]), np.float64)
    found = shown(jnp.asarray(grads, jnp.float32))
    assert found.shape == (6, averages_shown(SPEC), 3)
    for t in range(6):
        for n in range(3):
            past = grads[: t + 1, n]
            root = np.sqrt(weighted(0.8, past**2))
            expected = [weighted(0.5, past) / root, weighted(0.9, past) / root, past[-1] / root, max(np.log(root), -10) / 10]
            np.testing.assert_allclose(found[t, :, n], expected, rtol=1e-4, atol=1e-6)


def test_averages_do_not_know_the_scale_of_the_loss_but_for_the_logarithm():
    grads = jax.random.normal(jax.random.key(1), (5, 4))  # none so small that its logarithm is cut
    plain, scaled = shown(grads), shown(1000 * grads)
    np.testing.assert_allclose(plain[:, :-1], scaled[:, :-1], rtol=1e-4)
    np.testing.assert_allclose(scaled[:, -1] - plain[:, -1], np.log(1000) / 10, rtol=1e-4)


def test_averages_have_finite_second_derivatives_where_no_gradient_was_seen():
    f = lambda g: features(*see(SPEC, unseen(SPEC, g), g)[1:])
    zero = jnp.zeros(2)
    assert np.isfinite(jax.jacfwd(jax.jacrev(f))(zero)).all()
    np.testing.assert_array_equal(f(zero)[:-1], 0)


def test_the_lstm_reads_the_averages_after_what_it_is_shown_anyway():
    """Without layers the update is a linear function of what is shown."""
    family = lstm(LstmSpec(layers=0, output_scale=1.0, averages=SPEC))
    grads = jax.random.normal(jax.random.key(2), (4, 3))
    phi = family.init(jax.random.key(3), grads[0])
    tx, found = family.bind(phi), []
    state = tx.init(grads[0])
    for g in grads:
        update, state = tx.update(g, state)
        found.append(update)
    sign_and_log = np.stack([np.log(np.abs(grads)) / 10, np.sign(grads)], 1)
    expected = np.einsum("i,tin->tn", phi["readout"]["kernel"], np.concatenate([sign_and_log, shown(grads)], 1))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("forget_bias", [0.0, 1.0])
def test_memory_sets_the_time_scales_that_the_cells_begin_with(forget_bias):
    spec = LstmSpec(hidden=400, memory=100.0, forget_bias=forget_bias)
    phi = lstm(spec).init(jax.random.key(0), jnp.zeros(3))
    for layer in ("lstm_0", "lstm_1"):
        takes, forgets = np.split(np.asarray(phi[layer]["bias"], np.float64), 4)[:2]
        keeps = 1 / (1 + np.exp(-forgets - forget_bias))
        scales = 1 / (1 - keeps)  # after this many steps 1/e of what a cell held is left
        assert 2 <= scales.min() < 2.2
        assert 90 < scales.max() <= 100
        assert 8 < np.median(scales) < 14  # evenly in the logarithm of T - 1: the middle is near 11
        np.testing.assert_allclose(1 / (1 + np.exp(-takes)), 1 - keeps, rtol=1e-4)


def test_memory_changes_nothing_else():
    plain, long = (lstm(LstmSpec(memory=memory)).init(jax.random.key(0), jnp.zeros(3)) for memory in (None, 50.0))
    for layer in ("lstm_0", "lstm_1"):
        for name in ("input", "recurrent"):
            np.testing.assert_array_equal(plain[layer][name], long[layer][name])
        np.testing.assert_array_equal(plain[layer]["bias"][40:], long[layer]["bias"][40:])  # of the cell and output gates
    np.testing.assert_array_equal(plain["readout"]["kernel"], long["readout"]["kernel"])
