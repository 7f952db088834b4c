"""The shipped experiments: each loads, is named after its file, and fits what it starts from."""

import jax
import jax.numpy as jnp
import pytest

from l2lcli import registry
from l2lcli.config import load
from l2lcli.meta.optimizer import factors
from l2lcli.runs.scores import suite
from tests.support import ROOT

FOLDER = ROOT / "configs"
SUITES = [path for folder in ("suite", "validation", "transfer") for path in sorted((FOLDER / folder).glob("*.yaml"))]
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


@pytest.mark.parametrize("path", sorted((FOLDER / "ablation").rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_row_of_the_ablation_is_sound(path):
    config = load(path, [])
    assert config.name == (path.stem if path.parent.name == "problems" else f"ablation-{path.stem}")
    registry.optimizer.build(config.optimizer)


@pytest.mark.parametrize("path", SUITES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_problem_of_a_suite_is_sound(path):
    config = load(path, [])
    assert config.name == f"{path.parent.name}-{path.stem.lstrip('0123456789-')}"
    assert config.eval.baselines == ["adam", "adam_cosine", "nag", "nag_cosine"] and config.eval.seeds == 20


def test_the_suite_is_the_one_that_was_frozen():
    assert suite(FOLDER / "suite").digest.startswith("2920e877")  # what is kept in runs/reference is judged by it
