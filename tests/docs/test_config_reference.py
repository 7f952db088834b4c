"""The page of the config reference says every key that an experiment file can have."""

import importlib.util
import re
from pathlib import Path

import pytest

from l2lcli import config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("config_reference", ROOT / "docs/_ext/config_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page_of(config.schema())


def test_no_mapping_is_without_its_section(page):
    keyed = {
        name: {*whole["properties"]} - {"kind"} for name, whole in config.schema()["$defs"].items() if "properties" in whole
    }
    sections = [{*re.findall(r"^\*\*`(\w+)`\*\*", part, re.MULTILINE)} for part in re.split(r"^#", page, flags=re.MULTILINE)]
    assert len(keyed) > 40 and not [name for name, keys in keyed.items() if keys not in sections]


def test_only_variants_are_of_any_kind(page):
    assert re.findall(r"^\*\*`(\w+)`\*\* .*\bvalues?\b(?!`)", page, re.MULTILINE) == ["variants"]
