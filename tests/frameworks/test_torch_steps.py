"""Each step of `l2lcli.torch.LearnedOptimizer` against that of the JAX optimizer, on the same gradients."""
# ruff: noqa: E402

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make frameworks")

from l2lcli import registry
from l2lcli.optimizers.lstm import LstmSpec
from l2lcli.optimizers.mlp import MlpSpec
from l2lcli.optimizers.scaled import ScaledSpec
from l2lcli.torch import LearnedOptimizer
from tests.frameworks.recorded import errors, one_thread, parameters, put, record, stored, turned

__all__ = ["one_thread"]


@pytest.mark.parametrize("name", ["digits", "digits-averages", "mnist"])
def test_every_step_is_that_of_jax_in_single_precision(name):
    steps = record(name, jnp.float32)
    params = parameters(steps[0].theta)
    assert steps[-1].value < 0.9 * steps[0].value  # it was a training
    off = [np.sqrt(np.mean(off**2)) for off in errors(LearnedOptimizer(params, name), params, steps)]
    assert len(off) == 100
    assert max(off) < 1e-5


@pytest.mark.parametrize("name", ["general", "general-small", "quadratic"])
def test_every_step_is_that_of_jax_in_double_precision(name):
    """`general` orthogonalises, which makes rounding hundreds of times as large; the updates of `quadratic` cancel at first."""
    with jax.enable_x64(True):
        steps = record(name, jnp.float64)
    params = parameters(steps[0].theta)
    assert steps[-1].value < 0.9 * steps[0].value
    assert max(np.abs(off).max() for off in errors(LearnedOptimizer(params, name, horizon=100), params, steps)) < 1e-5


SPECS = {
    "linear": LstmSpec(layers=0, preprocess={"kind": "identity"}, output_scale=0.5),
    "clamp, fan_in": LstmSpec(layers=1, hidden=5, preprocess={"kind": "clamp", "low": -0.1, "high": 0.2}, fan_in=6),
    "deepmind": LstmSpec(layers=3, hidden=4, preprocess={"kind": "deepmind_log_sign"}, forget_bias=0.5),
    "mlp": MlpSpec(hidden=6),
    "mlp without clock": MlpSpec(hidden=3, clock=False, averages={"decays": [0.7]}),
    "no rule, rms": ScaledSpec(rule=None, normalise="rms", hidden=0, anneal=False),
    "lstm, none": ScaledSpec[LstmSpec](rule={"kind": "lstm", "layers": 1, "hidden": 4}, normalise="none", control=False),
    "mlp, no clock": ScaledSpec[MlpSpec](rule={"kind": "mlp", "hidden": 4}, hidden=5, clock=False, memory=5.0, growth=0.1),
}


@pytest.mark.parametrize("kind", SPECS)
def test_what_a_spec_can_say(tmp_path, kind):
    """Beyond a horizon and without one, with an output that has no gradient, and one number as a matrix."""
    spec, draw = SPECS[kind], np.random.default_rng(3)
    with jax.enable_x64(True):
        family = registry.optimizer.build(spec)
        begin = {"a": jnp.asarray(draw.standard_normal((8, 3))), "b": jnp.ones(3), "c": jnp.full((1, 1), 2.0)}
        shapes = jax.eval_shape(family.init, jax.random.key(0), begin)
        phi = jax.tree.map(lambda leaf: jnp.asarray(0.3 * draw.standard_normal(leaf.shape)), shapes)
        tx = family.bind(phi)
        update = jax.jit(lambda *given, **extra: tx.update(*given, **extra))
        for horizon in (0, 4):
            theta, state, params = begin, tx.init(begin), parameters(turned(begin))
            optimizer = LearnedOptimizer(params, stored(tmp_path / "o.npz", spec, phi), horizon=horizon or None)
            for t in range(6):
                grad = jax.tree.map(lambda leaf: draw.standard_normal(leaf.shape), begin)
                grad["a"][:, 0] = grad["a"][2, 1] = 0
                put(params, turned(theta), turned(grad))
                optimizer.step(loss=1 / (t + 1))
                step, state = update(grad, state, theta, value=1 / (t + 1), horizon=horizon)
                theta = jax.tree.map(lambda leaf, u: leaf + u, theta, step)
                for p, leaf in zip(params, turned(theta), strict=True):
                    np.testing.assert_allclose(p.detach(), leaf, rtol=1e-6, atol=1e-8)
