"""The table "claim – published – here – verdict", from a list of claims and the reference results beside it. Loads no JAX."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from l2lcli.evaluation import statistics
from l2lcli.evaluation.summary import EqualTime, Interval
from l2lcli.reports import curves, numbers, tables
from l2lcli.reports.claim import FEW_SHOT, Claim
from l2lcli.runs.files import RunError, read_json, read_yaml

HEADER = ["claim", "published", "measure", "here: loss / loss = ratio [95 %]", "verdict"]
NOT_MEASURED = "not measured"
ROUNDED = 2e-3  # relative: what the digits that are kept of a loss leave open
MEASURES = {"final": "final loss", "sum": "summed loss", "time": "final loss, equal time"}


def table(path: Path) -> list[list[str]]:
    """Header and a row a claim of the YAML list at `path`, in its order.

    The verdict is "holds" or "does not hold" where the 95 % interval lies on one side of 1, "undecided" where it does not. That
    interval is over networks: "(one run)" follows where nothing is known of how much one meta-training differs from another.
    Where runs of other meta-training seeds lie beside (`<run>/seed-1/`), their ratios follow, `against` another run's of the
    same seed, and a claim holds only if they all lie on its side.

    Raises RunError where the list, or a result that it names, is damaged.
    """
    claims = read_yaml(path, list[Claim])
    return [HEADER, *(_row(path.parent, claim) for claim in claims)]


def markdown(rows: list[list[str]]) -> str:
    """A table in Markdown."""
    head, *body = (f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


class LossRatio(NamedTuple):
    """A ratio: of which losses, its 95 % interval, and whose the second loss is. None where a seed diverged, or that is 0."""

    ratio: float | None
    interval: Interval | None
    ours: float | None
    theirs: float | None
    rival: str

    def __str__(self) -> str:
        """`.25 / .33 (nag) = .76 [.70, .83]`."""
        shown = f"{tables.number(self.ours, 3)} / {tables.number(self.theirs, 3)} ({self.rival})"
        if self.ratio is None:
            return shown
        ends = f" [{', '.join(_apart(end, 1) for end in self.interval)}]" if self.interval else ""
        return f"{shown} = {_apart(self.ratio, 1)}{ends}"

    def point(self) -> float:
        """The ratio; infinite where the first loss diverged or the second is 0, and 0 where only the second diverged."""
        if self.ratio is not None:
            return self.ratio
        return np.inf if self.ours is None or self.theirs == 0 else 0.0

    def ends(self) -> tuple[float, ...]:
        """Where the ratio may lie."""
        return self.interval or (self.point(),)


def _row(root: Path, claim: Claim) -> list[str]:
    if claim.wins is not None:
        return _wins(root, claim, claim.wins)
    if claim.number is not None:
        return _number(root, claim, claim.number)
    if claim.metric in FEW_SHOT:
        return _few_shot(root, claim)
    first = [claim.claim, claim.published, MEASURES[claim.metric]]
    found = _found(root / claim.run, _of_seed(root, claim, root / claim.run), claim)
    if found is None:
        return [*first, "-", NOT_MEASURED]
    others = [other.point() for other in _other_seeds(root, claim)]
    shown, sides = str(found), [*found.ends(), *others]
    if others:
        shown += f"; other meta-training seeds {', '.join(_apart(other, 1) for other in others)}"
    held = [side < 1 for side in sides] if claim.expect == "below 1" else [side > 1 for side in sides]
    return [*first, shown, _verdict(held, bool(others))]


def _wins(root: Path, claim: Claim, least: int) -> list[str]:
    timed = claim.metric == "time"
    first = [claim.claim, claim.published, "problems won" + ", equal time" * timed]
    scores = [score for folder in (root / claim.run, *_seeds(root / claim.run)) if (score := read_json(folder / "score.json"))]
    try:
        found = [(score.get("equal_time") if timed else score, len(score["tasks"])) for score in scores]
        counted = [(int(of["wins"]), int(of["undecided"]), tasks) for of, tasks in found if of]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise RunError(f"{root / claim.run}: score.json is damaged") from None
    if not counted:
        return [*first, "-", NOT_MEASURED]
    counts = [wins for wins, *_ in counted]
    shown = f"{counts[0]} of {counted[0][2]}, {counted[0][1]} undecided"
    if len(counts) > 1:
        shown += f"; other meta-training seeds {', '.join(map(str, counts[1:]))}"
    return [*first, shown, _verdict([count >= least for count in counts], len(counts) > 1)]


def _number(root: Path, claim: Claim, name: str) -> list[str]:
    found = [
        value for folder in (root / claim.run, *_seeds(root / claim.run)) if (value := numbers.find(folder, name)) is not None
    ]
    first = [claim.claim, claim.published, name]
    if not found:
        return [*first, "-", NOT_MEASURED]
    shown, *others = (_apart(value, claim.above, claim.below) for value in found)
    if others:
        shown += f"; other meta-training seeds {', '.join(others)}"
    low, high = -np.inf if claim.above is None else claim.above, np.inf if claim.below is None else claim.below
    held = [low <= value <= high for value in found]
    return [*first, shown, _verdict(held, len(found) > 1)]


def _few_shot(root: Path, claim: Claim) -> list[str]:
    first = [claim.claim, claim.published, claim.metric]
    found = []
    for folder in (root / claim.run, *_seeds(root / claim.run)):
        beside = _of_seed(root, claim, folder) or folder
        if (pair := numbers.few_shot((folder, claim.optimizer), (beside, claim.rival), claim.metric)) is not None:
            found.append(pair)
    if not found:
        return [*first, "-", NOT_MEASURED]
    shown = [" / ".join(tables.estimate(mean, half, claim.metric) for mean, half in pair) for pair in found]
    text = f"{shown[0]} ({claim.against or claim.rival})" + "; other meta-training seeds " * (len(shown) > 1)
    held = []
    for (ours, ci), (theirs, of) in found:
        apart = ours - theirs if claim.expect == "above 1" else theirs - ours
        held += [apart > np.hypot(ci, of), apart > -np.hypot(ci, of)]  # as if the episodes were not the same: more cautious
    return [*first, text + ", ".join(shown[1:]), _verdict(held, len(found) > 1)]


def _apart(value: float | None, *bounds: float | None) -> str:
    """Three significant digits, or as many more as tell it from these bounds: .9997 is no 1.00 where 1 is the question."""
    others = {bound for bound in bounds if bound is not None and bound != value}
    told = lambda digits: all(tables.number(value, digits) != tables.number(bound, digits) for bound in others)
    return tables.number(value, next((digits for digits in range(3, 7) if told(digits)), 7))


def _verdict(held: list[bool], seeds: bool) -> str:
    verdict = "**holds**" if all(held) else "undecided" if any(held) else "**does not hold**"
    return verdict if seeds else f"{verdict} (one run)"


def _seeds(folder: Path) -> list[Path]:
    """The results of other meta-training seeds."""
    return [*sorted(folder.glob("seed-*")), *sorted(folder.parent.glob(f"{folder.name}-seed-*"))]


def _of_seed(root: Path, claim: Claim, folder: Path) -> Path | None:
    """The result of `against` with the meta-training seed of this one of `run`; None without `against`."""
    if claim.against is None:
        return None
    other, seed = root / claim.against, folder.name.rpartition("seed-")[2] if folder != root / claim.run else None
    places = [other] if seed is None else [other / f"seed-{seed}", other.parent / f"{other.name}-seed-{seed}"]
    return next((place for place in places if place.is_dir()), places[0])


def _other_seeds(root: Path, claim: Claim) -> Iterator[LossRatio]:
    for folder in _seeds(root / claim.run):
        if found := _found(folder, _of_seed(root, claim, folder), claim):
            yield found


def _found(folder: Path, against: Path | None, claim: Claim) -> LossRatio | None:
    """None where there is no result, here or in `against`."""
    if claim.task is not None:
        try:
            return _of_task(read_json(folder / "score.json"), claim.task, claim.metric == "time")
        except (KeyError, TypeError, ValueError, AttributeError):
            raise RunError(f"{folder}: score.json is damaged, or has no problem {claim.task!r}") from None
    if (summary := tables.read_summary(folder)) is None:
        return None
    part = summary if claim.variant is None else (summary.variants or {}).get(claim.variant)
    if part is None or part.learned is None:
        return None
    if claim.metric == "time":
        return part.equal_time and _equal_time(part.equal_time, part.mean(part.learned, "final"))
    assert claim.metric == "final" or claim.metric == "sum"
    best, metric = str(part.best(claim.metric)), claim.metric
    if claim.against is None and claim.optimizer is None and claim.rival is None:
        return LossRatio(*part.ratio(metric), part.mean(part.learned, metric), part.mean(best, metric), best)
    own, name, best = curves.of(folder, claim.variant or part.problem), claim.optimizer or part.learned, claim.rival or best
    ours, theirs = own.get(name), own.get(best)
    if metric == "sum":
        ours, theirs = own.get(f"{name}@sum", ours), own.get(f"{best}@sum", theirs)
    levels = [part.mean(name, "final"), part.mean(best, "final")]
    if against is not None:
        other = tables.read_summary(against)
        if other is None:
            return None
        theirs = curves.of(against, other.problem).get(other.learned or "")
        levels[1] = other.mean(str(other.learned), "final")
    rival = claim.against or best
    if ours is None or theirs is None or ours.shape != theirs.shape or not np.array_equal(ours[:, 0], theirs[:, 0]):
        raise RunError(f"{claim.claim}: {folder.name} and {rival} have no curves on the same seeds and steps")
    measure = statistics.total
    if metric == "final":
        # Whether losses are those of minibatches, only what was said of them tells.
        means = {noisy: statistics.final(ours, noisy).mean() for noisy in (False, True)}
        minibatch = levels[0] is not None and abs(means[True] - levels[0]) < abs(means[False] - levels[0])
        measure = lambda losses: statistics.final(losses, minibatch)
    samples = measure(ours), measure(theirs)
    if metric == "final":
        _same_ends(folder, samples[0].mean(), levels[0])
        _same_ends(against or folder, samples[1].mean(), levels[1])
    ratio, interval = statistics.ratio_interval(*samples)
    return LossRatio(ratio, interval, float(samples[0].mean()), float(samples[1].mean()), rival)


def _same_ends(folder: Path, ours: float, said: float | None) -> None:
    """Raises RunError where curves end elsewhere than the report says: a verdict on other losses would go unnoticed."""
    if said is not None and not np.isclose(ours, said, rtol=ROUNDED):
        raise RunError(f"{folder}: its curves end at {ours:.3g} and its summary.json says {said:.3g}: keep it again")


def _of_task(score: dict[str, Any] | None, task: str, timed: bool) -> LossRatio | None:
    """Raises KeyError, TypeError, ValueError or AttributeError at what is no score."""
    entry = None if score is None else score["tasks"][task]
    if entry is None or entry["verdict"] == "missing":
        return None
    finals = entry["finals"]
    if timed:
        if (found := entry.get("equal_time")) is None:
            return None
        fields = {key: found[key] for key in EqualTime.model_fields if key in found}  # it has a verdict besides
        return _equal_time(EqualTime.model_validate(fields, strict=False), finals["learned"])
    rival = entry["baseline"]
    return LossRatio(entry["ratio_final"], entry["ratio_final_ci"], finals["learned"], finals[rival], rival)


def _equal_time(timed: EqualTime, ours: float | None) -> LossRatio | None:
    """By the best baseline in as much time; None where all diverged."""
    if timed.best is None:
        return None
    rival = f"{timed.best}, {timed.steps[timed.best]:,} steps"
    return LossRatio(timed.ratio, timed.ratio_ci, ours, timed.final[timed.best], rival)
