"""Problems of one's own, by a file or an installed package: found everywhere, and one line where something is wrong."""

import contextlib
import copy
import sys

import pytest

from l2lcli import plugins, registry
from l2lcli.data import loader, source
from l2lcli.sinks import source as sinks
from tests import command_line

GOOD = '''"""A problem of one's own."""

from typing import Literal

import l2lcli


class BowlSpec(l2lcli.ProblemSpec):
    """f(x) = |x|²."""

    kind: Literal["bowl"] = "bowl"


@l2lcli.register.problem("bowl", BowlSpec)
def bowl(spec, raw_dir=None):
    import jax
    import jax.numpy as jnp

    def init(key, data):
        return jax.random.normal(key, (3,)), ()

    return l2lcli.Problem(init, lambda key, task, data: task, lambda x, batch: jnp.sum(x * x), {"train": ()})
'''
CONFIG = "imports: [./bowl.py]\nproblem: {kind: bowl}\n"


@contextlib.contextmanager
def apart():
    """The registries as a new process finds them; what is registered in the block is forgotten at its end."""
    families = (registry.problem, registry.optimizer, registry.estimator)
    for family in families:
        family.specs()  # the package's own come first, and stay
    loader.names()
    sinks.known()
    known = [*(family._entries for family in families), source.sources, sinks._registered]
    said = [v for k, v in vars(plugins).items() if isinstance(v, dict | list | set) and not k.startswith("__")]
    held = [(whole, copy.copy(whole)) for whole in [*known, *said]]
    for whole in said:
        whole.clear()
    try:
        yield
    finally:
        for whole, before in held:
            whole.clear()
            whole.extend(before) if isinstance(whole, list) else whole.update(before)
        for module in [name for name in sys.modules if name.startswith("l2l_")]:
            del sys.modules[module]


def l2l(folder, *arguments, code=0):
    """Run one command as a new process would: the lines of its output, and of its errors. It must end with that exit code."""
    with apart():
        out, err = command_line.l2l(folder, *arguments, code=code)
    return out.splitlines(), err.splitlines()


def edited(old, new):
    assert old in GOOD
    return GOOD.replace(old, new)


BROKEN = {  # what is wrong -> the file, the line it is to be found in, and what is to be said
    "a syntax error": ("import l2lcli\n\ndef f(:\n", 3, "invalid syntax"),
    "an exception": ("import l2lcli\n\nx = 1 / 0\n", 3, "ZeroDivisionError: division by zero"),
    "one of several lines": ('raise ValueError("one\\ntwo")\n', 1, "ValueError: one two"),
    "a missing module": ("import nowhere_to_be_found\n", 1, "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
    "a file beside it": ("import l2lcli\nimport helper\n", 2, "an imported file must be whole in itself"),
    "nothing registered": ("import l2lcli\n", None, "registers nothing"),
    "an empty file": ("", None, "registers nothing"),
    "a kind of the package's": (GOOD.replace("bowl", "quadratic"), 14, "problem 'quadratic' is registered already"),
    "another kind in the spec": (edited('problem("bowl"', 'problem("bowls"'), 14, 'needs the field `kind: Literal["bowls"]'),
    "no kind in the spec": (edited('    kind: Literal["bowl"] = "bowl"\n', ""), 13, 'needs the field `kind: Literal["bowl"]'),
    "a spec that is no class": (edited('"bowl", BowlSpec', '"bowl", {}'), 14, "a class derived from l2lcli.ProblemSpec"),
    "a spec of another family": (edited("l2lcli.ProblemSpec", "l2lcli.KindSpec"), 14, "derived from l2lcli.ProblemSpec"),
    "a name with a space": (GOOD.replace('"bowl"', '"a bowl"'), 14, "'a bowl' is no name of a problem"),
    "no spec": (edited(", BowlSpec", ""), 14, "TypeError"),
    "the end of the program": ('import sys\nsys.exit("enough")\n', 2, "ends the program (SystemExit: enough)"),
    "bytes that are no text": (b'x = "\xff"\n', 1, "utf-8"),
    "a null byte": (b"x = 1\0\n", None, "null bytes"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_one_line_with_its_place(tmp_path, what):
    content, line, said = BROKEN[what]
    (tmp_path / "bowl.py").write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "helper.py").write_text("x = 1\n")
    (tmp_path / "bowl.yaml").write_text(CONFIG)
    place = "bowl.py" if line is None else f"bowl.py:{line}"
    _, err = l2l(tmp_path, "train", "bowl.yaml", code=2)
    assert len(err) == 1
    assert err[0].startswith(f"bowl.yaml:1:11: imports: {place}: ")
    assert said in err[0]
    _, err = l2l(tmp_path, "list", "problems", "--import", "bowl.py", code=2)
    assert len(err) == 1
    assert err[0].startswith(f"--import: {place}: ") and said in err[0]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("imports", "said"),
    [
        ("./none.py", "none.py: cannot be read: no such file or directory"),
        ("./folder.py", "folder.py: cannot be read: is a directory"),
        ("./bowl.py, ./again.py", "again.py:14: problem 'bowl' is registered already, by l2l_bowl_"),
        ("no_such_package.problems", "no module named 'no_such_package' is installed"),
        ("bowl", "no module named 'bowl' is installed (a file is named with its .py)"),
    ],
)
def test_what_cannot_be_had_is_one_line(tmp_path, imports, said):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "bowl.py").write_text(GOOD)
    (tmp_path / "again.py").write_text(GOOD + "# another file\n")
    (tmp_path / "bowl.yaml").write_text(CONFIG.replace("./bowl.py", imports))
    _, err = l2l(tmp_path, "config", "validate", "bowl.yaml", code=2)
    assert len(err) == 1
    assert f": imports: {said}" in err[0]


@pytest.mark.parametrize("what", ["a kind of the package's", "an exception from afar"])
def test_a_broken_module_is_one_line_with_its_own_place(tmp_path, monkeypatch, what):
    afar = "import json\n\njson.loads('{')\n", 3, "JSONDecodeError: "
    content, line, said = BROKEN.get(what, afar)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_package", raising=False)
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package/problems.py").write_text(content)
    (tmp_path / "bowl.yaml").write_text(CONFIG.replace("./bowl.py", "own_package.problems"))
    _, err = l2l(tmp_path, "config", "validate", "bowl.yaml", code=2)
    assert len(err) == 1
    place = f"{tmp_path / 'own_package/problems.py'}:{line}"
    assert err[0].startswith(f"bowl.yaml:1:11: imports: {place}: ") and said in err[0]


def test_a_files_name_without_py_is_no_modules(tmp_path):
    (tmp_path / "bowl.yaml").write_text(CONFIG.replace("./bowl.py", "./json"))
    _, err = l2l(tmp_path, "list", "problems", "--import", "./json", code=2)
    assert err == ["--import: json: cannot be read: no such file or directory"]
    _, err = l2l(tmp_path, "config", "validate", "bowl.yaml", code=2)
    assert err == ["bowl.yaml:1:11: imports: json: cannot be read: no such file or directory"]


UNBUILT = {  # what the builder does -> what is to be said
    "raise": ('raise RuntimeError("out of\\ncoffee")', "RuntimeError: out of coffee"),
    "return nothing": ("return None", "must return an l2lcli.Problem, and returned NoneType"),
    "return no split train": ("return l2lcli.Problem(init, None, None, {})", "no split 'train'"),
}


@pytest.mark.parametrize("what", UNBUILT)
def test_a_builder_that_builds_nothing_is_one_line_with_its_file(tmp_path, what):
    does, said = UNBUILT[what]
    (tmp_path / "bowl.py").write_text(edited("    return l2lcli.Problem(", f"    {does}\n    return l2lcli.Problem("))
    (tmp_path / "bowl.yaml").write_text(CONFIG)
    _, err = l2l(tmp_path, "train", "bowl.yaml", "--run-dir", "run", "--devices", 1, code=2)
    *before, last = err
    assert before == ["run directory: run"]
    assert "'bowl'" in last and "bowl.py" in last and said in last


def test_a_kind_that_may_be_any_text_is_one_line_with_its_place(tmp_path):
    (tmp_path / "bowl.py").write_text(edited('kind: Literal["bowl"] =', "kind: str ="))
    (tmp_path / "bowl.yaml").write_text(CONFIG)
    _, err = l2l(tmp_path, "config", "validate", "bowl.yaml", code=2)
    assert len(err) == 1
    assert 'bowl.py:14: BowlSpec needs the field `kind: Literal["bowl"]' in err[0]


def test_a_problem_that_cannot_be_trained_is_said_in_words_before_it_is(tmp_path):
    (tmp_path / "bowl.py").write_text(edited("jnp.sum(x * x)", "x * x"))
    (tmp_path / "bowl.yaml").write_text(CONFIG)
    _, err = l2l(tmp_path, "train", "bowl.yaml", "--run-dir", "run", "--devices", 1, code=2)
    assert err[-1] == "problem 'bowl': the loss must be a scalar, and has shape [3]: take the mean"


def test_the_same_file_twice_is_one_registration(tmp_path):
    (tmp_path / "bowl.py").write_text(GOOD)
    (tmp_path / "copy.py").write_text(GOOD)
    (tmp_path / "bowl.yaml").write_text(CONFIG.replace("./bowl.py", "./bowl.py, bowl.py, ./copy.py"))
    assert l2l(tmp_path, "config", "validate", "bowl.yaml") == (["bowl.yaml: ok"], [])


def test_imports_are_relative_to_the_file_that_names_them(tmp_path):
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/bowl.py").write_text(GOOD)
    (tmp_path / "deep/er/bowl.yaml").write_text(CONFIG.replace("./", "../"))
    (tmp_path / "mine.yaml").write_text("extends: deep/er/bowl.yaml\nseed: 7\n")
    out, _ = l2l(tmp_path, "config", "show", "mine.yaml")
    assert "imports: [deep/bowl.py]" in out and "problem: {kind: bowl}" in out


def test_what_is_imported_is_listed_described_and_suggested(tmp_path):
    (tmp_path / "bowl.py").write_text(GOOD)
    (tmp_path / "bowl.yaml").write_text(CONFIG.replace("kind: bowl", "kind: bowll"))
    out, _ = l2l(tmp_path, "list", "problems", "--import", "bowl.py")
    assert ["bowl", "f(x) = |x|²."] in [line.split(None, 1) for line in out]
    out, _ = l2l(tmp_path, "config", "schema", "--import", "bowl.py")
    assert any('"bowl": "#/$defs/BowlSpec"' in line for line in out)
    _, err = l2l(tmp_path, "config", "validate", "bowl.yaml", code=2)
    assert "problem.kind: unknown kind 'bowll'; did you mean 'bowl'?" in err[0]
    out, _ = l2l(tmp_path, "list", "problems")
    assert not [line for line in out if line.startswith("bowl")]
