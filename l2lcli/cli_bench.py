"""The command `l2l bench`: options, table, rows kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

NAMES = {
    "replay": "l2l, replay",
    "autodiff_checkpoint": "plain JAX, jax.checkpoint",
    "autodiff": "plain JAX",
    "torch": "plain PyTorch",
}


def bench(
    problem: Annotated[
        Literal["mnist", "digits", "quadratic"], typer.Option(help="Shapes of the work; the images are random.")
    ] = "mnist",
    tasks: Annotated[int | None, typer.Option(min=1, max=65_536, help="M; default 1, quadratic 128.")] = None,
    window: Annotated[int, typer.Option(min=1, max=100_000, help="W.")] = 20,
    layers: Annotated[int, typer.Option(min=1, max=8, help="LSTM layers.")] = 2,
    hidden: Annotated[int, typer.Option(min=1, max=1024, help="H.")] = 20,
    width: Annotated[int, typer.Option(min=1, max=1_000_000, help="Hidden units of the network that is optimized.")] = 20,
    devices: Annotated[int | None, typer.Option(min=1, max=1024, help="Devices for replay; default all cores.")] = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="Replay alone: the plain ways need much memory at large sizes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    append: Annotated[Path | None, typer.Option(metavar="FILE", help="Add the JSON object to a file as a line.")] = None,
) -> None:
    """Time and memory of a meta-gradient and of an applied step, beside plain JAX, plain PyTorch and the machine's limits."""
    from l2lcli import backend

    tasks = tasks or (128 if problem == "quadratic" else 1)
    devices = backend.start(devices, tasks)
    from l2lcli import bench as measuring

    found = measuring.bench(measuring.Work(problem, tasks, window, layers, hidden, width, devices), peers=not alone)
    line = json.dumps(found, allow_nan=False)
    if append is not None:
        with append.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    print(line if as_json else table(found))


def table(found: dict[str, Any]) -> str:
    """What was measured, as text."""
    work, machine, seconds = found["work"], found["machine"], found["seconds_per_100_steps"]
    rows = [["", "s / 100 steps", "replay is", "temporaries", "compilation"]]
    for key, name in NAMES.items():
        factor = None if seconds[key] is None else seconds[key] / seconds["replay"]
        megabytes = None if found["temp_bytes"][key] is None else found["temp_bytes"][key] / 1e6
        cells = [(seconds[key], "{:.3f}"), (factor, "{:.2f} x faster"), (megabytes, "{:.0f} MB")]
        cells.append((found["compile_seconds"][key], "{:.1f} s"))
        rows.append([name, *("n/a" if value is None else form.format(value) for value, form in cells)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    applied = found["apply_seconds_per_step"]
    return "\n".join([
        f"{work['problem']}: {work['coordinates']:,} coordinates, M = {work['tasks']}, W = {work['window']}, LSTM "
        f"{work['layers']} x {work['hidden']}; {machine['devices']} devices ({machine['device']})",
        "",
        *lines,
        "",
        f"applied: {1e3 * applied['learned']:.2f} ms a step; optax.adam {1e3 * applied['optax.adam']:.3f} ms",
        f"machine: products {machine['product_flops'] / 1e9:.0f} GFLOP/s at these shapes, tanh "
        f"{machine['tanh_per_second'] / 1e9:.2f} G/s, copying {machine['bytes_per_second'] / 1e9:.0f} GB/s",
        f"floor at these rates: {found['floor_seconds_per_100_steps']:.3f} s; replay takes {found['ratio_to_floor']:.1f} times "
        f"that. Peak memory of the process: {found['peak_rss_bytes'] / 1e9:.2f} GB",
    ])  # fmt: skip
