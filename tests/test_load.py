"""A trained optimizer in somebody else's loop: plain Flax, plain Optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from sklearn.datasets import load_digits

import l2lcli
from l2lcli.config import load as load_config
from l2lcli.optimizers.lstm import LstmSpec, lstm
from l2lcli.runs.artefact import write_artefact
from l2lcli.runs.files import RunError
from l2lcli.tree import misfit, nest, to_host

SPEC = LstmSpec(layers=1, hidden=4)


@pytest.fixture
def artefact(tmp_path):
    """An optimizer.npz whose LSTM is, roughly, gradient descent: its read-out follows the sign of the gradient."""
    family = lstm(SPEC)
    phi = family.init(jax.random.key(0), {"theta": jnp.zeros(3)})
    cell = phi["lstm_0"]
    # Every gate open but the forget gate, the cell's input the gradient's sign, the read-out its negative.
    cell["bias"] = jnp.concatenate([jnp.full(4, 5.0), jnp.full(4, -9.0), jnp.zeros(4), jnp.full(4, 5.0)])
    cell["recurrent"] = jnp.zeros_like(cell["recurrent"])
    cell["input"] = jnp.zeros_like(cell["input"]).at[8:12, 1].set(1.0)
    phi["readout"]["kernel"] = jnp.full(4, -0.1)
    (tmp_path / "c.yaml").write_text("optimizer: {kind: lstm, layers: 1, hidden: 4}")
    config = load_config(tmp_path / "c.yaml").model_dump(mode="json")
    write_artefact(tmp_path / "mine.npz", to_host(phi), {"config": config})
    return tmp_path / "mine.npz"


def test_a_flax_model_trains_with_it_in_an_ordinary_optax_loop(artefact):
    images, labels = load_digits(return_X_y=True)
    images = jnp.asarray(images[:512] / 16, jnp.float32)
    labels = jnp.asarray(labels[:512])
    model = linen.Sequential([linen.Dense(16), linen.relu, linen.Dense(10)])
    params = model.init(jax.random.key(1), images)
    tx = optax.chain(optax.clip_by_global_norm(1.0), l2lcli.load(artefact))
    state = tx.init(params)

    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, images), labels).mean()

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state, value

    values = []
    for _ in range(60):
        params, state, value = step(params, state)
        values.append(float(value))
    assert values[-1] < 0.5 * values[0]


def test_the_artefact_gives_the_same_updates_as_the_family_it_came_from(artefact):
    phi = nest({key: leaf for key, leaf in np.load(artefact).items() if key != "__meta__"})
    theta, grad = {"a": jnp.ones((2, 2))}, {"a": jnp.array([[0.5, -0.1], [0.0, 2.0]])}
    loaded, own = l2lcli.load(str(artefact)), lstm(SPEC).bind(phi)
    found, expected = (tx.update(grad, tx.init(theta), theta)[0] for tx in (loaded, own))
    np.testing.assert_array_equal(found["a"], expected["a"])
    assert (np.sign(found["a"]) == -np.sign(grad["a"])).all()


def test_what_cannot_be_loaded_is_one_clear_line(artefact, tmp_path):
    with pytest.raises(RunError, match="no run directory, no optimizer file"):
        l2lcli.load("nothing.npz")
    write_artefact(tmp_path / "old.npz", {"x": np.zeros(1)}, {})
    with pytest.raises(RunError, match="does not say what optimizer it is of"):
        l2lcli.load(tmp_path / "old.npz")


def test_parameters_of_another_architecture_are_named():
    here = {"start": jax.ShapeDtypeStruct((4,), jnp.float32), "rate": jax.ShapeDtypeStruct((), jnp.float32)}
    assert misfit({"start": np.zeros(4, np.float32), "rate": np.float32(0)}, here) is None
    assert (
        misfit({"start": np.zeros(5, np.float32), "rate": np.float32(0)}, here) == "start is float32[5] there, float32[4] here"
    )
    assert misfit({"rate": np.float32(0)}, here) == "start is missing"
    assert misfit({"start": np.zeros(4), "rate": np.float32(0), "more": np.float32(0)}, here) == "more is not needed"


def test_the_public_names_are_there_and_no_others():
    assert sorted(dir(l2lcli)) == sorted(l2lcli.__all__)
    assert all(getattr(l2lcli, name) is not None for name in l2lcli.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        l2lcli.lode  # noqa: B018


def test_scale_weight_decay_and_horizon(artefact):
    theta = {"a": jnp.arange(1.0, 4.0)}
    grad = {"a": jnp.array([0.1, -0.2, 0.3])}

    def first(**how):
        tx = l2lcli.load(artefact, **how)
        return tx.update(grad, tx.init(theta), theta, value=jnp.float32(1))[0]["a"]

    plain = first()
    np.testing.assert_array_equal(first(scale=1.0, horizon=7), plain)
    np.testing.assert_allclose(first(scale=0.5), 0.5 * plain, rtol=1e-6)
    np.testing.assert_allclose(first(weight_decay=0.1), plain - 0.1 * theta["a"], rtol=1e-6)
    with pytest.raises(ValueError, match="must not be negative"):
        l2lcli.load(artefact, scale=-1)
    tx = l2lcli.load(artefact, weight_decay=0.1)
    with pytest.raises(ValueError, match="weight decay reads the parameters"):
        tx.update(grad, tx.init(theta))


def test_a_state_kept_in_half_the_bytes_gives_nearly_the_same_updates():
    theta = {"w": jnp.ones((64, 32)), "b": jnp.zeros(32)}
    both = l2lcli.load("general-small"), l2lcli.load("general-small", state_dtype=jnp.bfloat16)
    states, first = [tx.init(theta) for tx in both], True
    steps = [jax.jit(tx.update) for tx in both]
    for key in jax.random.split(jax.random.key(0), 5):
        grad = jax.tree.map(lambda x, key=key: jax.random.normal(key, x.shape), theta)
        updates, states = zip(
            *(step(grad, state, theta, value=jnp.float32(1)) for step, state in zip(steps, states, strict=True)), strict=True
        )
        size = float(jnp.abs(updates[0]["w"]).max())
        np.testing.assert_allclose(updates[1]["w"], updates[0]["w"], atol=0 if first else 0.02 * size)
        first = False
    assert not all(bool((a == b).all()) for a, b in zip(*map(jax.tree.leaves, updates), strict=True))  # it was rounded
    kept = {(leaf.size > 1024, str(leaf.dtype)) for leaf in jax.tree.leaves(states[1])}
    assert kept == {(True, "bfloat16"), (False, "float32")}
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(state)) for state in states]
    assert sizes[1] < 0.55 * sizes[0]


def test_an_optimizer_is_told_the_horizon(tmp_path):
    (tmp_path / "c.yaml").write_text("optimizer: {kind: scaled, hidden: 2}")
    config = load_config(tmp_path / "c.yaml")
    theta = {"a": jnp.ones((3, 2))}
    phi = l2lcli.experiment.registry.optimizer.build(config.optimizer).init(jax.random.key(0), theta)
    write_artefact(tmp_path / "mine.npz", to_host(phi), {"config": config.model_dump(mode="json")})
    sizes = []
    for horizon in (None, 2, 1000):
        tx = l2lcli.load(tmp_path / "mine.npz", horizon=horizon)
        update, _ = tx.update(theta, tx.init(theta), theta, value=jnp.float32(1))
        sizes.append(float(jnp.abs(update["a"]).max()))
    assert sizes[0] == sizes[1] > 2 * sizes[2] > 0  # nobody says: as if half were done; a long run takes smaller steps
