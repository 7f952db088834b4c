"""A summary as text for the terminal, whatever kind of problem it is of."""

from __future__ import annotations

from l2lcli.evaluation.summary import Summary
from l2lcli.reports import few_shot, tables


def result_table(summary: Summary) -> str:
    """The table of a run or an evaluation, and what it comes to in words."""
    return few_shot.table(summary) if summary.few_shot else tables.table(summary)
