"""The table of experiments names every config, and no other."""

import re
from fnmatch import fnmatch

from tests.support import ROOT


def test_every_config_is_in_the_table_of_experiments():
    page = (ROOT / "docs/guides/experiments.md").read_text()
    named = {name for row in re.findall(r"^\| (`.*?) \|", page, re.M) for name in re.findall(r"`([^`]+)`", row)} | {"tiny"}
    there = {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    assert not [name for name in there if not any(fnmatch(name, pattern) for pattern in named)]
    assert not [pattern for pattern in named if not any(fnmatch(name, pattern) for name in there)]
