"""The strict YAML reader: it reads back what is emitted, guesses nothing, and survives anything."""

import time

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from l2lcli.config.yaml_read import MAX_DEPTH, MAX_DIGITS, MAX_KEY, Place, node, parse, scalar, unplaced
from l2lcli.config.yaml_write import emit

laws = settings(deadline=None, derandomize=True, max_examples=60)

printable = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn", "Co"]) | st.sampled_from("\t\n\x85\u2028\ufeff")
AMBIGUOUS = ["", "yes", "No", "on", "null", "~", "true", "1e-3", "010", "0x1F", "1:30", "1_0", ".inf", "<<", "=", "2024-01-01"]
SYNTAX = [
    "a: b",
    "a:b",
    "a, b",
    "a #b",
    "#a",
    "-",
    "- a",
    "*a",
    "&a",
    "!a",
    "'a'",
    "|",
    ">",
    "%",
    "@",
    "[",
    "}",
    "? a",
    "---",
    "...",
]
texts = st.text(printable, max_size=30) | st.sampled_from(AMBIGUOUS + SYNTAX)
numbers = st.integers(-(10**MAX_DIGITS) + 1, 10**MAX_DIGITS - 1) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5), max_leaves=30
)
mappings = st.dictionaries(texts, values, max_size=6)


def typed(value):
    """Equal only for equal values of equal types: not for 1, 1.0 and True."""
    return repr(value)


def faults(text):
    """Each fault as (line, column, message)."""
    return [(place.line, place.column, message) for place, message in parse(text, "a.yaml")[1]]


@laws
@given(mappings)
@example({})
@example({"a": {}, "b": [], "c": [{}, []], "": ""})
@example({"x" * MAX_KEY: ["y" * 200, {"z": [1e-5, 1e16, -0.0, 5e-324]}]})
def test_what_is_emitted_reads_back_the_same(mapping):
    tree, found = parse(emit(mapping), "a.yaml")
    assert found == []
    assert typed(unplaced(tree)) == typed(mapping)


@laws
@given(mappings)
@example({"x": [1e-5, 1e16, 5e-324]})
def test_what_is_emitted_reads_the_same_elsewhere(mapping):
    assert typed(yaml.safe_load(emit(mapping))) == typed(mapping)


@laws
@given(values)
def test_a_value_made_a_node_is_the_same_value(value):
    assert typed(unplaced(node(value, Place("here")))) == typed(value)


@laws
@given(st.binary(max_size=200) | st.text("ab:-[]{}&*!|>'\"#%@` \n\t?,\\0", max_size=60))
@example('a: "\\U99999999"')
@example(b"\xef\xbb\xbf")
@example("? ")
def test_anything_else_is_a_tree_or_faults_but_no_exception(data):
    tree, found = parse(data, "a.yaml")
    assert tree is not None or found
    assert all(fault.place.line >= 1 and fault.place.column >= 1 for fault in found)


def test_emit_breaks_only_what_is_too_long():
    assert emit({"a": {"b": [1, 2]}, "c": [1, 2]}, width=13) == "a:\n  b: [1, 2]\nc: [1, 2]\n"
    assert emit({"a": ["x" * 8, "on"], "b": 1}, width=12) == 'a:\n- xxxxxxxx\n- "on"\nb: 1\n'


READ = {
    "1e-3": 0.001,
    "1E3": 1000.0,
    "1.": 1.0,
    ".5": 0.5,
    "+3": 3,
    "-0": 0,
    "0": 0,
    "": None,
    "~": None,
    "Null": None,
    "nULL": "nULL",
    "TRUE": True,
    "tRue": "tRue",
    "2024-01-01": "2024-01-01",
    "1.2.3": "1.2.3",
    "e5": "e5",
    "9" * MAX_DIGITS: 10**MAX_DIGITS - 1,
}


@pytest.mark.parametrize("text", READ)
def test_plain_scalars(text):
    assert typed(scalar(text)) == typed(READ[text])


REFUSED = {
    "no": "ambiguous: write true or false",
    "Off": "ambiguous: write true or false",
    "010": "octal",
    "-007.5": "octal",
    "0x1F": "in decimal",
    "0b1": "in decimal",
    "1:30": "base 60",
    "1_000": "without underscores",
    ".NaN": "NaN and infinity",
    "-.inf": "NaN and infinity",
    "1e999": "too large",
    "9" * 5000: "more than 20 digits",
    "-" + "9" * (MAX_DIGITS + 1): "more than 20 digits",
}


@pytest.mark.parametrize("text", REFUSED)
def test_ambiguous_scalars_are_refused_with_a_hint_but_quoted_they_are_text(text):
    with pytest.raises(ValueError, match=REFUSED[text]) as info:
        scalar(text)
    assert len(str(info.value)) < 150
    assert faults(f"a: 1\nb: {text}") == [(2, 4, str(info.value))]
    assert unplaced(parse(f"a: '{text}'", "a.yaml")[0]) == {"a": text}


FAULTS = {  # text -> (line, column, words of the message) of each fault
    "": [(1, 1, "is empty")],
    "# only\n": [(2, 1, "is empty")],
    "a: 1\nb: 2\na: 3\nb: 4": [(3, 1, "duplicate key 'a'; the first is at a.yaml:1:1"), (4, 1, "duplicate key 'b'")],
    "a: no\na: 1": [(1, 4, "ambiguous"), (2, 1, "duplicate key 'a'")],
    "a: &x [1]\nb: *x": [(1, 4, "anchor &x"), (2, 4, "alias *x")],
    "<<: {a: 1}": [(1, 1, "merge key")],
    "a: !!python/object:os.system {}": [(1, 4, "tag")],
    "a: 1\n---\nb: 2": [(2, 1, "a second document")],
    "a: [1\nb: 2": [(2, 2, "not valid YAML")],
    "a: b: c": [(1, 5, "not valid YAML")],
    "\ta: 1": [(1, 1, "not valid YAML")],
    "1: a\nnull: b\n[c]: d": [(1, 1, "a key must be text, got 1"), (2, 1, "got null"), (3, 1, "got a list")],
    'a: "\\0"': [(1, 4, "control character")],
    "a: \x07": [(1, 4, "control character U+0007")],
    "k" * (MAX_KEY + 1) + ": 1": [(1, 1, "a key of more than 128")],
    b"a: 1\nb: \xff": [(2, 4, "UTF-8")],
    b"\x89PNG\r\n\x1a\n\0\0": [(1, 1, "not a text file")],
    b"\x1f\x8b\x08\0": [(1, 2, "not a text file")],
}


@pytest.mark.parametrize("text", FAULTS, ids=repr)
def test_every_fault_has_its_place(text):
    found = faults(text)
    assert [fault[:2] for fault in found] == [fault[:2] for fault in FAULTS[text]]
    for (*_, message), (*_, words) in zip(found, FAULTS[text], strict=True):
        assert words in message
        assert "\n" not in message


def test_of_two_kinds_neither_is_believed():
    tree, found = parse("problem: {kind: a, kind: b, x: 1}\nseed: 1", "a.yaml")
    assert [fault.place[1:] for fault in found] == [(1, 20)]
    assert unplaced(tree) == {"seed": 1}


def test_nesting_ends_at_the_limit():
    deep = lambda depth: "a: " + "[" * (depth - 1) + "]" * (depth - 1)
    assert faults(deep(MAX_DEPTH)) == []
    assert faults(deep(MAX_DEPTH + 1)) == [(1, 3 + MAX_DEPTH, f"nested deeper than {MAX_DEPTH}")]


BOMBS = {
    "lists": "a: " + "[" * 100_000,
    "mappings": "{a: " * 100_000,
    "blocks": "- " * 100_000,
    "aliases": "a: &a [x]\n" + "".join(f"b{i}: &b{i} [{', '.join(['*a'] * 10)}]\n" for i in range(300)),
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_bombs_are_defused_in_no_time(text):
    start = time.perf_counter()
    assert faults(text)
    assert time.perf_counter() - start < 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**MAX_DIGITS, object(), "\0", {1: 2}, {"k" * 200: 1}, [{2}]])
def test_what_no_file_could_say_makes_no_node(value):
    with pytest.raises(ValueError, match=r"."):
        node({"a": value}, Place("here"))
