"""`l2l bench --scaling`: how a meta-gradient's time and memory grow with N, M, W and H, each varied alone from a base point.

Every point is measured in processes of their own, one for each way, so that peak resident memory is that way's own there.
This process stays small and never imports JAX: what a child is said to have had at most begins at what its parent had.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from l2lcli.bench.shapes import PIXELS
from l2lcli.runs.files import RunError, faults, one_line
from l2lcli.runs.metrics import append_rows, read_rows
from l2lcli.signals import Signals, Stopped

Point = dict[str, Any]  # what `l2l bench` takes as options: problem, tasks (M), window (W), layers, hidden (H), width
Row = dict[str, Any]

BASE: Point = {"problem": "mnist", "tasks": 1, "window": 20, "layers": 2, "hidden": 20, "width": 20}
VARIED: dict[str, list[Point]] = {
    # N: the networks of the digits and mnist configs, and wider ones; 75 and 795 parameters a hidden unit.
    "N": [{"problem": "digits"}, {}, {"width": 189}, {"width": 1887}],
    "M": [{"tasks": count} for count in (1, 4, 16, 64)],
    "W": [{"window": steps} for steps in (20, 50, 100)],
    "H": [{"hidden": units} for units in (8, 20, 32, 64)],
}
WAYS = ("replay", "autodiff_checkpoint")


class _Loose(BaseModel):
    """Strict about what it names; other keys are passed over."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Work(_Loose):
    problem: str
    tasks: int
    window: int
    layers: int
    hidden: int
    width: int
    coordinates: int


class _Machine(_Loose):
    device: str
    devices: int


class _Measured(_Loose):
    work: _Work
    machine: _Machine
    repeats: int
    peak_rss_bytes: float
    seconds_per_100_steps: dict[str, float | None]
    temp_bytes: dict[str, float | None]


class _MeasuredRow(_Measured):
    way: str


class _FailedRow(_Loose):
    way: str
    work: _Work
    error: str


def _demand(value: Any, model: type[BaseModel]) -> None:
    """Raises ValueError, in one line, unless a JSON value has that shape."""
    try:
        model.model_validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None


def coordinates(point: Point) -> int:
    """N: parameters of the network with one hidden layer, 10 classes."""
    return point["width"] * (PIXELS[point["problem"]] + 1) + 10 * (point["width"] + 1)


def points() -> list[Point]:
    """Every point once, what is quick first."""
    every = [BASE | change for changes in VARIED.values() for change in changes]
    cost = lambda p: p["tasks"] * coordinates(p) * p["hidden"] * p["window"]
    return sorted((p for i, p in enumerate(every) if p not in every[:i]), key=cost)


def name(point: Point) -> str:
    """A point in words."""
    return f"N = {coordinates(point):,}, M = {point['tasks']}, W = {point['window']}, H = {point['hidden']}"


def read(path: Path) -> list[Row]:
    """The newest row of each point and way, in the order in which they came first.

    A row is the object of `l2l bench --json` and the `way` it is of; or way, `work` and an `error`. Raises RunError where the
    file has a line that is neither.
    """
    newest: dict[Any, Row] = {}
    for number, row in enumerate(read_rows(path), start=1):
        try:
            _demand(row, _FailedRow if "error" in row else _MeasuredRow)
        except ValueError as error:
            raise RunError(f"{path}:{number}: no row of l2l bench --scaling: {error}") from None
        newest[_key(row["way"], row["work"])] = row
    return list(newest.values())


def measure(path: Path, wanted: list[Point] | None = None, *, flag: Signals | None = None) -> None:
    """Measure what the file has no row of, or an error; every row is added as soon as it is known.

    Args:
      path: JSONL; it and its folder are made.
      wanted: default `points()`.
      flag: looked at while a child runs.

    Raises:
      Stopped: a signal came; the rows so far are in the file.
      RunError: the file cannot be read or written.
    """
    flag = flag or Signals()
    with faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    known = {_key(row["way"], row["work"]) for row in read(path) if "error" not in row}
    wanted = points() if wanted is None else wanted
    todo = [(point, way) for point in wanted for way in WAYS if _key(way, point) not in known]
    for i, (point, way) in enumerate(todo, start=1):
        print(f"{i}/{len(todo)}  {name(point)}, {way}: ", end="", file=sys.stderr, flush=True)
        try:
            row = _child(point, way, flag)
        except Stopped as stopped:
            print("stopped", file=sys.stderr)
            raise Stopped(stopped.number, f"; {path} keeps what was measured, the same command goes on") from None
        append_rows(path, [row])
        print(_said(row), file=sys.stderr, flush=True)


def _key(way: str, point: Point) -> tuple[Any, ...]:
    return way, *(point[key] for key in BASE)


def _child(point: Point, way: str, flag: Signals) -> Row:
    """One row, measured by `l2l bench` in a process of its own. Raises Stopped, with the child ended, when a signal comes."""
    options = [word for key, value in point.items() for word in (f"--{key}", str(value))]
    words = [sys.executable, "-m", "l2lcli", "bench", *options, "--alone", "--way", way, "--quick", "--json"]
    # A program that comes out of the cache, where others are compiled, would make peaks that cannot be compared.
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    streams: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, env=environment, text=True, errors="replace", **streams) as child:
        try:
            while True:
                try:
                    out, err = child.communicate(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    flag.check()
            flag.check()  # Ctrl-C reaches the child too, and its end is then no failure
        finally:
            child.kill()
    work = {**point, "coordinates": coordinates(point)}
    if child.returncode:
        return {"way": way, "work": work, "error": _why(child.returncode, err)}
    try:
        found = json.loads(out)
        _demand(found, _Measured)
    except ValueError as error:
        return {"way": way, "work": work, "error": f"it printed no result: {one_line(error)}"}
    return {"way": way, **found}


def _why(code: int, stderr: str) -> str:
    """What a failed child died of, in one line."""
    if code < 0:
        hint = ", which is how the system ends a process when memory runs out" if code == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{hint}"
    said = [line for line in stderr.splitlines() if line.strip()]
    return one_line(RuntimeError(said[-1].removeprefix("l2l: "))) if said else f"exit code {code}"


def _said(row: Row) -> str:
    if "error" in row:
        return f"failed: {row['error']}"
    seconds, temporaries = (row[key][row["way"]] for key in ("seconds_per_100_steps", "temp_bytes"))
    if seconds is None:
        return f"not run: it would need {temporaries / 1e9:.1f} GB of temporaries"
    return f"{seconds:.3g} s / 100 steps, peak memory {row['peak_rss_bytes'] / 1e9:.2f} GB"
