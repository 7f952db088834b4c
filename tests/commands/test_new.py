"""`l2l new`: what it writes works as it is, and nothing is written over."""

import os
import subprocess
import sys

import pytest

from tests.test_plugins import l2l

FAMILIES = {"problem": "my_valley", "optimizer": "my_rule"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder in which both commands were typed, and their output."""
    folder, said = tmp_path_factory.mktemp("new"), {}
    for family, name in FAMILIES.items():
        said[family], err = l2l(folder, "new", family, name)
        assert err == []
    return folder, said


@pytest.mark.parametrize("family", FAMILIES)
def test_the_files_are_written_and_named_and_no_word_is_left_to_fill_in(written, family):
    (folder, said), name = written, FAMILIES[family]
    files = [f"{name}.py", f"test_{name}.py", f"{name}.yaml"]
    assert said[family][:3] == files
    assert said[family][-1] == f"try it: l2l train {name}.yaml, and pytest test_{name}.py"
    assert {path.name for path in folder.iterdir() if name in path.name} == set(files)
    for file in files:
        text = (folder / file).read_text()
        assert name in text and "%" not in text and max(map(len, text.splitlines())) <= 128


@pytest.mark.parametrize("family", FAMILIES)
def test_the_config_validates_and_the_kind_is_listed_with_its_description(written, family):
    (folder, _), name = written, FAMILIES[family]
    assert l2l(folder, "config", "validate", f"{name}.yaml") == ([f"{name}.yaml: ok"], [])
    out, _ = l2l(folder, "list", f"{family}s", "--import", f"{name}.py")
    listed = dict(line.split(None, 1) for line in out)
    assert listed[name].endswith(".")
    out, _ = l2l(folder, "train", f"{name}.yaml", "--dry-run")
    assert out[-3].startswith("# 40 episodes of 100 steps on 4 tasks")


def test_the_tests_that_are_written_pass(written):
    folder, _ = written
    files = [f"test_{name}.py" for name in FAMILIES.values()]
    arguments = ["-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:xdist", *files]
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=folder, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("4 passed")


def test_they_are_as_tidy_as_the_package(written):
    rules = ["--isolated", "--line-length=128", "--select=E,F,W,I,B,UP,C4,SIM,PT"]
    done = subprocess.run([sys.executable, "-m", "ruff", "check", *rules, written[0]], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_rest_of_the_program_knows_nothing_of_them(written):
    for family, name in FAMILIES.items():
        assert not [line for line in l2l(written[0], "list", f"{family}s")[0] if line.startswith(name)]


@pytest.mark.parametrize("there", ["valley.py", "test_valley.py", "valley.yaml"])
def test_nothing_is_written_over(tmp_path, there):
    (tmp_path / there).write_text("mine")
    out, err = l2l(tmp_path, "new", "problem", "valley", code=1)
    assert (out, err) == ([], [f"l2l: {there} is there already: nothing was written"])
    assert [path.name for path in tmp_path.iterdir()] == [there] and (tmp_path / there).read_text() == "mine"


def test_a_folder_is_made(tmp_path):
    out, _ = l2l(tmp_path, "new", "optimizer", "rule", "--dir", "a/b")
    assert out[0] == "a/b/rule.py"
    assert sorted(path.name for path in (tmp_path / "a/b").iterdir()) == ["rule.py", "rule.yaml", "test_rule.py"]


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    _, err = l2l(tmp_path, "new", "problem", "valley", "--dir", "file/deep", code=1)
    assert len(err) == 1 and "Not a directory" in err[0]


@pytest.mark.parametrize("name", ["Valley", "my valley", "1st", "a-b", "../up", "", "é", "a" * 61])
def test_a_name_that_is_none_is_one_line(tmp_path, name):
    _, err = l2l(tmp_path, "new", "problem", name, code=2)
    assert not list(tmp_path.iterdir())
    assert err[-1] == f"Error: Invalid value: {name!r} is no name: small letters, digits and underscores, a letter first"


@pytest.mark.parametrize(("family", "name"), [("problem", "quadratic"), ("optimizer", "lstm")])
def test_a_name_that_is_taken_is_one_line(tmp_path, family, name):
    _, err = l2l(tmp_path, "new", family, name, code=2)
    assert not list(tmp_path.iterdir())
    assert err[-1].startswith("Error: ") and f"called {name!r} already (l2l list {family}s)" in err[-1]


@pytest.mark.parametrize("name", ["lambda", "jax"])
def test_a_word_of_pythons_and_a_module_that_would_be_hidden_are_no_names(tmp_path, name):
    l2l(tmp_path, "new", "problem", name, code=2)


def test_another_family_is_refused(tmp_path):
    _, err = l2l(tmp_path, "new", "estimator", "mine", code=2)
    assert "'estimator' is not one of 'problem', 'optimizer'" in err[-1]
