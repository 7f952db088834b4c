"""What a run directory's files say: read, checked, and as a table and words for the terminal. JAX is never imported."""

from __future__ import annotations

import json
import lzma
import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from l2lcli.runs.files import RunError, faults, one_line, read_json
from l2lcli.runs.metrics import whole_lines

WIDTH = 110  # columns of the terminal's table

# What a table needs of summary.json. A type or a pair of numbers may be null or missing unless it stands in a tuple;
# under ... stands the shape of every entry, whatever its name.
_PHI = {"learning_rate": float}
_OPTIMIZER = {
    **{"phi_final": _PHI, "phi_sum": _PHI, "final": float, "final_ci": [float], "sum": float, "sum_ci": [float]},
    **{"steps_to_best_baseline": int, "seconds_per_step": float, "diverged": int},
    "test": {"accuracy": float, "accuracy_ci": [float]},
}
_PART = {
    **{"problem": (str,), "label": str, "units": str, "learned": str, "steps": (int,), "seeds": (int,)},
    **{"optimizers": ({...: (_OPTIMIZER,)},), "best_baseline": {"final": str, "sum": str}},
    **{"ratio_final": float, "ratio_final_ci": [float], "ratio_sum": float, "ratio_sum_ci": [float]},
    "pays": {"step": int, "seconds": float},
}
_SUMMARY = {**_PART, "variants": {...: (_PART,)}}
_WORDS = {str: "a text", int: "a whole number", float: "a number"}


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


def read_summary(folder: Path) -> dict[str, Any] | None:
    """`summary.json`, None where the folder has none. Raises RunError where a table could not be made of it."""
    path = folder / "summary.json"
    if (summary := read_json(path)) is None:
        return None
    try:
        demand(summary, _SUMMARY, "")
        summary["variants"] = summary.get("variants") or {}
        for part in (summary, *summary["variants"].values()):
            if part.setdefault("learned", None) not in (None, *part["optimizers"]):
                raise ValueError(f"{part['learned']!r} is not among the optimizers")
    except ValueError as error:
        raise RunError(f"{path}: damaged: {one_line(error)}") from error
    return summary


def demand(value: Any, shape: Any, where: str) -> None:
    """Raises ValueError, saying where, unless a JSON value has the shape (see `_SUMMARY`)."""
    if isinstance(shape, tuple):
        if value is None:
            raise ValueError(f"{where!r} is missing")
        shape = shape[0]
    if value is None:
        return
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise ValueError(f"{where!r} is no object")
        shapes = dict.fromkeys(value, shape[...]) if ... in shape else shape
        for key, inner in shapes.items():
            demand(value.get(key), inner, f"{where}.{key}".lstrip("."))
    elif isinstance(shape, list):
        if not isinstance(value, list) or len(value) != 2:
            raise ValueError(f"{where!r} is no pair of numbers")
        for end in value:
            demand(end, shape[0], where)
    # bool is an int to Python; an int beyond 1e300 is one that no float can hold, or nearly
    elif not isinstance(value, (int, float) if shape is float else shape) or isinstance(value, bool):
        raise ValueError(f"{where!r} is not {_WORDS[shape]}")
    elif isinstance(value, int) and abs(value) > 1e300:
        raise ValueError(f"{where!r} is too large")


def number(x: float | None, digits: int = 4) -> str:
    """A number with so many significant digits, as short as it goes; "lost" where a diverged seed left none."""
    if x is None or not np.isfinite(x):
        return "lost"
    text = f"{x:#.{digits}g}".rstrip(".")
    plain = f"{x:.0f}" if "e" in text and 1 <= abs(x) < 1e6 else text  # 149, not 1.5e2
    return re.sub(r"e([+-])0?", lambda m: "e" + m[1].strip("+"), plain)


def interval(entry: dict[str, Any], key: str, digits: int = 4, brackets: bool = True) -> str:
    """`x [lo, hi]` of entry[key] and entry[key_ci], the brackets left out where there is no interval."""
    low, high = (entry.get(f"{key}_ci") if brackets else None) or (None, None)
    span = "" if None in (entry.get(key), low, high) else f" [{number(low, digits)}, {number(high, digits)}]"
    return number(entry.get(key), digits) + span


def optimizer_rows(summary: dict[str, Any], digits: int = 4, brackets: str = "final sum accuracy") -> list[list[str]]:
    """Header and one row an optimizer, best sum first; empty columns are left out. Brackets: the columns with intervals."""
    rows = [["optimizer", "rate final / sum", "final loss", "summed loss", "to best", "accuracy", "ms/step", "diverged"]]
    for name, entry in sorted(summary["optimizers"].items(), key=lambda o: np.inf if o[1].get("sum") is None else o[1]["sum"]):
        rates = [(entry.get(f"phi_{metric}") or {}).get("learning_rate") for metric in ("final", "sum")]
        rate = " / ".join(dict.fromkeys(f"{r:.3g}".replace("e-0", "e-") for r in rates if r is not None))
        test, pace, reached = entry.get("test") or {}, entry.get("seconds_per_step"), entry.get("steps_to_best_baseline")
        to_best = str(reached) if reached is not None else "never" if name == summary["learned"] else ""
        losses = [interval(entry, key, digits, key in brackets) for key in ("final", "sum")]
        accuracy = interval(test, "accuracy", 3, "accuracy" in brackets) if "accuracy" in test else ""
        cells = [name, rate, *losses, to_best, accuracy]
        cells.append("" if pace is None else number(1e3 * pace, 3))
        rows.append([*cells, f"{entry.get('diverged') or 0}/{summary['seeds']}"])
    filled = [[c or "-" for c in column] for column in zip(*rows, strict=True) if any(column[1:])]
    return [list(row) for row in zip(*filled, strict=True)]


def ratio(summary: dict[str, Any], metric: str) -> str:
    """`x [lo, hi] (baseline)` of "final" or "sum"; "-" where nothing was compared, or the baseline is at 0."""
    best = (summary.get("best_baseline") or {}).get(metric)
    if not best or not summary["learned"]:
        return "-"
    if (summary["optimizers"].get(best) or {}).get(metric) == 0.0:
        return f"- ({best} reaches 0)"
    return f"{interval(summary, f'ratio_{metric}', 3)} ({best})"


def parts(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> summary, of the experiment itself and of its variants: the rows of the generalisation matrix."""
    return {summary["problem"]: summary, **(summary.get("variants") or {})}


def ratio_rows(parts: dict[str, dict[str, Any]], first: str) -> list[list[str]]:
    """Header and one row a summary (of a variant, or of a run): ratios to the best baselines and the learned one's own.

    Numbers of steps are a column where they differ.
    """
    timed = len({part["steps"] for part in parts.values()}) > 1
    rows = [[first, "final: learned / best", "sum: learned / best", "learned: final", "sum", "diverged"]]
    for name, part in parts.items():
        entry = part["optimizers"].get(part["learned"]) or {}
        own = [number(entry[m]) if m in entry else "-" for m in ("final", "sum")]
        shown = [ratio(part, metric) for metric in ("final", "sum")]
        rows.append([name, *shown, *own, f"{entry.get('diverged') or 0}/{part['seeds']}"])
    steps = ["steps", *(f"{part['steps']:,}" for part in parts.values())]
    return [[row[0], *([count] if timed else []), *row[1:]] for row, count in zip(rows, steps, strict=True)]


def aligned(rows: list[list[str]], marked: str | None = None) -> list[str]:
    """Rows as aligned lines of at most WIDTH columns, for which names are cut; the marked one begins with `>`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    widths[0] = min(widths[0], max(len(rows[0][0]), WIDTH - 2 * len(widths) - sum(widths[1:])))
    cut = [[r[0] if len(r[0]) <= widths[0] else f"{r[0][: widths[0] - 1]}…", *r[1:]] for r in rows]
    lines = ["  ".join(map(str.ljust, r, widths)).rstrip() for r in cut]
    return [f"{'>' if r[0] == marked else ' '} {line}" for r, line in zip(rows, lines, strict=True)]


def table(summary: dict[str, Any]) -> str:
    """The summary as plain text for the terminal, at most 110 columns wide: optimizers, ratios in words, variants."""
    learned, best, variants = summary.get("learned"), summary.get("best_baseline") or {}, summary.get("variants")
    summary = {**summary, "learned": learned}
    for digits, brackets in ((4, "final sum"), (3, "final sum"), (2, "final sum"), (3, "")):
        lines = aligned(optimizer_rows(summary, digits, brackets), learned)
        if max(map(len, lines)) <= WIDTH:
            break
    ratios = f"{learned} / best baseline: final {ratio(summary, 'final')}, sum {ratio(summary, 'sum')}"
    said = f"{ratios}: below 1 means the learned optimizer is better" if learned and best else verdict(summary)
    title = f"{summary.get('label') or summary['problem']}: {summary['steps']} steps, {summary['seeds']} seeds [95 % intervals]"
    said = f"{said}. {clock(summary)}" if clock(summary) else said
    more = ["", *aligned(ratio_rows(parts(summary), "variant"))] if variants else []
    return "\n".join([title, "", *lines, "", *textwrap.wrap(said, WIDTH), *more])


def seconds(x: float) -> str:
    """A time in a unit that suits it."""
    scale, unit = next(((scale, unit) for scale, unit in ((1, "s"), (1e3, "ms")) if x * scale >= 1), (1e6, "µs"))
    return f"{number(x * scale, 3)} {unit}"


def clock(summary: dict[str, Any]) -> str:
    """From when on the learned optimizer is the best one by the clock, in words; empty where it was not looked at."""
    if (pays := summary.get("pays")) is None or not summary.get("learned"):
        return ""
    name, others = summary["learned"], f"every tuned baseline (each held where its {summary['steps']:,} steps end)"
    if pays.get("step") is None or pays.get("seconds") is None:
        return f"By the clock {name} is never below {others} for good"
    return f"By the clock {name} is below {others} from {seconds(pays['seconds'])} (step {pays['step']}) on"


def verdict(summary: dict[str, Any]) -> str:
    """What came out, in words: both ratios, their intervals, and whether they can be told from 1."""
    learned, best, said = summary["learned"], summary.get("best_baseline") or {}, []
    if not learned or not best:
        named = f"{best.get('final')} for the final loss, {best.get('sum')} for the summed loss"
        return f"No learned optimizer was compared. Best tuned baseline: {named}."
    for metric, what in (("sum", "summed"), ("final", "final")):
        value, against = summary.get(f"ratio_{metric}"), f"the {what} loss of the best tuned baseline ({best.get(metric)})"
        low, high = (value if end is None else end for end in summary.get(f"ratio_{metric}_ci") or (None, None))
        word = "" if value is None else "better" if high < 1 else "worse" if low > 1 else "no clear difference"
        shown = f"reaches {interval(summary, f'ratio_{metric}', 3)} × {against}: {word}"
        said.append(f"cannot be compared with {against}, since a seed diverged" if value is None else shown)
    return f"The learned optimizer ({learned}) {'; it '.join(said)}. Brackets: 95 % interval; below 1 it is better."
