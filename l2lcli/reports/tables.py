"""What a run directory's files say: read, checked, and as a table and words for the terminal. JAX is never imported."""

from __future__ import annotations

import json
import lzma
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from l2lcli.evaluation.summary import METRICS, Interval, Metric, Part, Summary, Value
from l2lcli.runs.files import RunError, faults, one_line, read_json
from l2lcli.runs.metrics import whole_lines

WIDTH = 110  # columns of the terminal's table


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`, or of `metrics.jsonl.xz`, that have a step; none where there is neither.

    Damaged lines are passed over.
    """
    packed, rows = path.with_name(f"{path.name}.xz"), []
    try:
        with faults(packed):
            lines = lzma.decompress(packed.read_bytes()).split(b"\n") if packed.is_file() else whole_lines(path)
    except lzma.LZMAError as error:
        raise RunError(f"{packed}: damaged: {one_line(error)}") from error
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)]


def read_summary(folder: Path) -> Summary | None:
    """`summary.json`, None where the folder has none. Raises RunError, in one line, where it is damaged."""
    path = folder / "summary.json"
    if (value := read_json(path)) is None:
        return None
    try:
        return Summary.of(value)
    except (ValidationError, ValueError, RecursionError) as error:
        if not isinstance(error, ValidationError):
            raise RunError(f"{path}: damaged: {one_line(error)}") from None
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(f"{path}: damaged: {where + ': ' if where else ''}{first['msg']}") from None


def number(x: float | None, digits: int = 4) -> str:
    """A number with so many significant digits, as short as it goes; "lost" where a diverged seed left none."""
    if x is None or not np.isfinite(x):
        return "lost"
    text = f"{x:#.{digits}g}".rstrip(".")
    plain = f"{x:.0f}" if "e" in text and 1 <= abs(x) < 1e6 else text  # 149, not 1.5e2
    return re.sub(r"e([+-])0?", lambda m: "e" + m[1].strip("+"), plain)


def shown(found: Value, digits: int = 4, brackets: bool = True) -> str:
    """`x [lo, hi]`, the brackets left out where there is no interval."""
    if found.value is None or found.interval is None or not brackets:
        return number(found.value, digits)
    low, high = found.interval
    return f"{number(found.value, digits)} [{number(low, digits)}, {number(high, digits)}]"


def estimate(mean: float, half: float, metric: str) -> str:
    """A few-shot metric ± half its interval, an accuracy in percent; "lost" where an episode left none."""
    if not np.isfinite(mean):
        return "lost"
    return f"{100 * mean:.1f} ± {100 * half:.1f} %" if metric == "accuracy" else f"{mean:.3g} ± {half:.2g}"


def optimizer_rows(part: Part, digits: int = 4, brackets: str = "final sum accuracy") -> list[list[str]]:
    """Header and one row an optimizer, best sum first; empty columns are left out. Brackets: the columns with intervals."""
    head = ["optimizer", "rate final / sum", "final loss", "summed loss", "to best", "accuracy", "ms/step", "equal time"]
    rows = [[*head, "diverged"]]
    for name, entry in sorted(part.optimizers.items(), key=lambda item: np.inf if item[1].sum is None else item[1].sum):
        rates = [entry.rate(metric) for metric in METRICS]
        rate = " / ".join(dict.fromkeys(f"{r:.3g}".replace("e-0", "e-") for r in rates if r is not None))
        reached, pace, tested = entry.steps_to_best_baseline, entry.seconds_per_step, entry.tested("accuracy")
        to_best = str(reached) if reached is not None else "never" if name == part.learned else ""
        losses = [shown(entry.of(metric), digits, metric in brackets) for metric in METRICS]
        accuracy = "" if tested is None else shown(tested, 3, "accuracy" in brackets)
        cells = [name, rate, *losses, to_best, accuracy]
        cells.append("" if pace is None else number(1e3 * pace, 3))
        timed = part.equal_time is not None and part.equal_time.steps.get(name)
        cells.append(f"{number(part.equal_time.final.get(name), 3)} ({timed:,})" if part.equal_time and timed else "")
        rows.append([*cells, f"{entry.diverged or 0}/{part.seeds}"])
    filled = [[c or "-" for c in column] for column in zip(*rows, strict=True) if any(column[1:])]
    return [list(row) for row in zip(*filled, strict=True)]


def ratio(part: Part, metric: Metric) -> str:
    """`x [lo, hi] (baseline)`; "-" where nothing was compared, or the baseline is at 0."""
    best = part.best(metric)
    if not best or not part.learned:
        return "-"
    if part.mean(best, metric) == 0.0:
        return f"- ({best} reaches 0)"
    return f"{shown(part.ratio(metric), 3)} ({best})"


def ratio_rows(parts: Mapping[str, Part], first: str) -> list[list[str]]:
    """Header and one row a summary (of a variant, or of a run): ratios to the best baselines and the learned one's own.

    Numbers of steps are a column where they differ.
    """
    timed = len({part.steps for part in parts.values()}) > 1
    rows = [[first, "final: learned / best", "sum: learned / best", "learned: final", "sum", "diverged"]]
    for name, part in parts.items():
        entry = part.optimizers.get(part.learned or "")
        own = [
            "-" if entry is None or metric not in entry.model_fields_set else number(entry.of(metric).value)
            for metric in METRICS
        ]
        ratios = [ratio(part, metric) for metric in METRICS]
        rows.append([name, *ratios, *own, f"{entry.diverged or 0 if entry else 0}/{part.seeds}"])
    steps = ["steps", *(f"{part.steps:,}" for part in parts.values())]
    return [[row[0], *([count] if timed else []), *row[1:]] for row, count in zip(rows, steps, strict=True)]


def aligned(rows: list[list[str]], marked: str | None = None) -> list[str]:
    """Rows as aligned lines of at most WIDTH columns, for which names are cut; the marked one begins with `>`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[0] = min(widths[0], max(len(rows[0][0]), WIDTH - 2 * len(widths) - sum(widths[1:])))
    cut = [[r[0] if len(r[0]) <= widths[0] else f"{r[0][: widths[0] - 1]}…", *r[1:]] for r in rows]
    lines = ["  ".join(map(str.ljust, r, widths)).rstrip() for r in cut]
    return [f"{'>' if r[0] == marked else ' '} {line}" for r, line in zip(rows, lines, strict=True)]


def table(summary: Summary) -> str:
    """The summary as plain text for the terminal, at most 110 columns wide: optimizers, ratios in words, variants."""
    learned, lines = summary.learned, []
    for digits, brackets in ((4, "final sum"), (3, "final sum"), (2, "final sum"), (3, "")):
        lines = aligned(optimizer_rows(summary, digits, brackets), learned)
        if max(map(len, lines)) <= WIDTH:
            break
    ratios = f"{learned} / best baseline: final {ratio(summary, 'final')}, sum {ratio(summary, 'sum')}"
    said = f"{ratios}: below 1 means the learned optimizer is better"
    said = said if learned and summary.best_baseline else verdict(summary)
    title = f"{summary.title}: {summary.steps} steps, {summary.seeds} seeds [95 % intervals]"
    said = ". ".join(sentence for sentence in (said, clock(summary), at_equal_time(summary)) if sentence)
    more = ["", *aligned(ratio_rows(summary.parts, "variant"))] if summary.variants else []
    return "\n".join([title, "", *lines, "", *textwrap.wrap(said, WIDTH), *more])


def seconds(x: float) -> str:
    """A time in a unit that suits it."""
    scale, unit = next(((scale, unit) for scale, unit in ((1, "s"), (1e3, "ms")) if x * scale >= 1), (1e6, "µs"))
    return f"{number(x * scale, 3)} {unit}"


def clock(part: Part) -> str:
    """From when on the learned optimizer is the best one by the clock, in words; empty where it was not looked at."""
    if part.pays is None or not part.learned:
        return ""
    others = f"every tuned baseline (each held where its {part.steps:,} steps end)"
    if part.pays.step is None or part.pays.seconds is None:
        return f"By the clock {part.learned} is never below {others} for good"
    return f"By the clock {part.learned} is below {others} from {seconds(part.pays.seconds)} (step {part.pays.step}) on"


def at_equal_time(part: Part) -> str:
    """The verdict on final losses after equal times, in words; empty where it was not looked at."""
    found = part.equal_time
    if found is None or not part.learned:
        return ""
    given = f"In the time of {part.learned}'s {part.steps:,} steps"
    if found.best is None or found.ratio is None:
        return f"{given}: cannot be compared, since a seed diverged"
    steps, rate = found.steps[found.best], number(found.learning_rates[found.best], 3)
    rival = f"the best baseline's, {found.best}'s after {steps:,} steps at a rate tuned for these, {rate}"
    shown_ratio = shown(Value(found.ratio, found.ratio_ci), 3)
    return f"{given} its final loss is {shown_ratio} × {rival}: {_side(found.ratio, found.ratio_ci)}"


def _side(ratio: float, interval: Interval | None) -> str:
    low, high = interval or (ratio, ratio)
    return "better" if high < 1 else "worse" if low > 1 else "no clear difference"


def verdict(part: Part) -> str:
    """What came out, in words: both ratios, their intervals, and whether they can be told from 1."""
    if not part.learned or part.best_baseline is None:
        named = f"{part.best('final')} for the final loss, {part.best('sum')} for the summed loss"
        return f"No learned optimizer was compared. Best tuned baseline: {named}."
    said = []
    for metric in reversed(METRICS):
        what = "summed" if metric == "sum" else "final"
        against = f"the {what} loss of the best tuned baseline ({part.best(metric)})"
        value, interval = found = part.ratio(metric)
        if value is None:
            said.append(f"cannot be compared with {against}, since a seed diverged")
            continue
        said.append(f"reaches {shown(found, 3)} × {against}: {_side(value, interval)}")
    return f"The learned optimizer ({part.learned}) {'; it '.join(said)}. Brackets: 95 % interval; below 1 it is better."
