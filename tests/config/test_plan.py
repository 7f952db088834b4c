"""What a sweep consists of: every point's config is the one that `--set` gives, and points that start from others wait."""

import re

import pytest

from l2lcli import config as configs
from l2lcli.config import ConfigError
from l2lcli.config.plan import plan
from tests.command_line import CONFIG
from tests.support import ROOT


@pytest.fixture
def small(tmp_path):
    (tmp_path / "small.yaml").write_text(CONFIG)
    return tmp_path / "small.yaml"


def faults(*arguments):
    with pytest.raises(ConfigError) as caught:
        plan(*arguments)
    return caught.value.faults


def test_points_are_what_set_gives(small):
    found = plan(small, ["seed=3..4", "optimizer.hidden=2,5"], None, ["train.episodes=6"])
    assert (found.name, found.sample, len(found.digest)) == ("small", None, 64)
    assert [point.name for point in found.points] == [f"seed={s},hidden={h}" for s in (3, 4) for h in (2, 5)]
    for point in found.points:
        seed, hidden = point.values["seed"], point.values["optimizer.hidden"]
        by_hand = configs.load(small, ["train.episodes=6", f"seed={seed}", f"optimizer.hidden={hidden}"])
        assert point.config == by_hand and point.after == ()


def test_a_value_may_be_a_mapping(small):
    over = ["optimizer={kind: lstm, layers: 1, hidden: 3},{kind: adam}"]
    lstm, adam = (point.config for point in plan(small, over, None, []).points)
    assert (lstm.optimizer.kind, lstm.optimizer.hidden, adam.optimizer.kind) == ("lstm", 3, "adam")


def test_an_axis_may_give_what_the_file_leaves_wrong(small):
    small.write_text(CONFIG.replace("window: 5", "window: 7"))
    assert len(plan(small, ["train.estimator.window=2,5"], None, []).points) == 2


def test_the_digest_is_that_of_what_was_asked(small):
    digest = plan(small, ["seed=0..1"], None, []).digest
    assert plan(small, ["seed=0,1"], None, []).digest == digest
    assert plan(small, ["seed=0..2"], None, []).digest != digest
    assert plan(small, ["seed=0..1"], None, ["train.episodes=6"]).digest != digest
    small.write_text(CONFIG + "# a remark\n")
    assert plan(small, ["seed=0..1"], None, []).digest == digest
    small.write_text(CONFIG.replace("horizon: 10", "horizon: 20"))
    assert plan(small, ["seed=0..1"], None, []).digest != digest


def test_faults_have_the_points_name_unless_every_point_has_them(small):
    assert faults(small, ["optimizer.hiden=2,3"], None, []) == ["--over optimizer.hiden: unknown key; did you mean 'hidden'?"]
    with pytest.raises(ConfigError, match=r"^--set optimizer.hiden: unknown key; did you mean 'hidden'\?$"):
        configs.load(small, ["optimizer.hiden=2"])
    assert faults(small, ["optimizer.hidden=0,3", "seed=0..1"], None, []) == [
        f"hidden=0,seed={seed}: --over optimizer.hidden: must be at least 1, got 0" for seed in (0, 1)
    ]


def test_what_cannot_be_swept(small):
    assert faults(small, [], None, []) == [f"{small}: nothing varies: give --over KEY=VALUES, such as --over seed=0..4"]
    assert faults(small, ["train.horizon=log(1,2)"], None, []) == [
        "--over train.horizon: how many points are to be drawn? Give --sample N"
    ]
    assert faults(small, ["seed=0..1999", "optimizer.hidden=1,2"], None, []) == [
        f"{small}: 4,000 points, more than 2,000: sample them (--sample N)"
    ]
    assert faults(small, ["seed=0..4"], 6, []) == ["--sample: 6 points of a grid that has 5"]
    (fault,) = faults(small.with_name("none.yaml"), ["seed=0"], None, [])
    assert fault.endswith("none.yaml:1:1: cannot be read: no such file or directory")


def test_a_sample_is_seeded_by_the_config(small):
    over = ["train.meta_optimizer.learning_rate=log(1e-4,1e-1)", "optimizer.hidden=2,3"]
    rates = [
        [point.config.train.meta_optimizer.learning_rate for point in plan(small, over, 3, sets).points]
        for sets in ([], ["train.episodes=6"], ["seed=1"])
    ]
    assert rates[0] == rates[1] != rates[2] and all(1e-4 <= rate <= 1e-1 for rate in rates[0])


def sweep_file(folder, text, **files):
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(content)
    (folder / "all.yaml").write_text(text)
    return folder / "all.yaml"


BASE = CONFIG.replace("name: small\n", "")
NEXT = BASE.replace("  episodes: 4", "  episodes: 4\n  init_from: base")


def test_a_point_starts_from_the_one_that_agrees_with_it(tmp_path):
    text = "name: all\nsweep: [{configs: [next.yaml, base.yaml], over: {seed: 0..1}}, {configs: [last.yaml]}]\n"
    files = {"base": BASE, "next": NEXT, "last": NEXT.replace("init_from: base", "init_from: next") + "seed: 1\n"}
    found = plan(sweep_file(tmp_path, text, **files), [], None, ["train.episodes=2"])
    assert found.name == "all" and all(point.config.train.episodes == 2 for point in found.points)
    assert {point.name: point.after for point in found.points} == {
        "base,seed=0": (), "base,seed=1": (), "next,seed=0": ("base,seed=0",), "next,seed=1": ("base,seed=1",),
        "last": ("next,seed=1",),
    }  # fmt: skip
    order = [point.name for point in found.points]
    assert all(order.index(other) < order.index(point.name) for point in found.points for other in point.after)


def test_a_point_may_be_named(tmp_path):
    text = "name: all\nsweep: [{configs: [base.yaml], over: {seed: [0, 1]}}, {configs: [next.yaml]}]\n"
    files = {"base": BASE, "next": NEXT.replace("init_from: base", "init_from: 'base,seed=1'")}
    assert plan(sweep_file(tmp_path, text, **files), [], None, []).points[-1].after == ("base,seed=1",)


def test_a_name_that_is_not_the_sweeps_is_somebody_elses(tmp_path):
    text = "name: all\nsweep: [{configs: [next.yaml, base.yaml]}]\n"
    files = {"base": NEXT, "next": NEXT.replace("init_from: base", "init_from: digits")}
    found = plan(sweep_file(tmp_path, text, **files), [], None, [])
    assert [point.after for point in found.points] == [(), ()]  # one's own name is the shipped optimizer's, too


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sweep: [{configs: [base.yaml]}]", r"all.yaml:1:1: name: must be given"),
        ("name: a\nsweep: []", r"all.yaml:2:1: sweep: must not be empty"),
        (
            "name: a\nsweep: [{configs: [base.yaml], ovr: {}}]",
            r"all.yaml:2:32: sweep.0.ovr: unknown key; did you mean 'over'\?",
        ),
        ("name: a\nsweep: [{configs: [no.yaml]}]", r"no.yaml:1:1: cannot be read: no such file or directory"),
        ("name: a\nsweep: [{configs: [base.yaml, base.yaml]}]", r"base.yaml: the sweep has an experiment 'base' already"),
        ("name: a\nsweep: [{configs: [base.yaml], over: {seed: 2..1}}]", r"all.yaml:2:39: seed: 2..1 is empty: .*"),
        ("name: a\nsweep: [{configs: [base.yaml], over: {seed: 'uniform(0,1)'}}]", r"all.yaml:2:39: seed: the axes of .*"),
        ("name: a\nsweep: [{configs: [one.yaml, two.yaml]}]", r"one, two: each starts from another one of these"),
        (
            "name: a\nsweep: [{configs: [base.yaml], over: {seed: 3..4}}, {configs: [next.yaml]}]",
            r"next: train.init_from: base: none of its points has this one's seed",
        ),
        (
            "name: a\nsweep: [{configs: [figures.yaml]}]",
            r"a sweep has a folder 'figures' itself: call the experiment otherwise",
        ),
    ],
)
def test_faults_of_a_sweep_file(tmp_path, text, message):
    cycle = {"one": NEXT.replace("init_from: base", "init_from: two"), "two": NEXT.replace("init_from: base", "init_from: one")}
    path = sweep_file(tmp_path, text, base=BASE, next=NEXT, figures=BASE, **cycle)
    (fault,) = faults(path, [], None, [])
    assert re.fullmatch(f"({re.escape(str(tmp_path))}/)?{message}", fault)


def test_a_sweep_file_says_itself_what_varies(tmp_path):
    path = sweep_file(tmp_path, "name: a\nsweep: [{configs: [base.yaml]}]", base=BASE)
    assert faults(path, ["seed=0"], None, []) == [
        f"{path}: is a sweep file, and says itself what varies: no --over and no --sample"
    ]


def test_the_papers_sweep_is_sound():
    """Every experiment that a claim rests on is in it, and nothing starts from what is trained after it."""
    found = plan(ROOT / "configs/sweeps/paper.yaml", [], None, [])
    after = {point.name: point.after for point in found.points}
    assert after["mnist,seed=2"] == ("mnist-pooled,seed=2",) and after["mnist-pooled,seed=2"] == ("mnist-averages,seed=2",)
    for point in found.points:
        assert bool(point.after) == (point.config.train.init_from is not None), point.name
