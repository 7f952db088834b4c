"""Everything that can be wrong with a configuration gets one clear line, with its place, and all of them come at once."""

import os
import re

import pytest
from pydantic import create_model

from l2lcli import config
from l2lcli.base import Spec
from l2lcli.config.faults import Finding, check


@pytest.fixture
def faults(tmp_path, monkeypatch):
    """The faults of files, name -> text, of which the first is loaded."""
    monkeypatch.chdir(tmp_path)

    def of(files, *overrides):
        files = {"a.yaml": files} if not isinstance(files, dict) else files
        for name, text in files.items():
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(config.ConfigError) as info:
            config.load(next(iter(files)), overrides)
        assert str(info.value).splitlines() == info.value.faults  # one line each
        assert all(len(line) < 400 for line in info.value.faults)
        with pytest.raises(config.ConfigError, match="^" + re.escape(str(info.value)) + "$"):
            config.provenance(next(iter(files)), overrides)
        return info.value.faults

    return of


def assert_lines(found, expected):
    """An expected line that ends in dots is the beginning of one."""
    assert len(found) == len(expected), found
    for line, begin in zip(found, expected, strict=True):
        assert line.startswith(begin.removesuffix(" ...")) if begin.endswith(" ...") else line == begin


TABLE = {
    "eval: {variants: {a: {seed: 1}}}": ["a.yaml:1:19: eval.variants.a: has the experiment's own name"],
    "name: latest": ["a.yaml:1:1: name: 'latest' is a folder of its own in runs/: choose another name"],  # text -> its faults
    "optimizer:\n  hiden: 20": ["a.yaml:2:3: optimizer.hiden: unknown key; did you mean 'hidden'?"],
    "optimzer: {}": ["a.yaml:1:1: optimzer: unknown key; did you mean 'optimizer'?"],
    "extend: b.yaml": ["a.yaml:1:1: extend: unknown key; did you mean 'extends'?"],
    "problem: {x: [3]}": [
        "a.yaml:1:11: problem.x: unknown key; known: kind, dimension, distribution, spectrum, start, start_scale, instances",
    ],
    "problem: {kind: quadratic, hidden: [3]}": ["a.yaml:1:28: problem.hidden: unknown key; known: kind, dimension, ..."],
    "problem: {kind: quadrtic}": ["a.yaml:1:11: problem.kind: unknown kind 'quadrtic'; did you mean 'quadratic'? Known: ..."],
    "problem: {kind: [a]}": ["a.yaml:1:11: problem.kind: a list is not allowed here; known: ..."],
    "problem: {kind: quadratic, kind: classification, hidden: [3]}": [
        "a.yaml:1:28: duplicate key 'kind'; the first is at a.yaml:1:11",
    ],
    "optimizer: {preprocess: {kind: logsign}}": ["a.yaml:1:26: optimizer.preprocess.kind: unknown kind 'logsign'; did you ..."],
    "optimizer: {preprocess: 3}": ["a.yaml:1:13: optimizer.preprocess: expected a mapping, got 3"],
    "train: {weights: lst}": [
        "a.yaml:1:9: train.weights: 'lst' is not allowed here; did you mean 'last'? Known: all, last, window"
    ],
    "seed: true\ndata: {raw_dir: 3}\ntrain: {horizon: ten,\n  tasks: 1.5, estimator: {second_order: 0}}\neval: {steps: a}": [
        "a.yaml:1:1: seed: expected a whole number, got true",
        "a.yaml:2:8: data.raw_dir: expected text, got 3",
        "a.yaml:3:9: train.horizon: expected a whole number, got 'ten'",
        "a.yaml:4:3: train.tasks: expected a whole number, got 1.5",
        "a.yaml:4:27: train.estimator.second_order: expected true or false, got 0",
        "a.yaml:5:8: eval.steps: expected a whole number, got 'a'",
    ],
    "problem: null\neval: [1]": [
        "a.yaml:1:1: problem: expected a mapping, got null",
        "a.yaml:2:1: eval: expected a mapping, got a list",
    ],
    "eval: {seeds: 1, tuning_seeds: 2.5}": [
        "a.yaml:1:8: eval.seeds: must be at least 2, got 1",
        "a.yaml:1:18: eval.tuning_seeds: expected a whole number, got 2.5",
    ],
    "eval: {baselines: adam}": ["a.yaml:1:8: eval.baselines: expected a list, got 'adam'"],
    "problem: {kind: classification, hidden: [1, a]}": ["a.yaml:1:45: problem.hidden.1: expected a whole number, got 'a'"],
    "problem: {start_scale: .nan}\ntrain: {meta_optimizer: {learning_rate: .inf, clip: 1e999}}": [
        "a.yaml:1:24: .nan: NaN and infinity are not allowed",
        "a.yaml:2:41: .inf: NaN and infinity are not allowed",
        "a.yaml:2:53: 1e999 is too large for a floating-point number",
    ],
    "optimizer: {hidden: 1e9, layers: -1}\nseed: 99999999999\ntrain: {horizon: 0, meta_optimizer: {learning_rate: 0}}": [
        "a.yaml:1:13: optimizer.hidden: must be at most 1024, got 1000000000",
        "a.yaml:1:26: optimizer.layers: must be at least 0, got -1",
        "a.yaml:2:1: seed: must be at most 4294967295, got 99999999999",
        "a.yaml:3:9: train.horizon: must be at least 1, got 0",
        "a.yaml:3:38: train.meta_optimizer.learning_rate: must be more than 0.0, got 0",
    ],
    "eval: {baselines: [" + "adam, " * 101 + "]}": ["a.yaml:1:8: eval.baselines: must have at most 100 items"],
    "name: A b": ["a.yaml:1:1: name: 'A b' does not match ^[a-z0-9][a-z0-9_.-]*$"],
    "name: " + "a" * 61: ["a.yaml:1:1: name: must have at most 60 characters"],
    "seed: " + "9" * 5000: ["a.yaml:1:7: a whole number of more than 20 digits"],
    "seed: no\nname: 010\nproblem: {dimensions: 3}": [
        "a.yaml:1:7: no is ambiguous: write true or false, or quote it if it is text",
        "a.yaml:2:7: 010 is ambiguous (octal): drop the leading zero, or quote it if it is text",
        "a.yaml:3:11: problem.dimensions: unknown key; did you mean 'dimension'?",
    ],
    "seed: 1\nseed: 2\nsed: 3": [
        "a.yaml:2:1: duplicate key 'seed'; the first is at a.yaml:1:1",
        "a.yaml:3:1: sed: unknown key; did you mean 'seed'?",
    ],
    "name: &a x\nproblem: *a": [
        "a.yaml:1:7: anchor &a: anchors, aliases and merge keys are not allowed",
        "a.yaml:2:10: alias *a: anchors, aliases and merge keys are not allowed",
    ],
    "a: " + "[" * 40 + "]" * 40: ["a.yaml:1:23: nested deeper than 20"],
    "": ["a.yaml:1:1: is empty"],
    "[1]": ["a.yaml:1:1: expected keys with values at the top, got a list"],
    "hello": ["a.yaml:1:1: expected keys with values at the top, got 'hello'"],
    b"\x89PNG\r\n\x1a\n": ["a.yaml:1:1: not a text file in UTF-8"],
    "x" * 1_000_001: ["a.yaml:1:1: is larger than 1 MB"],
    "train: {horizon: 30}": ["a.yaml:1:9: train.estimator.window: 20 does not divide the horizon 30"],
    "train: {estimator: {window: 7}}": ["a.yaml:1:21: train.estimator.window: 7 does not divide the horizon 100"],
    "train: {horizon: 30, estimator: {window: no}}": ["a.yaml:1:42: no is ambiguous: write true or false, ..."],
    "train: {weights: last}": ["a.yaml:1:9: train.weights: last needs window = horizon, but these are 20 and 100"],
    "train: {meta_optimizer: {name: nag_cosine}}\neval: {baselines: [nag_cosine]}": [
        "a.yaml:1:26: train.meta_optimizer.name: nag_cosine needs to know the last step, ...",
    ],
    "train: {meta_optimizer: {name: adm}}\neval: {baselines: [adam, _adam, sophia, adam]}": [
        "a.yaml:1:26: train.meta_optimizer.name: no optimizer named 'adm'; known: sgd, momentum, ...",
        "a.yaml:2:26: eval.baselines.1: no optimizer named '_adam'; known: sgd, momentum, ...",
        "a.yaml:2:33: eval.baselines.2: optax's sophia cannot serve here: ...",
        "a.yaml:2:41: eval.baselines.3: 'adam' is there twice",
    ],
    "eval:\n  variants:\n    a: {problem.dimensio: 3}\n    b:\n      train.horizon: 30\n      optimizer.hidden: 5\n    c: 3\n"
    "    d: {eval.variants.x: {}}\n    e: {a..b: 1}\n    ../f: {}\n    g: {extends: b.yaml}": [
        "a.yaml:3:9: eval.variants.a: problem.dimensio: unknown key; did you mean 'dimension'?",
        "a.yaml:5:7: eval.variants.b: train.estimator.window: 20 does not divide the horizon 30",
        "a.yaml:7:5: eval.variants.c: expected a mapping, got 3",
        "a.yaml:8:5: eval.variants.d: a variant cannot change eval.variants",
        "a.yaml:9:9: eval.variants.e: 'a..b' is not a dotted key",
        "a.yaml:10:5: eval.variants.../f: '../f' does not match ^[A-Za-z0-9][A-Za-z0-9_-]*$",
        "a.yaml:11:9: eval.variants.g: extends: only a file can say this",
    ],
    "eval: {variants: {z: {train.horizon: 30}, b: {eval.baselines: [adam, adam]}}}": [
        "a.yaml:1:23: eval.variants.z: train.estimator.window: 20 does not divide the horizon 30",
        "a.yaml:1:70: eval.variants.b: eval.baselines.1: 'adam' is there twice",
    ],
    "extends: 3": ["a.yaml:1:1: extends: expected a file's name, got 3"],
    "seed: 1\nextends: no.yaml": ["a.yaml:2:1: extends: no.yaml: cannot be read: no such file or directory"],
    "extends: .": ["a.yaml:1:1: extends: .: cannot be read: is a directory"],
    "extends: ./a.yaml": ["a.yaml:1:1: extends: a cycle: a.yaml -> ./a.yaml"],
}


@pytest.mark.parametrize("text", TABLE, ids=lambda text: repr(text)[:60])
def test_a_bad_file_gets_a_line_a_fault(faults, text):
    assert_lines(faults(text), TABLE[text])


def test_faults_name_the_file_and_the_override_that_they_are_in(faults):
    files = {"a.yaml": "extends: b.yaml\nsed: 1\n", "b.yaml": "extends: c.yaml\nnam: x\n", "c.yaml": "\nseed: -1\n"}
    sets = ["optimizer.hiden=3", "train.horizon=no", "x", "a..b=1", "extends=b.yaml", "seed=", "eval.variants.v.sede=1"]
    expected = [
        "a.yaml:2:1: sed: unknown key; did you mean 'seed'?",
        "b.yaml:2:1: nam: unknown key; did you mean 'name'?",
        "c.yaml:2:1: seed: must be at least 0, got -1",
        "--set train.horizon: no is ambiguous: write true or false, or quote it if it is text",
        "--set x: expected KEY=VALUE",
        "--set seed: is empty",
        "--set a..b: 'a..b' is not a dotted key",
        "--set extends: only a file can say this",
        "--set optimizer.hiden: unknown key; did you mean 'hidden'?",
        "--set eval.variants.v.sede: eval.variants.v: sede: unknown key; did you mean 'seed'?",
    ]
    found = faults(files, *sets)
    assert found[:3] == expected[:3]
    assert sorted(found) == sorted(expected)


def test_a_value_of_several_types_is_judged_by_the_one_that_fits_best():
    model = create_model("Several", __base__=Spec, x=(int | list[int] | None, None))
    assert check(model, {"x": [1, 2]})[0].x == [1, 2]
    assert check(model, {"x": [1, "a"]})[1] == [Finding(("x", 1), "expected a whole number, got 'a'")]
    assert check(model, {"x": "a"})[1] == [Finding(("x",), "expected a whole number or a list, got 'a'")]


def test_a_long_cycle_and_the_blame_for_a_default(faults):
    cycle = {"a.yaml": "extends: b.yaml", "b.yaml": "seed: 1\nextends: c.yaml", "c.yaml": "extends: a.yaml"}
    assert faults(cycle) == ["c.yaml:1:1: extends: a cycle: a.yaml -> b.yaml -> c.yaml -> a.yaml"]
    assert faults("seed: 1", "train.horizon=30") == [
        "--set train.horizon: train.estimator.window: 20 does not divide the horizon 30"
    ]


@pytest.mark.parametrize(
    ("path", "reason"),
    [("no.yaml", "no such file or directory"), (".", "is a directory"), ("", "no such file"), ("a\0b", "embedded null byte")],
)
def test_what_is_no_file_cannot_be_read(path, reason):
    with pytest.raises(config.ConfigError, match=f"^{re.escape(path)}:1:1: cannot be read: {reason}"):
        config.load(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tmp_path):
    (tmp_path / "a.yaml").touch(mode=0o000)
    with pytest.raises(config.ConfigError, match=r"a\.yaml:1:1: cannot be read: permission denied"):
        config.load(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (
            {"seed": float("nan"), "problem.dimension": 0},
            ["seed: NaN and infinity are not allowed", "problem.dimension: must ..."],
        ),
        ({"seed": 10**30}, ["seed: a whole number of more than 20 digits"]),
        ({"name": object()}, ["name: a object cannot be written to a file"]),
        ({"eval.variants": {"v": {"sed": 1}}}, ["eval.variants.v: sed: unknown key; did you mean 'seed'?"]),
        ({"eval.variants.v.problem.dimension": 0}, ["eval.variants.v: problem.dimension: must be at least 1, got 0"]),
        ({"eval.baselines": ["adam", "adam"]}, ["eval.baselines.1: 'adam' is there twice"]),
        ({"a..b": 1}, ["'a..b' is not a dotted key"]),
    ],
)
def test_override_says_what_is_wrong_without_a_place(changes, lines):
    with pytest.raises(config.ConfigError) as info:
        config.override(config.config_class()(), changes)
    assert_lines(info.value.faults, lines)


@pytest.mark.parametrize(
    "text",
    ["eval: {baselines: [%s]}", "extends: %s", "imports: [%s]", "problem: {kind: classification, dataset: %s}", "seed: %s"],
)
def test_a_value_of_a_hundred_thousand_characters_is_not_repeated(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text % ("x" * 100_000))
    with pytest.raises(config.ConfigError) as error:
        config.load(tmp_path / "a.yaml")
    assert len(error.value.faults) == 1 and len(str(error.value)) < 600
