"""The command `l2l bench`: options, table, rows kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from l2lcli.commands.options import Set

NAMES = {
    "replay": "l2l, replay",
    "autodiff_checkpoint": "plain JAX, jax.checkpoint",
    "autodiff": "plain JAX",
    "torch": "plain PyTorch",
    "deepmind": "DeepMind's own graph",
    "learned_optimization": "learned_optimization",
}


ROWS = Path("runs/bench")


def bench(
    context: typer.Context,
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
        bool, typer.Option("--alone", help="One way alone, replay or that of --way: the peak memory is then its own.")
    ] = False,
    way: Annotated[
        Literal["replay", "autodiff_checkpoint", "autodiff"] | None, typer.Option(help="Which one --alone means.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Fewer repeats of what takes long, no applied step, no plain JAX that needs over 2 GB."),
    ] = False,
    scaling: Annotated[
        bool,
        typer.Option(
            "--scaling", help="Time and memory over many N, M, W, H: a table and a figure. What FILE has is not measured again."
        ),
    ] = False,
    applied: Annotated[
        bool, typer.Option("--apply", help="An update alone, and the bytes it remembers, over the number of parameters.")
    ] = False,
    pays: Annotated[
        bool,
        typer.Option(
            "--pays", help="A learned optimizer's whole step beside Adam's over batch sizes, and from where it pays: also so."
        ),
    ] = False,
    quality: Annotated[
        Path | None,
        typer.Option(
            metavar="LIST",
            help="How far each family of a list (YAML) gets, over what its update costs: a table and a figure.",
        ),
    ] = None,
    optimizer: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="With --pays: which ones; default general and general-small.")
    ] = None,
    grow: Annotated[
        Path | None,
        typer.Option(metavar="CONFIG", help="What limits an experiment on 8, 64, 1,024 devices: measured here, and simulated."),
    ] = None,
    draw: Annotated[
        bool, typer.Option("--draw", help="With --scaling, --pays or --quality: measure nothing, show what was measured.")
    ] = False,
    overrides: Set = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    append: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help=f"Add the JSON object to a file as a line; --scaling and --pays do, by default in {ROWS}."
        ),
    ] = None,
) -> None:
    """Time and memory of a meta-gradient and of an applied step, beside plain JAX, plain PyTorch and the machine's limits."""
    if scaling or pays or applied or quality or grow:
        sources = {name: context.get_parameter_source(name) for name in context.params}
        given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
        modes = {"scaling": scaling, "pays": pays, "applied": applied, "quality": quality, "grow": grow}
        mine = next(name for name, asked in modes.items() if asked)
        fits = {
            "scaling": {"draw", "append"}, "pays": {"draw", "append", "optimizer"}, "applied": {"as_json", "append"},
            "quality": {"draw"}, "grow": {"as_json", "append", "overrides"},
        }  # fmt: skip
        if others := sorted(set(given) - {mine} - fits[mine]):
            named = "apply" if mine == "applied" else mine
            raise typer.BadParameter(f"--{named} has sizes of its own: leave --{others[0].removeprefix('as_')} out")
        if applied:
            return _applied(append, as_json)
        if quality:
            return _quality(quality, draw)
        if grow:
            return _grow(grow, overrides, append, as_json)
        if scaling:
            return _scaling(append or ROWS / "scaling.jsonl", draw)
        return _pays(append or ROWS / "pays.jsonl", draw, tuple(optimizer or ()))
    alien = {
        "--draw goes with --scaling, --pays or --quality": draw, "--optimizer goes with --pays": optimizer,
        "--way goes with --alone": way and not alone, "--set goes with --grow": overrides,
    }  # fmt: skip
    for said, given in alien.items():
        if given:
            raise typer.BadParameter(said)
    from l2lcli.commands import backend

    tasks = tasks or (128 if problem == "quadratic" else 1)
    devices = backend.start(devices, tasks)
    from l2lcli.bench import measure as measuring

    ways = (way or "replay",) if alone else measuring.WAYS
    found = measuring.bench(measuring.Work(problem, tasks, window, layers, hidden, width, devices), ways=ways, quick=quick)
    if append is not None:
        from l2lcli.runs.metrics import append_rows

        append_rows(append, [found])
    print(json.dumps(found, allow_nan=False) if as_json else table(found))


def _scaling(path: Path, draw: bool) -> None:
    """Measure the points that the file has not, then print the table and draw the figure."""
    from l2lcli import signals
    from l2lcli.bench import report, scaling

    if not draw:
        with signals.listening() as flag:
            scaling.measure(path, flag=flag)
    rows = scaling.read(path)
    text, figure = report.table(rows), report.write(rows, path.parent / "figures")
    print(f"{text}\n\nfigure: {figure}")


def _applied(append: Path | None, as_json: bool) -> None:
    """Measure, then print the table or the object."""
    from l2lcli import signals
    from l2lcli.bench import applied
    from l2lcli.commands import backend
    from l2lcli.runs.metrics import append_rows

    backend.start(1, 1)
    with signals.listening() as flag:
        found = applied.measure(flag.check)
    if append is not None:
        append_rows(append, [found])
    print(json.dumps(found, allow_nan=False) if as_json else applied.table(found))


def _pays(path: Path, draw: bool, optimizers: tuple[str, ...]) -> None:
    """Measure what the file has not, then print the table and draw the figure."""
    from l2lcli import signals
    from l2lcli.bench import pays
    from l2lcli.runs.scores import kept

    if not draw:
        from l2lcli.commands import backend

        backend.start(1, 1)
        with signals.listening() as flag:
            pays.measure(path, optimizers or pays.OPTIMIZERS, flag.check)
    rows = pays.read(path)
    names = {name for row in rows for name in row["seconds"]}
    found = {name: pays.speedup(name, kept(name)) for name in names}
    fewer = {name: value for name, value in found.items() if value is not None}
    text = pays.table(rows, fewer)
    print(f"{text}\n\nfigure: {pays.write(rows, fewer, path.parent / 'figures')}")


def _quality(path: Path, draw: bool) -> None:
    """Measure, then print the table and draw the figure."""
    from l2lcli import signals
    from l2lcli.bench import quality

    if not draw:
        from l2lcli.commands import backend

        backend.start(1, 1)
        with signals.listening() as flag:
            quality.measure(path, flag.check)
    found, row = quality.points(path)
    print(f"{quality.table(found, row)}\n\nfigure: {quality.write(found, row, path.parent / 'figures')}")


def _grow(path: Path, overrides: list[str], append: Path | None, as_json: bool) -> None:
    """Measure on as many devices as this machine is asked to pretend, then print the table or the object."""
    from l2lcli import config as configs
    from l2lcli import signals
    from l2lcli.commands import backend

    asked = configs.load(path, overrides)
    try:
        backend.start(8, 8)
    except configs.ConfigError:  # there are fewer, of a GPU, or where JAX is in use already
        backend.start(None, 8)
    from l2lcli.bench import grow
    from l2lcli.experiment import build
    from l2lcli.runs import trained
    from l2lcli.runs.files import RunError
    from l2lcli.runs.metrics import append_rows

    with signals.listening() as flag:
        experiment = build(asked)
        phis = {"at the start": experiment.phi()}
        try:
            found = trained.read(asked.name)
            phis["trained"] = experiment.fitted(found.phi, found.artefact)
        except RunError:
            pass  # no such optimizer is shipped, or it is another one
        measured = grow.measure(experiment, phis, backend.cores(), flag.check)
    if append is not None:
        append_rows(append, [measured])
    print(json.dumps(measured) if as_json else grow.table(measured))


def table(found: dict[str, Any]) -> str:
    """What was measured, as text."""
    work, machine, seconds = found["work"], found["machine"], found["seconds_per_100_steps"]
    rows = [["", "s / 100 steps", "replay is", "temporaries", "compilation"]]
    for key, name in NAMES.items():
        factor = None if None in (seconds[key], seconds["replay"]) else seconds[key] / seconds["replay"]
        megabytes = None if found["temp_bytes"][key] is None else found["temp_bytes"][key] / 1e6
        cells = [(seconds[key], "{:.3f}"), (factor, "{:.2f} x faster"), (megabytes, "{:.0f} MB")]
        cells.append((found["compile_seconds"][key], "{:.1f} s"))
        rows.append([name, *("n/a" if value is None else form.format(value) for value, form in cells)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    steps = {"learned": "l2l", "plain": "plain JAX", "optax.adam": "optax.adam"}
    applied = {name: found["apply_seconds_per_step"][key] for key, name in steps.items()}
    known = [f"{name} {1e3 * seconds:.3g} ms" for name, seconds in applied.items() if seconds is not None]
    ratio = f"replay takes {found['ratio_to_floor']:.1f} times that. " if found["ratio_to_floor"] is not None else ""
    return "\n".join([
        f"{work['problem']}: {work['coordinates']:,} coordinates, M = {work['tasks']}, W = {work['window']}, LSTM "
        f"{work['layers']} x {work['hidden']}; {machine['devices']} devices ({machine['device']})",
        "",
        *lines,
        "",
        f"applied, a step: {', '.join(known) or 'n/a'}",
        f"machine: products {machine['product_flops'] / 1e9:.0f} GFLOP/s at these shapes, tanh "
        f"{machine['tanh_per_second'] / 1e9:.2f} G/s, copying {machine['bytes_per_second'] / 1e9:.0f} GB/s",
        f"floor at these rates: {found['floor_seconds_per_100_steps']:.3f} s; {ratio}Peak memory of the process: "
        f"{found['peak_rss_bytes'] / 1e9:.2f} GB",
    ])  # fmt: skip
