"""Reference results: what of a run is committed to the repository, small, and without a trace of the machine's folders."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from l2lcli import config as configs
from l2lcli import plugins
from l2lcli.config import Config
from l2lcli.evaluation.summary import Summary
from l2lcli.reports import curves, page, tables
from l2lcli.reports.figures import gates, pictures, updates
from l2lcli.runs import trained
from l2lcli.runs.artefact import packed, read_artefact, write_artefact
from l2lcli.runs.files import RunError, as_json, faults, read_json, read_text, replacing, strict_json

LARGEST = 1_000_000  # bytes of one reference result
POINTS = 101  # steps kept of the experiment's own curves
VARIANT_POINTS = 51  # and of each variant's
TASKS = 2  # whose pictures are kept
OPTIMIZER = trained.NAME


def save(folder: Path, root: Path) -> Path:
    """Keep a run, or an evaluation inside one, as a reference result; the new folder.

    The first run of an experiment becomes `<root>/<name>/`; those of other seeds `<root>/<name>/seed-<seed>/` beside it, and
    one of the same seed takes the old one's place. In it: config.yaml, env.json without the command line and with the seconds
    that meta-training took, summary.json, optimizer.npz, metrics.jsonl.xz (six digits), curves/*.csv.xz (see `curves.packed`),
    gates.csv, and, but for other seeds, inspection.npz, pictures/*.npz.xz of two tasks, and figures/*.png drawn from all these;
    `data.raw_dir` is null in all.

    Raises RunError where the run has not been evaluated, where it would take more than LARGEST bytes, where an evaluation
    would take the place of a trained optimizer, or where it started from an optimizer that is not kept; ConfigError where its
    config is none.
    """
    folder = Path(folder)
    summary = tables.read_summary(folder)
    if summary is None:
        raise RunError(f"{folder}: has not been evaluated, so there is no result to keep (no summary.json)")
    config = configs.load(folder / "config.yaml")
    config = configs.override(config, {"data.raw_dir": None, "train.init_from": _shipped(root, folder, config)})
    own = [os.path.relpath(name, folder) if plugins.is_file(name) else name for name in config.imports]
    config = config.model_copy(update={"imports": own})
    place = _place(root, config.name, config.seed)
    if (place / OPTIMIZER).is_file() and not (folder / OPTIMIZER).is_file():
        raise RunError(f"{folder}: holds no optimizer, and {place} does: give the evaluation another name (--set name=…)")
    with tempfile.TemporaryDirectory() as temporary, faults(place):
        new = Path(temporary) / "reference"
        _fill(new, folder, config, summary)
        main = place.parent == root
        for name in (gates.FILE, *([updates.FILE] if main else [])):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, new / name)
        if main:
            if found := pictures.read(folder, summary.problem):
                _put(new / f"{pictures.place(summary.problem)}.xz", lzma.compress(packed(*found.first(TASKS)), preset=9))
            page.figures(new)
        sizes = {path.relative_to(new).as_posix(): path.stat().st_size for path in new.rglob("*") if path.is_file()}
        if (whole := sum(sizes.values())) > LARGEST:
            parts = ", ".join(f"{name} {sizes[name]:,}" for name in sorted(sizes, key=lambda name: -sizes[name])[:4])
            raise RunError(f"{folder}: {whole:,} bytes as a reference result, more than {LARGEST:,}: {parts}, …")
        for part in ("curves", "figures", "pictures"):
            shutil.rmtree(place / part, ignore_errors=True)
        for old in place.glob(trained.kept("*")):
            old.unlink()
        for name in sizes:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(new / name, place / name)
    return place


def _place(root: Path, name: str, seed: int) -> Path:
    held = read_text(root / name / "config.yaml")
    other = held is not None and yaml.safe_load(held).get("seed") != seed
    return root / name / f"seed-{seed}" if other else root / name


def _shipped(root: Path, folder: Path, config: Config) -> str | None:
    """What the run started from by the name under which its reference result is shipped, not by a path of this machine."""
    start = folder / trained.START
    if not start.is_file():
        return config.train.init_from
    phi, meta = read_artefact(start)
    place = _place(root, meta["config"]["name"], meta["config"]["seed"])
    kept = read_artefact(place / OPTIMIZER)[0] if (place / OPTIMIZER).is_file() else {}
    if kept.keys() != phi.keys() or not all(np.array_equal(kept[name], phi[name]) for name in phi):
        raise RunError(f"{folder}: the optimizer that it started from is not that of {place}: keep that run's result first")
    return place.relative_to(root).as_posix()


def _fill(new: Path, folder: Path, config: Config, summary: Summary) -> None:
    new.mkdir()

    def put(name: str, content: bytes) -> None:
        _put(new / name, content)

    put("config.yaml", configs.dump(config).encode())
    put("summary.json", (folder / "summary.json").read_bytes())
    if env := read_json(folder / "env.json"):
        for about in (env.get("imports") or {}).values():
            about["file"] = None  # a path of this machine
        kept = {key: value for key, value in env.items() if key != "argv"}
        if seconds := (read_json(folder / "status.json") or {}).get("train_seconds"):
            kept["train_seconds"] = round(seconds)
        put("env.json", strict_json(kept))
    for name in filter(plugins.is_file, config.imports):
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, new / name)
    if rows := tables.read_metrics(folder / "metrics.jsonl"):
        put("metrics.jsonl.xz", lzma.compress(b"".join(map(_row, rows)), preset=9))
    for name in (OPTIMIZER, *map(trained.kept, config.train.keep)):
        if (folder / name).is_file():
            phi, meta = read_artefact(folder / name)
            write_artefact(new / name, phi, {**meta, "config": config.model_dump(mode="json")})
    for name in summary.parts:
        if found := curves.of(folder, name):
            points = POINTS if name == summary.problem else VARIANT_POINTS
            put(f"curves/{name}.csv.xz", curves.packed(found, points))


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as file:
        file.write(content)


def _row(row: dict[str, Any]) -> bytes:
    rounded = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in as_json(row).items()}
    return f"{json.dumps(rounded, ensure_ascii=False)}\n".encode()
