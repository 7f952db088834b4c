"""A trained optimizer in what others build with JAX and Optax: every row ends where the same steps done by hand do."""

import re

import pytest

from tests.compatibility import any_tree, in_frameworks, under_jax, under_optax
from tests.support import ROOT

NAMES = ["digits-averages", "general"]  # one of each family, with all that such a one may remember
ROWS = [row for part in (under_jax, under_optax, in_frameworks, any_tree) for row in part.ROWS]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.__name__)
def test_it_works_in(row, name, tmp_path):
    row(name, tmp_path) if row is in_frameworks.orbax else row(name)


def test_the_documentation_has_these_rows():
    page = (ROOT / "docs/guides/own-code.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| .* \| `(\w+)` \|$", page, re.M) == [row.__name__ for row in ROWS]
