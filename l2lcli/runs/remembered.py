"""What took long to find, kept in the cache folder: evaluating again need not tune again, nor hang on the clock."""

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

# Counted up when evaluation/curves.py's tune, evaluation/statistics.py or optimizers/hand.py come to find other rates.
TUNING = 3


def read(identity: Mapping[str, Any]) -> dict[str, float] | None:
    """The numbers that were written for all that `identity` says, positive ones; None where there are none, or damaged."""
    with suppress(OSError, ValueError, RecursionError, TypeError):
        held = json.loads(_place(identity).read_bytes())
        if (
            isinstance(held, dict)
            and held.get("identity") == _complete(identity)
            and held.get("names") == sorted(held["found"])
        ):
            found = {str(name): float(value) for name, value in held["found"].items()}
            if found and all(math.isfinite(value) and value > 0 for value in found.values()):
                return found
    return None


def write(identity: Mapping[str, Any], found: Mapping[str, float]) -> None:
    """Keep numbers by name. A cache folder that cannot be written is done without."""
    with suppress(OSError, RunError):
        path = _place(identity)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(strict_json({"identity": _complete(identity), "names": sorted(found), "found": dict(found)}))


def _place(identity: Mapping[str, Any]) -> Path:
    text = json.dumps(_complete(identity), sort_keys=True, allow_nan=False)
    return cache.folder() / "measured" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _complete(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {**identity, "tuning": TUNING}
