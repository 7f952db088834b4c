"""The probe of `docs/examples` finds of a clip what a clip does, and of what is coordinatewise nothing."""

import importlib.util

import jax.numpy as jnp
import numpy as np

from l2lcli.optimizers.hand import hand
from tests.support import ROOT


def test_the_probe_sees_a_clip_and_no_other():
    spec = importlib.util.spec_from_file_location("clipping_probe", ROOT / "docs/examples/clipping_probe.py")
    probe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(probe)
    phi = {"log_learning_rate": jnp.float32(0)}
    lengths = np.sqrt(probe.OWN**2 + np.square(probe.NORMS))
    np.testing.assert_allclose(probe.response(hand("clipped_sgd").bind(phi)), -probe.OWN / lengths, rtol=1e-4)
    np.testing.assert_allclose(probe.response(hand("sgd").bind(phi)), -probe.OWN, rtol=1e-4)
