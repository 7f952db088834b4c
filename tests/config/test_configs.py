"""The shipped experiments: each loads, is named after its file, and fits what it starts from."""

import jax
import jax.numpy as jnp
import pytest

from l2lcli import registry
from l2lcli.config import load
from l2lcli.meta.optimizer import factors
from tests.support import ROOT

FOLDER = ROOT / "configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_experiment_is_sound(name):
    config = load(FOLDER / f"{name}.yaml", [])
    assert config.name == name
    if config.train.init_from is not None:
        start, goes_on = (
            c.optimizer.model_dump(exclude={"fan_in"})  # which says how wide a network's updates are scaled down
            for c in (load(FOLDER / f"{config.train.init_from}.yaml", []), config)
        )
        assert start == goes_on
    if config.train.meta_optimizer.factors:
        phi = registry.optimizer.build(config.optimizer).init(jax.random.key(0), {"weight": jnp.zeros(2)})
        factors(config.train.meta_optimizer.factors, phi)
