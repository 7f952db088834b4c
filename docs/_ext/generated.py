"""The parts of the site that are made from the program: tables of results and claims, and the reference of the config.

A page says where: `<!-- claims -->`, `<!-- result: digits -->`, `<!-- config -->`, `<!-- list: problems -->`, each on a line of
its own. That line is replaced before the page is read, so nothing generated lies among the sources.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from config_reference import page_of

from l2lcli import config, registry
from l2lcli.data import loader
from l2lcli.reports import claims, tables, text
from l2lcli.sinks import source as sinks

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "runs" / "reference"
MARK = re.compile(r"^<!-- (\w+)(?:: ([\w-]+))? -->$", re.M)


def _claims(_: str) -> str:
    """The table of claims."""
    return claims.markdown(claims.table(REFERENCE / "claims.yaml"))


def _result(name: str) -> str:
    """The table that the command printed at the end of a run."""
    summary = tables.read_summary(REFERENCE / name)
    if summary is None:
        raise ValueError(f"no result {name} in {REFERENCE}")
    return f"```text\n{text.result_table(summary)}\n```"


def _config(_: str) -> str:
    """Every key of an experiment file."""
    return page_of(config.schema())


def _list(family: str) -> str:
    """What `l2l list` prints, as a table."""
    if family == "datasets":
        entries: Iterator[tuple[str, str]] = iter(loader.describe())
    elif family == "sinks":
        entries = iter(sinks.describe())
    else:
        specs = getattr(registry, family.removesuffix("s")).specs()
        entries = ((name, ((spec.__doc__ or "").strip().splitlines() or [""])[0]) for name, spec in specs.items())
    rows = [f"| `{name}` | {line.replace('|', '/')} |" for name, line in entries]
    return "\n".join([f"| {family} | |", "|---|---|", *rows])


MADE: dict[str, Callable[[str], str]] = {"claims": _claims, "result": _result, "config": _config, "list": _list}


def replace(app: Any, page: str, source: list[str]) -> None:
    """Put what is generated into a page that Sphinx is about to read."""

    def made(mark: re.Match[str]) -> str:
        if mark[1] not in MADE:
            raise ValueError(f"{page}: nothing generates {mark[0]}")
        return MADE[mark[1]](mark[2] or "")

    source[0] = MARK.sub(made, source[0])


def changed(app: Any, env: Any, added: set[str], altered: set[str], removed: set[str]) -> list[str]:
    """The pages with generated parts, which are made anew each time."""
    return [page for page in env.found_docs if MARK.search(Path(env.doc2path(page)).read_text(encoding="utf-8"))]


def docstring(app: Any, what: str, name: str, of: Any, options: Any, lines: list[str]) -> None:
    """Say in reStructuredText what our docstrings leave to the reader: an indented example is code, and `T.` is no list."""
    said: list[str] = []
    for i, line in enumerate(lines):
        before = next((other for other in reversed(lines[:i]) if other.strip()), "")
        if line.startswith("    ") and i and not lines[i - 1].strip() and not before.startswith(" ") and before[-1:] != ":":
            said += ["::", ""]
        said.append(re.sub(r"^(\s+\w+: )([A-Z])\.$", r"\1`\2`.", line))
    lines[:] = said


def setup(app: Any) -> dict[str, Any]:
    """Register them."""
    app.connect("source-read", replace)
    app.connect("env-get-outdated", changed)
    app.connect("autodoc-process-docstring", docstring, priority=100)  # before napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
