"""Single numbers that a claim can be about, from the files of a result. Loads no JAX."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TypeAlias

import numpy as np

from l2lcli.evaluation.summary import HIGHER
from l2lcli.reports import curves, tables
from l2lcli.reports.figures import gates, updates
from l2lcli.runs.files import RunError, faults


def find(folder: Path, name: str) -> float | None:
    """The number of that name in a result; None where its file is missing.

    "opposed/<baseline>": the share of coordinates that the learned optimizer moves the other way, at the last step looked at
    (`evaluation.response`). "slope/<optimizer>": there, the slope of log |update| over log |gradient| between the smaller half
    of the gradients, each bin of gradients weighted by its coordinates: 0 where updates do not hang on gradients, 1 where they
    are proportional. "uphill/<optimizer>": the share of coordinates moved with the sign of their gradient, over all recorded
    steps. "gate/<gate>": its mean over layers, episodes and updates; "gate-spread/<gate>": over updates, the greatest less the
    least. "median/<optimizer>": the median over seeds of the learned optimizer's last losses, over that of the other's: what
    happens as a rule, where a few runs decide a mean. "updates/<number>": the learned optimizer's few-shot metric after so many
    updates.

    Raises RunError for another name, or where the file is damaged.
    """
    kind, _, of = name.partition("/")
    if kind in ("gate", "gate-spread"):
        return _gate(folder / gates.FILE, of, kind)
    if kind == "median":
        return _median(folder, of)
    if kind == "updates":
        return _after(folder, of)
    if kind not in ("opposed", "slope", "uphill"):
        raise RunError(
            f"no number is called {name!r}: opposed/…, slope/…, uphill/…, gate/…, gate-spread/…, median/… or updates/…"
        )
    recorded = updates.read(folder)
    key = {"opposed": f"response/opposed/{of}", "slope": f"response/size/{of}", "uphill": f"uphill/{of}"}[kind]
    if recorded is None or key not in recorded.arrays:
        return None
    values = recorded.arrays[key]
    if kind != "slope":
        return float(values[-1] if kind == "opposed" else values.mean())
    return _slope(recorded.arrays["response/edges"], values[-1], recorded.arrays["response/count"][-1])


def _median(folder: Path, of: str) -> float | None:
    if (summary := tables.read_summary(folder)) is None:
        return None
    found = curves.of(folder, summary.problem)
    if not {summary.learned, of} <= set(found):
        return None
    ours, theirs = (np.median(np.nan_to_num(found[str(name)][:, -1], nan=np.inf)) for name in (summary.learned, of))
    return float(ours / theirs) if theirs > 0 else None


def _after(folder: Path, updates: str) -> float | None:
    summary = tables.read_summary(folder)
    entry = None if summary is None else (summary.few_shot or {}).get(str(summary.learned))
    after = {} if entry is None else dict(zip(map(str, entry.updates), entry.mean, strict=True))
    return after.get(updates)


def _slope(edges: np.ndarray, sizes: np.ndarray, counts: np.ndarray) -> float | None:
    """Weighted least squares over the bins up to the median gradient; None where there are fewer than two."""
    middles, there = (edges[1:] + edges[:-1]) / 2, (counts > 0) & (sizes > 0)
    there &= np.cumsum(counts) - counts < counts.sum() / 2
    if there.sum() < 2:
        return None
    return float(np.polyfit(middles[there], np.log10(sizes[there]), 1, w=np.sqrt(counts[there]))[0])


def _gate(path: Path, gate: str, kind: str) -> float | None:
    if not path.is_file():
        return None
    means: dict[int, list[float]] = {}
    with faults(path), path.open(newline="", encoding="utf-8") as file:
        try:
            for row in csv.DictReader(file):
                if row["gate"] == gate:
                    means.setdefault(int(row["update"]), []).append(float(row["mean"]))
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise RunError(f"{path}: damaged: expected columns {', '.join(gates.COLUMNS)}") from error
    by_update = [float(np.mean(of)) for of in means.values()]
    if not by_update:
        return None
    return float(np.mean(by_update)) if kind == "gate" else max(by_update) - min(by_update)


Estimated: TypeAlias = tuple[float, float]  # a mean, and 1.96 standard errors


def few_shot(ours: tuple[Path, str | None], theirs: tuple[Path, str | None], metric: str) -> tuple[Estimated, Estimated] | None:
    """A few-shot metric of each (folder of a result, name; None: its learned one), after the updates chosen for it.

    The worst there is where an episode was lost. None where one is missing, or has another metric. Raises RunError where the
    two were not tested on the same episodes.
    """
    pair: list[Estimated] = []
    digests = set()
    for folder, name in (ours, theirs):
        summary = tables.read_summary(folder)
        entry = None if summary is None else (summary.few_shot or {}).get(name or str(summary.learned))
        if summary is None or entry is None or entry.metric != metric:
            return None
        at = entry.updates.index(entry.chosen) if entry.chosen in entry.updates else -1
        mean, half = entry.mean[at], entry.ci[at]
        lost = (0.0 if metric in HIGHER else np.inf, 0.0)
        pair.append(lost if mean is None or half is None else (mean, half))
        digests.add(summary.test_episodes)
    if len(digests) > 1:
        raise RunError(f"{ours[0]} and {theirs[0]} were not tested on the same episodes")
    return pair[0], pair[1]
