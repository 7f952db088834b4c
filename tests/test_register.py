"""`l2lcli.register` and `l2lcli.import_file`: what may be registered, under which names, and what an edited file does."""

import subprocess
from typing import Literal

import jax
import numpy as np
import pytest

import l2lcli
from l2lcli import config, plugins, registry
from l2lcli.data import loader
from l2lcli.plugins import PluginError, RegistrationError
from tests.command_line import command
from tests.test_plugins import GOOD, apart


@pytest.fixture(autouse=True)
def alone():
    with apart():
        yield


def spec_of(name, base=l2lcli.ProblemSpec):
    class OwnSpec(base):
        """What it is."""

        kind: Literal[name] = name
        size: int = 3

    return OwnSpec


def built(spec, *rest):
    """A builder's stand-in."""
    return spec, rest


FAMILIES = {
    "problem": (l2lcli.register.problem, l2lcli.ProblemSpec, registry.problem),
    "optimizer": (l2lcli.register.optimizer, l2lcli.KindSpec, registry.optimizer),
    "estimator": (l2lcli.register.estimator, l2lcli.EstimatorSpec, registry.estimator),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_registered_is_built_from_its_spec_and_listed(family):
    register, base, entries = FAMILIES[family]
    spec = spec_of("mine", base)
    assert register("mine", spec)(built) is built
    assert entries.specs()["mine"] is spec and entries.builder("mine") is built
    assert entries.build(spec(size=5), "more") == (spec(size=5), ("more",))
    assert plugins.registered == [f"{family} 'mine'"]


@pytest.mark.parametrize(("section", "family"), [("problem", "problem"), ("optimizer", "optimizer"), ("train", "estimator")])
def test_a_config_takes_its_kind_and_checks_its_keys(section, family):
    register, base, _ = FAMILIES[family]
    register("mine", spec_of("mine", base))(built)
    given = lambda keys: {section: {"estimator": keys} if section == "train" else keys}
    asked = config.load(given({"kind": "mine", "size": 7}))
    assert (asked.train.estimator if section == "train" else getattr(asked, section)).size == 7
    with pytest.raises(config.ConfigError, match=r"unknown key; did you mean 'size'\?"):
        config.load(given({"kind": "mine", "sise": 7}))


def test_an_optimizer_of_ones_own_can_be_a_member_of_groups():
    l2lcli.register.optimizer("mine", spec_of("mine", l2lcli.KindSpec))(built)
    groups = {"all": {"match": ["*"], "optimizer": {"kind": "mine", "size": 2}}}
    optimizer = config.load({"optimizer": {"kind": "groups", "groups": groups}}).optimizer
    assert optimizer.groups["all"].optimizer.size == 2


@pytest.mark.parametrize("name", ["Mine", "my own", "1st", "", "a-b", "a" * 61, None, 3])
def test_a_name_is_small_letters_digits_and_underscores(name):
    with pytest.raises(RegistrationError, match="is no name of a problem: it must be small letters, digits and underscores"):
        l2lcli.register.problem(name, spec_of("mine"))


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"kind": "mine"}, r"must be a class derived from l2lcli\.ProblemSpec"),
        (spec_of("mine")(), r"must be a class derived from l2lcli\.ProblemSpec"),
        (l2lcli.Spec, r"must be a class derived from l2lcli\.ProblemSpec"),
        (spec_of("mine", l2lcli.KindSpec), r"must be a class derived from l2lcli\.ProblemSpec"),
        (l2lcli.ProblemSpec, r'ProblemSpec needs the field `kind: Literal\["mine"\] = "mine"`'),
        (spec_of("other"), r'OwnSpec needs the field `kind: Literal\["mine"\] = "mine"`'),
    ],
)
def test_a_spec_is_one_of_the_family_and_of_that_kind(spec, said):
    with pytest.raises(RegistrationError, match=said):
        l2lcli.register.problem("mine", spec)(built)
    assert "mine" not in registry.problem.specs()


def test_a_builder_is_a_function():
    with pytest.raises(RegistrationError, match="what is decorated must be a function that builds it"):
        l2lcli.register.problem("mine", spec_of("mine"))("no function")


def test_a_name_of_the_package_or_of_another_module_stays_whose_it_is():
    with pytest.raises(RegistrationError, match=r"'quadratic' is registered already, by l2lcli\.problems\.quadratic"):
        l2lcli.register.problem("quadratic", spec_of("quadratic"))(built)
    l2lcli.register.problem("mine", spec_of("mine"))(built)

    def elsewhere(spec):
        return spec

    elsewhere.__module__ = "another_module"
    with pytest.raises(RegistrationError, match=rf"'mine' is registered already, by {__name__} \({__file__}:\d+\)"):
        l2lcli.register.problem("mine", spec_of("mine"))(elsewhere)
    again = spec_of("mine")
    l2lcli.register.problem("mine", again)(built)  # a notebook's cell is run twice
    assert registry.problem.specs()["mine"] is again


def scale(path):
    """Import a file; by how much the loss of its problem is multiplied."""
    l2lcli.import_file(path)
    problem = registry.problem.builder("bowl")(None)
    return float(problem.loss(np.ones(1, np.float32), None))


def test_an_edited_file_takes_the_place_of_what_it_was(tmp_path):
    file = tmp_path / "bowl.py"
    file.write_text(GOOD)
    assert scale(file) == 1
    assert scale(file) == 1
    file.write_text(GOOD.replace("jnp.sum(x * x)", "3 * jnp.sum(x * x)"))
    assert scale(file) == 3
    file.write_text(GOOD.replace("jnp.sum(x * x)", "5 * jnp.sum(x * x)"))
    assert scale(file) == 5


def test_an_edit_that_is_taken_back_is(tmp_path):
    file = tmp_path / "bowl.py"
    for times in (1, 3, 1):
        file.write_text(GOOD.replace("jnp.sum(x * x)", f"{times} * jnp.sum(x * x)"))
        assert scale(file) == times


def test_a_copy_of_what_a_file_was_is_what_it_was(tmp_path):
    """A run's own copy, in a notebook in which the file was edited since: `l2lcli.train(resume=…)` imports the copy."""
    file, copy = tmp_path / "bowl.py", tmp_path / "copy.py"
    file.write_text(GOOD)
    copy.write_text(GOOD)
    assert scale(file) == 1
    file.write_text(GOOD.replace("jnp.sum(x * x)", "3 * jnp.sum(x * x)"))
    assert scale(file) == 3
    assert scale(copy) == 1


def test_a_file_that_fails_can_be_mended_and_imported_again(tmp_path):
    file = tmp_path / "bowl.py"
    file.write_text(GOOD + "\nx = 1 / 0\n")
    with pytest.raises(PluginError, match=r"bowl\.py:24: ZeroDivisionError: division by zero"):
        l2lcli.import_file(file)
    file.write_text(GOOD)
    assert scale(file) == 1
    wrong, odd = l2lcli.check_problem(registry.problem.builder("bowl")(None), jax.random.key(0))
    assert not wrong and not odd


def test_a_failed_edit_that_is_taken_back_is(tmp_path):
    """What the broken file had registered before it broke is not kept."""
    file = tmp_path / "bowl.py"
    file.write_text(GOOD)
    assert scale(file) == 1
    file.write_text(GOOD.replace("jnp.sum(x * x)", "3 * jnp.sum(x * x)") + "\nx = 1 / 0\n")
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        l2lcli.import_file(file)
    file.write_text(GOOD)
    assert scale(file) == 1


DOTS = {"train": {"image": np.zeros((4, 2, 2), np.uint8), "label": np.arange(4, dtype=np.uint8) % 2}}
DOTS["test"] = DOTS["train"]


def test_a_data_set_is_loaded_listed_and_allowed_in_a_config(home):
    l2lcli.register.dataset("dots", "Two classes.", classes=2, scale=255.0)(lambda files: DOTS)
    assert ("dots", "Two classes.") in loader.describe()
    found = loader.load("dots")
    assert (found.classes, found.scale, found.label) == (2, 255.0, "dots")
    np.testing.assert_array_equal(found.splits["train"]["label"], [0, 1, 0, 1])
    asked = config.load({"problem": {"kind": "classification", "dataset": "dots"}})
    assert asked.problem.dataset == "dots"
    with pytest.raises(config.ConfigError, match="unknown data set 'dot'; did you mean 'dots'"):
        config.load({"problem": {"kind": "classification", "dataset": "dot"}})


def test_a_data_set_of_the_package_stays_whose_it_is():
    with pytest.raises(RegistrationError, match=r"data set 'mnist' is registered already, by l2lcli\.data\."):
        l2lcli.register.dataset("mnist", "mine", classes=2, scale=1.0)(lambda files: DOTS)


def test_it_does_so_where_nobody_has_asked_for_the_packages_own_yet(tmp_path):
    text = 'import l2lcli\n\n\n@l2lcli.register.dataset("mnist", "", classes=2, scale=1.0)\ndef mine(files):\n    return {}\n'
    (tmp_path / "mine.py").write_text(text)
    words = command("list", "datasets", "--import", "mine.py")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("--import: mine.py:4: data set 'mnist' is registered already, by ")


@pytest.mark.parametrize("name", ["../up", "my dots", ""])
def test_a_data_sets_name_is_one(name):
    with pytest.raises(RegistrationError):
        l2lcli.register.dataset(name, "mine", classes=2, scale=1.0)(lambda files: DOTS)
