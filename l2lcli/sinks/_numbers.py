"""The numbers of rows and summaries, under names that all sinks give them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TAGS = {
    "loss": "meta-training/loss",
    "grad_norm": "meta-training/gradient_norm",
    "learning_rate": "meta-training/learning_rate",
    "skipped": "meta-training/skipped_updates",
    "validation_loss": "validation/loss",
}


def of_row(row: Mapping[str, Any]) -> dict[str, float]:
    """Those of one row of metrics.jsonl; what is null in it is left out. A mixture's members have a loss each."""
    found = {tag: row[key] for key, tag in TAGS.items() if key in row}
    found |= {f"validation/{name}/loss": loss for name, loss in row.get("validation", {}).items()}
    return {tag: number for tag, number in found.items() if number is not None}


def of_summary(summary: Mapping[str, Any]) -> dict[str, float]:
    """Those of summary.json, such as `summary/optimizers/adam/final`; an interval's ends are `…_ci/low` and `…_ci/high`."""
    return {
        "/".join(("summary", *path)): value
        for path, value in leaves(summary)
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, value) for what is no mapping; of a pair, which is an interval, both ends."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, (*path, str(key)))
    elif path and path[-1].endswith("_ci") and isinstance(value, list | tuple):
        yield from zip(((*path, "low"), (*path, "high")), value, strict=True)
    else:
        yield path, value
