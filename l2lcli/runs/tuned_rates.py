"""Learning rates that were tuned before, kept in the cache folder: evaluating again need not tune again."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from l2lcli.data import cache
from l2lcli.runs.files import RunError, replacing, strict_json

TUNING = (
    1  # counted up when evaluation/compare.py's tune, evaluation/statistics.py or optimizers/hand.py come to find other rates
)


def read(identity: Mapping[str, Any]) -> dict[str, float] | None:
    """The rates {"final", "sum"} that were written for all that `identity` says; None where there are none, or damaged."""
    with suppress(OSError, ValueError, RecursionError):
        path = _place(identity)
        held = json.loads(path.read_bytes())
        rates = {metric: float(held["rates"][metric]) for metric in ("final", "sum")} if _same(held, identity) else {}
        if rates and all(math.isfinite(rate) and rate > 0 for rate in rates.values()):
            return rates
    return None


def write(identity: Mapping[str, Any], rates: Mapping[str, float]) -> None:
    """Keep rates. A cache folder that cannot be written is done without."""
    with suppress(OSError, RunError):
        path = _place(identity)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(strict_json({"identity": _complete(identity), "rates": rates}))


def _place(identity: Mapping[str, Any]) -> Path:
    text = json.dumps(_complete(identity), sort_keys=True, allow_nan=False)
    return cache.folder() / "rates" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _complete(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {**identity, "tuning": TUNING}


def _same(held: Any, identity: Mapping[str, Any]) -> bool:
    """Whether the file is of that identity, and has the shape that `write` gives it."""
    if not isinstance(held, dict) or held.get("identity") != _complete(identity):
        return False
    rates = held.get("rates")
    return isinstance(rates, dict) and all(isinstance(rates.get(metric), int | float) for metric in ("final", "sum"))
