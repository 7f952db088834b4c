"""The table "claim – published – here – verdict", from a list of claims and the reference results beside it. Loads no JAX."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import TypeAdapter, ValidationError

from l2lcli import curves, statistics, tables
from l2lcli.base import Spec
from l2lcli.tables import ReportError

HEADER = ["claim", "published", "measure", "here [95 %]", "verdict"]
NOT_MEASURED = "not measured"


class Claim(Spec):
    """One line of the table: a ratio of losses, and on which side of 1 it was published to lie."""

    claim: str
    """What is claimed, in a few words."""
    published: str
    """Published numbers, with their source."""
    run: str
    """Folder of the result, beside the list's file."""
    on: str | None = None
    """A variant of that run; null for the problem itself."""
    optimizer: str | None = None
    """Whose loss is divided; null for the learned one."""
    against: str | None = None
    """Another run on the same seeds, by whose learned optimizer's loss it is divided; null for the best tuned baseline's."""
    metric: Literal["final", "sum"] = "final"
    """The loss at the end, or summed over the steps; the latter alone between two runs, or for another optimizer."""
    expect: Literal["below 1", "above 1"] = "below 1"
    """The claim, as a side of 1."""


def table(path: Path) -> list[list[str]]:
    """Header and a row a claim of the YAML list at `path`, in its order.

    The verdict is "holds" or "does not hold" where the 95 % interval lies on one side of 1, "undecided" where it does not.
    Where runs of other meta-training seeds lie beside (`<run>/seed-1/`), their ratios follow, and a claim holds only if they
    all lie on its side.

    Raises ReportError where the list, or a result that it names, is damaged.
    """
    text = tables.read_text(path)
    if text is None:
        raise ReportError(f"{path}: no such file")
    try:
        claims = TypeAdapter(list[Claim]).validate_python(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ReportError(f"{path}: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ReportError(f"{path}: {'.'.join(map(str, first['loc'])) or 'the list'}: {first['msg']}") from None
    return [HEADER, *(_row(path.parent, claim) for claim in claims)]


def markdown(rows: list[list[str]]) -> str:
    """A table for README.md."""
    head, *body = (f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def _row(root: Path, claim: Claim) -> list[str]:
    what = {"final": "final loss", "sum": "summed loss"}[claim.metric]
    over = f"learned / {claim.against}" if claim.against else "learned / best baseline"
    first = [claim.claim, claim.published, f"{what}, {claim.optimizer or ''} {over}".replace(",  ", ", ")]
    found = _ratio(root / claim.run, root, claim)
    if found is None:
        return [*first, "-", NOT_MEASURED]
    value, interval, best = found
    others = [other[0] for other in _other_seeds(root, claim)]
    if value is None:
        shown = f"diverged{best}"
        sides = [np.inf]
    else:
        low, high = interval or (value, value)
        shown = f"{tables.number(value, 3)} [{tables.number(low, 3)}, {tables.number(high, 3)}]{best}"
        sides = [low, high]
    if others:
        shown += f"; other meta-training seeds {', '.join('diverged' if o is None else tables.number(o, 3) for o in others)}"
        sides += [np.inf if other is None else other for other in others]
    held = [side < 1 for side in sides] if claim.expect == "below 1" else [side > 1 for side in sides]
    return [*first, shown, "**holds**" if all(held) else "undecided" if any(held) else "**does not hold**"]


def _other_seeds(root: Path, claim: Claim) -> Iterator[tuple[float | None, Any, str]]:
    if claim.against is None:
        for folder in sorted((root / claim.run).glob("seed-*")):
            if found := _ratio(folder, root, claim):
                yield found


def _ratio(folder: Path, root: Path, claim: Claim) -> tuple[float | None, list[float] | None, str] | None:
    """(ratio, its interval, the baseline's name in brackets); a ratio of None: diverged; None where there is no result."""
    if (summary := tables.read_summary(folder)) is None:
        return None
    part = summary if claim.on is None else summary["variants"].get(claim.on)
    if part is None or not part.get("learned"):
        return None
    best = (part.get("best_baseline") or {}).get(claim.metric)
    if claim.against is None and claim.optimizer is None:
        return part.get(f"ratio_{claim.metric}"), part.get(f"ratio_{claim.metric}_ci"), f" ({best})"
    if claim.metric != "sum":
        raise ReportError(f"{claim.claim}: the final loss is compared with the best baseline's alone")
    own = curves.of(folder, claim.on or part["problem"])
    ours = own.get(claim.optimizer or part["learned"])
    if claim.against is None:
        name, theirs = f" ({best})", own
        reference = theirs.get(f"{best}@sum", theirs.get(str(best)))
    else:
        other = tables.read_summary(root / claim.against)
        if other is None:
            return None
        name, reference = "", curves.of(root / claim.against, other["problem"]).get(other["learned"])
    if ours is None or reference is None or ours.shape != reference.shape:
        raise ReportError(
            f"{claim.claim}: {folder.name} and {claim.against or best} have no curves on the same seeds and steps"
        )
    return *statistics.ratio_interval(statistics.total(ours), statistics.total(reference)), name
