"""What is refused before it is trained: an optimizer that does not fit all the networks that it is to meet."""

import pytest

from l2lcli.config import ConfigError, load
from l2lcli.experiment import build

SCALED = {"kind": "random_scaling", "convex": 3, "of": {"kind": "quadratic", "dimension": 4}}
MIXED = {
    "kind": "mixture",
    "members": {name: {"problem": {"kind": "quadratic", "dimension": n}} for name, n in (("a", 4), ("b", 6))},
}
GROUPS = {
    "kind": "groups",
    "groups": {
        "convex": {"match": ["convex"], "optimizer": {"kind": "lstm"}},
        "rest": {"match": ["*"], "optimizer": {"kind": "lstm"}},
    },
}
RATES = {"kind": "meta_sgd", "learn_start": False}


@pytest.mark.parametrize(
    ("problem", "optimizer", "fault"),
    [
        (SCALED, GROUPS, "optimizer: random_scaling is evaluated on another theta: group 'convex' matches no parameter"),
        (
            SCALED,
            RATES,
            "optimizer: random_scaling is evaluated on another theta: rate is float32[7] there, float32[4] here",
        ),
        (MIXED, RATES, "optimizer: problem.members.b: rate is float32[4] there, float32[6] here"),
        (
            MIXED,
            {"kind": "maml"},
            "optimizer: problem.members.b: start is float32[4] there, float32[6] here",
        ),
    ],
)
def test_an_optimizer_that_does_not_fit_every_network_is_refused(problem, optimizer, fault):
    window = {"train": {"horizon": 20, "estimator": {"kind": "auto", "window": 20}}}
    with pytest.raises(ConfigError) as told:
        build(load({"problem": problem, "optimizer": optimizer, **window}))
    assert len(told.value.faults) == 1 and str(told.value.faults[0]).startswith(fault), told.value.faults


@pytest.mark.parametrize("problem", [SCALED, MIXED])
def test_one_that_does_is_built(problem):
    assert build(load({"problem": problem, "optimizer": {"kind": "lstm"}})).optimizer.start is None
