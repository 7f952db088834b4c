"""Configurations: the laws of loading, overriding, comparing and writing them."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2lcli import config
from l2lcli.config.tree import leaves
from l2lcli.config.yaml_write import emit

laws = settings(deadline=None, derandomize=True, max_examples=50)

COMMON = ["sgd", "momentum", "nag", "rmsprop", "adam", "adagrad", "adadelta"]
positive = st.floats(0, exclude_min=True, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Co"]))
baselines = st.lists(st.sampled_from(COMMON), unique=True)
variants = st.fixed_dictionaries(
    {}, optional={"problem.dimension": st.integers(1, 99), "eval.baselines": baselines, "optimizer.output_scale": positive}
)
FIELDS = {  # dotted key -> values that it can take whatever the others are
    "seed": st.integers(0, 2**32 - 1),
    "data.raw_dir": st.none() | texts,
    "problem.dimension": st.integers(1, 10_000),
    "problem.start": st.sampled_from(["gaussian", "uniform", "zeros"]),
    "problem.start_scale": positive | st.just(0.0),
    "optimizer.hidden": st.integers(1, 1024),
    "optimizer.output_scale": positive,
    "optimizer.preprocess": st.sampled_from(
        [{"kind": "identity"}, {"kind": "clamp", "low": -2.5}, {"kind": "log_sign", "p": 3.0}]
    ),
    "optimizer.forget_bias": st.floats(allow_nan=False, allow_infinity=False),
    "train.episodes": st.integers(1, 10_000_000),
    "train.horizon": st.integers(1, 1000).map(lambda n: 20 * n),
    "train.patience": st.none() | st.integers(1, 100),
    "train.estimator.second_order": st.booleans(),
    "train.meta_optimizer.learning_rate": positive,
    "train.meta_optimizer.schedule": st.sampled_from(["constant", "cosine", "linear", "exponential"]),
    "eval.baselines": baselines,
    "eval.variants": st.dictionaries(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True), variants, max_size=3),
}
changes = st.fixed_dictionaries({}, optional=FIELDS)
other_kinds = st.sampled_from(
    [
        {},
        {"problem.kind": "classification", "problem.hidden": [3, 4]},
        {"optimizer.kind": "adam"},
        {"train.estimator.kind": "autodiff", "train.estimator.checkpoint": False},
    ]
)
DEFAULTS = config.config_class()()


def flat(c):
    return {".".join(path): value for path, value in leaves(c.model_dump(mode="json"))}


def nested(changes):
    """Dotted keys as a file would say them."""
    tree = {}
    for dotted, value in changes.items():
        *above, last = dotted.split(".")
        inner = tree
        for step in above:
            inner = inner.setdefault(step, {})
        inner[last] = value
    return tree


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that all examples of a test share."""
    return tmp_path_factory.mktemp("configs")


@laws
@given(changes, other_kinds)
def test_what_is_dumped_loads_as_the_same_config(folder, drawn, kinds):
    if kinds:  # of a section of another kind the drawn keys mean nothing, nor do variants that change them
        section = next(iter(kinds)).split(".")[0] + "."
        drawn = {key: value for key, value in drawn.items() if not key.startswith((section, "eval.variants"))}
    c = config.override(DEFAULTS, {"name": "digits-2.0"} | drawn | kinds)
    (folder / "dump.yaml").write_text(config.dump(c), encoding="utf-8")
    again = config.load(folder / "dump.yaml")
    assert again == c
    assert repr(flat(again)) == repr(flat(c))


@laws
@given(changes)
def test_override_sets_what_it_is_told_and_nothing_else(drawn):
    c = config.override(DEFAULTS, drawn)
    assert config.override(c, {}) == c
    assert config.override(c, drawn) == c
    differing = {key for key, _, _ in config.diff(DEFAULTS, c)}
    assert all(any(key == d or key.startswith(d + ".") for d in drawn) for key in differing)
    for dotted, value in drawn.items():
        if not isinstance(value, dict):
            assert repr(flat(c)[dotted]) == repr(value)


@laws
@given(changes, changes)
def test_diff_says_what_differs(first, second):
    a, b = config.override(DEFAULTS, first), config.override(DEFAULTS, second)
    assert config.diff(a, a) == []
    found = {key: (x, y) for key, x, y in config.diff(a, b)}
    for key in flat(a) | flat(b):
        pair = tuple(flat(c).get(key, config.ABSENT) for c in (a, b))
        assert (key in found) == (repr(pair[0]) != repr(pair[1]))
        assert found.get(key, pair) == pair
    assert repr(config.ABSENT) == "(absent)"


def test_one_and_one_point_zero_differ():
    whole, broken = (config.override(DEFAULTS, {"eval.variants.v": {"optimizer.output_scale": x}}) for x in (1, 1.0))
    assert repr(config.diff(whole, broken)) == "[('eval.variants.v.optimizer.output_scale', 1, 1.0)]"


leaf_changes = st.fixed_dictionaries(
    {}, optional={key: value for key, value in FIELDS.items() if key not in ("eval.variants", "optimizer.preprocess")}
)


@laws
@given(leaf_changes, leaf_changes, leaf_changes)
def test_the_last_of_default_extends_file_and_set_wins(folder, parent, child, sets):
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "parent.yaml").write_text(emit({"name": "parent"} | nested(parent)), encoding="utf-8")
    path = folder / "child.yaml"
    path.write_text(emit({"extends": "sub/parent.yaml"} | nested(child)), encoding="utf-8")
    overrides = [emit({key: value}).rstrip("\n").replace(": ", "=", 1) for key, value in sets.items()]
    c, origin = config.load(path, overrides), config.provenance(path, overrides)
    assert repr(flat(c)) == repr(flat(DEFAULTS) | parent | child | sets | {"name": "child"})
    assert origin.keys() == flat(c).keys()
    for key, source in origin.items():
        if key in sets:
            assert source == "--set"
        elif key in child or key in parent:
            file, _, line = source.rpartition(":")
            assert file == str(path if key in child else folder / "sub" / "parent.yaml")
            with open(file, encoding="utf-8", newline="\n") as lines:
                assert f"{key.split('.')[-1]}:" in list(lines)[int(line) - 1]
        else:
            assert source == "default"


def test_another_kind_drops_what_belonged_to_the_first(tmp_path):
    (tmp_path / "a.yaml").write_text("problem: {dimension: 7}\noptimizer: {hidden: 5, preprocess: {kind: clamp, low: -3}}\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\nproblem: {kind: classification}\noptimizer: {kind: lstm, layers: 1}\n")
    b = config.load(tmp_path / "b.yaml")
    assert (b.problem.kind, b.problem.hidden, b.optimizer.hidden, b.optimizer.layers) == ("classification", [20], 5, 1)
    assert b.optimizer.preprocess.low == -3
    for sets in (
        ["optimizer.kind=adam", "optimizer.learning_rate=1e-2"],
        ["optimizer.learning_rate=1e-2", "optimizer.kind=adam"],
    ):
        assert config.load(tmp_path / "b.yaml", sets).optimizer.learning_rate == 0.01
    assert config.override(b, {"optimizer.preprocess.kind": "identity"}).optimizer.preprocess.kind == "identity"


def test_an_empty_mapping_of_names_takes_the_others_place(tmp_path):
    (tmp_path / "a.yaml").write_text("eval: {steps: 7, variants: {big: {problem.dimension: 99}}}\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\neval: {variants: {}}\n")
    (tmp_path / "c.yaml").write_text("extends: b.yaml\neval: {variants: {small: {problem.dimension: 2}}}\n")
    assert config.load(tmp_path / "b.yaml").eval.variants == {} and config.load(tmp_path / "b.yaml").eval.steps == 7
    assert list(config.load(tmp_path / "c.yaml").eval.variants) == ["small"]
    assert config.load(tmp_path / "a.yaml", ["eval.variants={}"]).eval.variants == {}
    assert config.load(tmp_path / "a.yaml", ["eval={}"]).eval.steps == 7  # what is no list of names merges


def test_variants_are_the_config_under_their_changes(tmp_path):
    (tmp_path / "a.yaml").write_text("eval: {variants: {big: {problem.dimension: 99}, mlp: {problem.kind: classification}}}")
    c = config.load(tmp_path / "a.yaml", ["eval.variants.big.eval.steps=7", "problem.start_scale=5"])
    big = config.variant(c, "big")
    assert (big.problem.dimension, big.problem.start_scale, big.eval.steps, big.eval.variants) == (99, 5, 7, {})
    assert config.override(big, {"problem.dimension": 10, "eval.steps": 100, "eval.variants": c.eval.variants}) == c
    assert config.variant(c, "mlp").problem.kind == "classification"
    with pytest.raises(config.ConfigError, match="unknown variant 'bog'; did you mean 'big'"):
        config.variant(c, "bog")


def test_a_variant_of_another_kind_drops_what_the_default_kind_was_given(tmp_path):
    text = "optimizer: {preprocess: {p: 5}}\neval: {variants: {v: {optimizer.preprocess.kind: clamp}}}"
    (tmp_path / "a.yaml").write_text(text)
    assert config.variant(config.load(tmp_path / "a.yaml"), "v").optimizer.preprocess.kind == "clamp"


def test_numbers_are_what_they_look_like(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 1e3\ntrain: {meta_optimizer: {learning_rate: 1e-3, clip: 2}}")
    c = config.load(tmp_path / "a.yaml")
    assert repr((c.name, c.seed)) == "('a', 1000)"
    assert repr((c.train.meta_optimizer.learning_rate, c.train.meta_optimizer.clip)) == "(0.001, 2.0)"


def test_the_schema_knows_every_key():
    schema = config.schema()
    assert {"extends", *DEFAULTS.model_dump()} == set(schema["properties"])
    assert {"LstmSpec", "AdamSpec", "QuadraticSpec", "AutoSpec", "TrainSpec"} < set(schema["$defs"])
    assert all("description" in entry for entry in schema["$defs"]["TrainSpec"]["properties"].values() if "$ref" not in entry)


def test_common_names_load_no_jax(tmp_path):
    text = {
        "train": {"meta_optimizer": {"name": "rmsprop"}},
        "eval": {"baselines": COMMON, "variants": {"v": {"optimizer.kind": "adam"}}},
    }
    (tmp_path / "a.yaml").write_text(emit(text))
    code = (
        "import sys; from l2lcli import config; c = config.load(sys.argv[1], ['seed=3']); config.dump(c); config.schema();"
        "config.variant(c, 'v'); print([m for m in ('jax', 'jaxlib', 'optax', 'flax', 'numpy') if m in sys.modules])"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "a.yaml")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"
