"""Pictures of optimizees, and tasks that are held out, on a problem whose every number is known."""

import jax
import jax.numpy as jnp
import numpy as np

from l2lcli.base import Pictures, Problem
from l2lcli.evaluation import compare, curves, line_search
from l2lcli.evaluation.pictures import gallery, pictured, steps_shown
from l2lcli.optimizers.hand import hand
from l2lcli.signals import UNWATCHED

KEYS = jax.random.split(jax.random.key(0), 5)
LEVELS = {"train": 1.0, "validation": 2.0, "test": 0.8}


def plain(held_out=True):
    """f = |x|² / 2 of an image [2, 3, 3], from the level of its split: after t steps (1 - rate)^t of it."""
    return Problem(
        init=lambda key, data: ({"x": jnp.full((2, 3, 3), data)}, {"level": data}),
        batch=lambda key, task, data: (),
        loss=lambda theta, batch: 0.5 * jnp.square(theta["x"]).sum(),
        data={split: jnp.float32(level) for split, level in LEVELS.items()},
        held_out=held_out,
        pictures=Pictures(lambda task: {"start": jnp.full((2, 3, 3), task["level"])}, lambda theta: theta["x"]),
    )


def phi(rate):
    return {"log_learning_rate": jnp.log(jnp.float32(rate))}


def test_images_are_those_of_the_reported_optimizees():
    found = pictured(plain(), hand("sgd"), phi(0.1), KEYS, steps=8)
    made = gallery({"sgd": found}, 8)
    assert made.meta == {"steps": [2, 4, 8], "given": ["start"], "optimizers": ["sgd"]}
    assert made.arrays["given/start"].shape == (4, 2, 3, 3) and (made.arrays["given/start"] == 204).all()
    want = np.round(255 * 0.8 * 0.9 ** np.array([2, 4, 8]))
    np.testing.assert_array_equal(made.arrays["made/sgd"], np.broadcast_to(want[None, :, None, None, None], (4, 3, 2, 3, 3)))
    assert made.arrays["made/sgd"].dtype == np.uint8
    assert steps_shown(128) == [32, 64, 128] and steps_shown(1) == [1]


def test_images_of_a_line_search_are_those_of_its_losses():
    steep = plain()._replace(loss=lambda theta, batch: 50 * jnp.square(theta["x"]).sum())  # its first step goes too far
    searched = line_search.line_search(steep, "lbfgs", KEYS, 4, 4, UNWATCHED)
    assert searched.pictures is not None and searched.pictures["made"].shape == (4, 3, 2, 3, 3)
    assert (searched.pictures["given"]["start"] == 204).all()
    want = np.round(255 * np.sqrt(searched.curves.losses[:4, [1, 2, 4]] / (50 * 18)))
    assert want[:, 0].min() > 0 and want[:, 2].max() < want[:, 0].min()
    np.testing.assert_array_equal(searched.pictures["made"], np.broadcast_to(want[..., None, None, None], (4, 3, 2, 3, 3)))


def test_what_diverged_is_drawn_all_the_same():
    made = pictured(plain(), hand("sgd"), phi(1e30), KEYS[:2], steps=8)["made"]
    assert (made[:, -1] == 0).all()  # black


def test_what_is_reported_is_of_the_test_tasks_and_what_is_chosen_of_the_validation_ones():
    start = {split: 0.5 * 18 * level**2 for split, level in LEVELS.items()}
    losses = lambda problem: curves.curves(problem, hand("sgd"), phi(0.1), KEYS, 2, 2).losses[:, 0]
    np.testing.assert_allclose(losses(plain()), start["test"], rtol=1e-6)
    np.testing.assert_allclose(losses(plain(held_out=False)), start["train"], rtol=1e-6)
    tried = []
    for held_out in (True, False):
        curves.tune(plain(held_out), "sgd", KEYS[:2], 2, tried=lambda rate, losses: tried.append(losses[0, 0]))
    assert {round(float(value), 3) for value in tried} == {round(start[split], 3) for split in ("validation", "train")}


def test_a_comparison_has_pictures_where_the_problem_has():
    given = ("p", ("ours", hand("momentum"), phi(0.05)), ["sgd"], jax.random.key(0))
    numbers = {"steps": 4, "seeds": 2, "tuning_seeds": 2, "metrics_every": 4}
    found = compare.compare(plain(), *given, **numbers)
    assert found.pictures.meta["optimizers"] == ["sgd", "ours"]
    assert not np.array_equal(found.pictures.arrays["made/sgd"], found.pictures.arrays["made/ours"])
    assert found.curves["ours"].losses[0, 0] < 0.5 * 18  # the test's
    assert compare.compare(plain()._replace(pictures=None), *given, **numbers).pictures is None
