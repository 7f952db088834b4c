"""`l2l bench --pays`: what a learned optimizer's whole step costs beside Adam's, over batch sizes, and from where that pays.

A learned optimizer that needs s times fewer steps than tuned Adam is ahead by the clock where its step, gradient included,
takes less than s times Adam's. What it adds to a gradient does not depend on the batch, so that it pays from some gradient
cost on. s is the speed-up of its kept score (`l2l score`). Images are random; only times are looked at.
"""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from l2lcli.reports.figures.drawing import INK, LEARNED, OTHERS, Figure, log_ticks, save
from l2lcli.reports.tables import WIDTH, aligned, number
from l2lcli.runs.files import RunError
from l2lcli.runs.metrics import append_rows, read_rows

Row = dict[str, Any]

BATCHES = (32, 128, 512, 2048, 4096)
NETWORKS = {"mlp": "784-64-64-10, ReLU", "conv": "16x16x3, two convolutions of 16"}
OPTIMIZERS = ("general", "general-small")
PLAIN = ("sgd", "adam")  # what the gradient costs, with next to nothing added, and what is compared with
IMAGES = 10_000


def measure(path: Path, optimizers: tuple[str, ...], check: Callable[[], None]) -> None:
    """Time what the file has no row of; every row is added as soon as it is known.

    Args:
      path: JSONL of rows {"network", "batch_size", "coordinates", "device", "seconds": {optimizer: per step}}.
      optimizers: as `l2lcli.load` takes them.
      check: called between measurements; what it raises goes through.

    Raises RunError where an optimizer, or the file, cannot be read.
    """
    import jax

    from l2lcli import registry, tree
    from l2lcli.evaluation.timing import seconds_per_step
    from l2lcli.optimizers.hand import hand
    from l2lcli.runs import trained
    from l2lcli.signals import UNWATCHED

    members = {name: (hand(name), {"log_learning_rate": jax.numpy.float32(-7)}) for name in PLAIN}
    for name in optimizers:
        found = trained.read(name)
        members[name] = registry.optimizer.build(found.optimizer), tree.nest(found.phi)
    known = {(row["network"], row["batch_size"]) for row in read(path) if set(optimizers) <= set(row["seconds"])}
    for network in NETWORKS:
        for batch_size in BATCHES:
            check()
            if (network, batch_size) in known:
                continue
            problem = _problem(network, batch_size)
            theta = jax.eval_shape(problem.init, jax.random.key(0), problem.data["train"])[0]
            seconds = seconds_per_step(problem, members, jax.random.key(1), 50, UNWATCHED)
            row = {
                "network": network,
                "batch_size": batch_size,
                "coordinates": sum(leaf.size for leaf in jax.tree.leaves(theta)),
                "device": jax.devices()[0].device_kind,
                "seconds": seconds,
            }
            append_rows(path, [row])
            print(
                f"{network}, batches of {batch_size}: Adam {1e3 * seconds['adam']:.3g} ms a step", file=sys.stderr, flush=True
            )


def _problem(network: str, batch_size: int) -> Any:
    import numpy as np

    from l2lcli.data.loader import Dataset
    from l2lcli.problems import classification, conv_classification

    rng, size = np.random.default_rng(0), (28, 28) if network == "mlp" else (32, 32, 3)
    images, labels = rng.integers(0, 256, (IMAGES, *size), np.uint8), rng.integers(0, 10, IMAGES, np.uint8)
    dataset = Dataset({"train": {"image": images, "label": labels}}, network, 10, 255.0, "random")
    if network == "mlp":
        spec = classification.ClassificationSpec(hidden=[64, 64], activation="relu", init="he", batch_size=batch_size)
        return classification.on(dataset, spec)
    given = {"pool": 2, "channels": [16, 16], "kernel": 3, "hidden": [], "batch_norm": False, "init": "he"}
    return conv_classification.on(dataset, conv_classification.ConvClassificationSpec(**given, batch_size=batch_size))


def read(path: Path) -> list[Row]:
    """The newest row of each network and batch size, in that order. Raises RunError where a line is none."""
    newest: dict[tuple[str, int], Row] = {}
    for line, row in enumerate(read_rows(path), start=1):
        seconds = row.get("seconds")
        whole = isinstance(seconds, dict) and set(PLAIN) <= set(seconds) and all(_positive(s) for s in seconds.values())
        if row.get("network") not in NETWORKS or row.get("batch_size") not in BATCHES or not whole:
            raise RunError(f"{path}:{line}: no row of l2l bench --pays")
        newest[row["network"], row["batch_size"]] = row
    return [newest[key] for key in sorted(newest, key=lambda key: (list(NETWORKS).index(key[0]), key[1]))]


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def speedup(name: str, scores: list[Path]) -> float | None:
    """How many times fewer steps than tuned Adam's an optimizer needs, by the first of the scores that is of it."""
    for path in scores:
        found = json.loads(path.read_bytes())
        if found.get("optimizer") == name and found.get("speedup") is not None:
            return float(found["speedup"])
    return None


def pays_from(rows: list[Row], name: str, fewer: float) -> float | None:
    """The gradient's seconds from which on a step costs less than `fewer` times Adam's, for the rows of one network.

    Between two rows along a straight line of logarithms; 0 where it always does, None where it never does in what was measured.
    """
    points = [(row["seconds"]["sgd"], row["seconds"][name] / row["seconds"]["adam"]) for row in rows if name in row["seconds"]]
    last = None
    for gradient, ratio in sorted(points, reverse=True):
        if ratio >= fewer:
            if last is None:
                return None
            share = math.log(ratio / fewer) / math.log(ratio / last[1])
            return math.exp(math.log(gradient) + share * math.log(last[0] / gradient))
        last = gradient, ratio
    return 0.0 if last is not None else None


def table(rows: list[Row], fewer: dict[str, float]) -> str:
    """What was measured, as text. fewer: optimizer -> the speed-up of its score. Raises RunError where there are no rows."""
    if not rows:
        raise RunError("nothing to show: l2l bench --pays has measured nothing")
    names = list(dict.fromkeys(name for row in rows for name in row["seconds"] if name not in PLAIN))
    lines = [["", "batch", "gradient", "adam", *names]]
    for row in rows:
        seconds = row["seconds"]
        cells = [f"{number(1e3 * seconds[name], 3)} ms" for name in PLAIN]
        for name in names:
            ratio = seconds[name] / seconds["adam"] if name in seconds else None
            cells.append("-" if ratio is None else f"{number(ratio, 3)} x adam")
        lines.append([f"{row['network']}, {row['coordinates']:,}", f"{row['batch_size']:,}", *cells])
    said = ["A step, gradient included; gradient: with plain SGD. " + "; ".join(f"{k}: {v}" for k, v in NETWORKS.items()) + "."]
    for name in names:
        if name in fewer:
            ends = {network: pays_from([r for r in rows if r["network"] == network], name, fewer[name]) for network in NETWORKS}
            words = [f"{network} {_from(seconds)}" for network, seconds in ends.items()]
            steps = f"{number(fewer[name], 3)} times fewer steps than tuned Adam (its score)"
            said.append(f"{name} needs {steps}: ahead, {'; '.join(words)}.")
    return "\n".join([*aligned(lines), "", *(line for text in said for line in textwrap.wrap(text, WIDTH))])


def _from(seconds: float | None) -> str:
    if seconds is None:
        return "not at these batch sizes"
    return f"from gradients of {number(1e3 * seconds, 2)} ms on" if seconds else "at all of these batch sizes"


def write(rows: list[Row], fewer: dict[str, float], folder: Path) -> Path:
    """Draw `pays.png` and `pays.svg` into the folder; the former's path."""
    caption = (
        "A whole step beside Adam's, over what the gradient alone costs; batches of "
        f"{', '.join(map(str, BATCHES))}. Dashed: as many times fewer steps as each needs than tuned Adam on the suite; below "
        f"its dashed line an optimizer is ahead by the clock. {rows[0]['device']}."
    )
    save(
        Figure("pays", "From which gradient on a learned step pays", caption, lambda: _draw(rows, fewer), arranged=True), folder
    )
    return folder / "pays.png"


def _draw(rows: list[Row], fewer: dict[str, float]) -> Any:
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(9, 3.6))
    names = list(dict.fromkeys(name for row in rows for name in row["seconds"] if name not in PLAIN))
    colours = dict(zip(names, (LEARNED, *OTHERS[1:]), strict=False))
    panels = figure.subplots(1, len(NETWORKS), sharey=True, squeeze=False)[0]
    highest = 1.0
    for ax, (network, words) in zip(panels, NETWORKS.items(), strict=True):
        ax.set(xscale="log", yscale="log", xlabel="gradient, ms", title=f"{network}: {words}")
        own = [row for row in rows if row["network"] == network]
        for name in names:
            points = [
                (1e3 * r["seconds"]["sgd"], r["seconds"][name] / r["seconds"]["adam"]) for r in own if name in r["seconds"]
            ]
            highest = max(highest, *(y for _, y in points))
            ax.plot(*zip(*points, strict=True), color=colours[name], marker="o", markersize=3.5, linewidth=1.4, label=name)
            if name in fewer:
                ax.axhline(fewer[name], color=colours[name], linestyle="--", linewidth=1)
        ax.axhline(1, color=INK, linewidth=0.8)
        log_ticks(ax.xaxis, *ax.get_xlim())
    for ax in panels:
        ax.set_ylim(0.9, 1.15 * highest)
        log_ticks(ax.yaxis, 0.9, 1.15 * highest)
    panels[0].set_ylabel("step's time over Adam's")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names), frameon=False)
    return figure
