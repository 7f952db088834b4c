"""The checkpoints of a run: arrays through Orbax, with a checksum of our own, whole or not at all.

A checkpoint is two Orbax items: `leaves`, all arrays end to end as one uint8 array (half the time of 60 small arrays, and exact
bits for every dtype), and `header`, JSON that says which bytes are which leaf, the caller's meta and a sha256 of both. Orbax
restores a flipped byte without a word, so nothing is handed out before the sha256 agrees.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from l2lcli import processes
from l2lcli.runs.artefact import check_dtype
from l2lcli.runs.files import RunError, one_line

KEEP_LATEST = 2
KEEP_BEST = 1
EVICTED = "evicted"  # subfolder where old checkpoints go to be deleted


class Checkpoint(NamedTuple):
    """One restored checkpoint: the step, '/'-joined keys to arrays, and what the caller saved beside them."""

    step: int
    arrays: dict[str, np.ndarray]
    meta: Any


@contextmanager
def _without_log() -> Iterator[None]:
    """Keeps Orbax's log off stderr: what goes wrong reaches the caller as an exception, without pages of tracebacks."""
    logger, nothing = logging.getLogger("absl"), logging.Filter("nothing")
    logger.addFilter(nothing)
    try:
        yield
    finally:
        logger.removeFilter(nothing)


@_without_log()
def open_manager(folder: Path) -> Any:
    """An Orbax CheckpointManager that writes to `folder`, and removes what a killed process left half-written there."""
    import orbax.checkpoint as ocp

    policies = ocp.checkpoint_managers

    def best(metrics: Mapping[str, float]) -> float:
        return metrics["best"]

    # best_fn alone would keep the best and evict the newest; it is given too because only then are the metrics written.
    keep = policies.AnyPreservationPolicy(
        [policies.LatestN(KEEP_LATEST), policies.BestN(get_metric_fn=best, reverse=True, n=KEEP_BEST)]
    )
    folder.mkdir(exist_ok=True)
    return ocp.CheckpointManager(
        folder.absolute(),
        options=ocp.CheckpointManagerOptions(
            preservation_policy=keep,
            best_fn=best,
            best_mode="min",
            # A rename: a process killed in the midst of deleting file by file leaves what looks like a damaged checkpoint.
            todelete_subdir=EVICTED,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=False,
            create=False,
            multiprocessing_options=_first_alone(),
        ),
    )


def _first_alone() -> Any:
    """Of several processes the first alone has anything to do with checkpoints: no barrier waits for the others."""
    import orbax.checkpoint as ocp

    if processes.count() == 1:
        return ocp.options.MultiprocessingOptions()
    return ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="first")


def pack(step: int, arrays: Mapping[str, np.ndarray], meta: Any, best: float | None) -> tuple[dict[str, Any], bytes]:
    """The header and the leaves' bytes of a checkpoint.

    Raises:
      ValueError: no bytes at all, or a dtype that is not bool or a number.
      TypeError: meta is not JSON.
    """
    arrays = {key: np.asarray(leaf) for key, leaf in arrays.items()}
    for key, leaf in arrays.items():
        check_dtype(key, leaf)
    data = b"".join(leaf.tobytes() for leaf in arrays.values())
    if not data:
        raise ValueError("a checkpoint needs at least one array that is not empty")
    header = {
        "step": step,
        # BestN sorts, and a NaN has no place in an order: without a value a checkpoint ranks last.
        "best": math.inf if best is None or math.isnan(best) else float(best),
        "leaves": [[key, leaf.dtype.str, list(leaf.shape)] for key, leaf in arrays.items()],
        "leaves_sha256": hashlib.sha256(data).hexdigest(),
        "meta": json.loads(json.dumps(meta)),  # as it will be read: JSON turns tuples into lists and keys into strings
    }
    return header, data


@_without_log()
def save(manager: Any, header: dict[str, Any], data: bytes) -> None:
    """Writes what `pack` made; it is complete on disk when this returns. Saving the newest step once more does nothing.

    Raises:
      ValueError: a step before the newest.
    """
    import orbax.checkpoint as ocp

    step, newest = header["step"], manager.latest_step()
    if newest == step:
        return
    if newest is not None and step < newest:  # Orbax would silently not save
        raise ValueError(f"it is older than the newest one, {newest}")
    saved = manager.save(
        step,
        metrics={"best": header["best"]},
        args=ocp.args.Composite(
            leaves=ocp.args.StandardSave({"bytes": np.frombuffer(data, np.uint8)}),
            header=ocp.args.JsonSave({"sha256": _digest(header), "header": header}),
        ),
    )
    if not saved:
        raise ValueError("Orbax declined to save it")
    shutil.rmtree(manager.directory / EVICTED, ignore_errors=True)


@_without_log()
def restore(folder: Path, warn: Callable[[str], None], *, set_aside: bool) -> Checkpoint | None:
    """The newest intact checkpoint in `folder`; None if there is none at all. `warn` gets one line for each damaged one.

    With `set_aside` (the caller holds the run's lock and is about to go on) every checkpoint is looked at, and the damaged ones
    are renamed to `damaged-<step>`: their steps will be saved again, and Orbax cannot open a folder in which one is unreadable.

    Raises:
      RunError: there are checkpoints and none is intact; nothing is renamed then.
    """
    steps = sorted((int(entry.name) for entry in folder.glob("[0-9]*") if entry.name.isdigit()), reverse=True)
    intact: Checkpoint | None = None
    damaged = []
    for step in steps:
        if intact is not None and not set_aside:
            break
        try:
            found = _read(folder / str(step), step)
            intact = intact or found
        except Exception as error:  # damage surfaces as nearly any exception of Orbax, TensorStore or json
            warn(f"{folder / str(step)}: damaged checkpoint ignored: {one_line(error)}")
            damaged.append(step)
    if steps and intact is None:
        raise RunError(f"{folder}: every checkpoint is damaged ({len(steps)}); remove this folder to begin the run again")
    if set_aside:
        for step in damaged:
            aside = folder / f"damaged-{step}"
            shutil.rmtree(aside, ignore_errors=True)
            (folder / str(step)).rename(aside)
    return intact


def _read(folder: Path, step: int) -> Checkpoint:
    """One checkpoint. Raises ValueError where a checksum differs, and whatever Orbax raises on an unreadable file."""
    import orbax.checkpoint as ocp

    # Not through a CheckpointManager: its constructor reads all steps and fails if one of them is damaged.
    first = _first_alone()
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=first),
        header=ocp.JsonCheckpointHandler(multiprocessing_options=first),
        metrics=ocp.JsonCheckpointHandler("metrics", multiprocessing_options=first),  # the file name that the manager gives it
        leaves=ocp.StandardCheckpointHandler(multiprocessing_options=first),
    )
    with ocp.Checkpointer(handler, multiprocessing_options=first) as checkpointer:
        items = ocp.args.Composite(header=ocp.args.JsonRestore(), metrics=ocp.args.JsonRestore())
        read = checkpointer.restore(folder.absolute(), args=items)
        header = read.header["header"]
        if read.header["sha256"] != _digest(header):
            raise ValueError("the header's checksum differs")
        if header["step"] != step or read.metrics != {"best": header["best"]}:
            raise ValueError("the header and the folder disagree")
        leaves = [(key, np.dtype(dtype), shape) for key, dtype, shape in header["leaves"]]
        like = np.zeros(sum(dtype.itemsize * math.prod(shape) for _, dtype, shape in leaves), np.uint8)
        items = ocp.args.Composite(leaves=ocp.args.StandardRestore({"bytes": like}))
        data = np.asarray(checkpointer.restore(folder.absolute(), args=items).leaves["bytes"]).tobytes()
    if hashlib.sha256(data).hexdigest() != header["leaves_sha256"]:
        raise ValueError("the arrays' checksum differs")
    arrays, offset = {}, 0
    for key, dtype, shape in leaves:
        size = math.prod(shape)
        arrays[key] = np.frombuffer(data, dtype, size, offset).reshape(shape).copy()  # frombuffer's own is read-only
        offset += size * dtype.itemsize
    return Checkpoint(step, arrays, header["meta"])


def _digest(header: Any) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
