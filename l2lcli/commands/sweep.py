"""The command `l2l sweep`: options, and what is printed."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from l2lcli.commands.options import Set

if TYPE_CHECKING:
    from l2lcli.commands.launch import Name
    from l2lcli.config.plan import Plan
    from l2lcli.runs.sweeps import Sweep
    from l2lcli.signals import Signals

ROOT = Path("runs")
SHOWN = 40  # points that --dry-run lists


def sweep(
    path: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="Experiment file, or sweep file (YAML).", show_default=False)
    ] = None,
    over: Annotated[
        list[str],
        typer.Option("--over", metavar="KEY=VALUES", help="What varies: seed=0..4, optimizer.hidden=8,20,32, or with --sample "
                     "train.meta_optimizer.learning_rate=log(1e-4,1e-1)."),
    ] = [],  # noqa: B006
    overrides: Set = [],  # noqa: B006
    sample: Annotated[
        int | None, typer.Option(min=1, max=2000, metavar="N", help="Draw so many points instead of running the whole grid.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, max=2000, metavar="K", help="Points at once; default one for each core, or GPU.")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, max=1024, metavar="K", help="Devices of a point; default the cores left to it.")
    ] = None,
    cluster: Annotated[
        str, typer.Option(metavar="auto|local|slurm", help="Where points run; auto: on Slurm where there is one.")
    ] = "auto",
    slurm: Annotated[
        list[str], typer.Option("--slurm", metavar="KEY=VALUE", help="A parameter of Slurm's: timeout_min=240, partition=long.")
    ] = [],  # noqa: B006
    resume: Annotated[
        str | None, typer.Option(metavar="[SWEEP]", help="Go on with a sweep; without SWEEP, the newest unfinished one.")
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Begin another sweep, though there is one of the same command.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the points and the plan; write nothing.")] = False,
    emit_commands: Annotated[
        bool, typer.Option("--emit-commands", help="Print a shell command for each point, to be run by anything; run nothing.")
    ] = False,
    point: Annotated[
        str | None, typer.Option(metavar="NAME", help="Run this point of the sweep that --resume names, in this process.")
    ] = None,
) -> None:  # fmt: skip
    """Train one optimizer for each point of a grid, or of a sample of it; started again, go on where it was."""
    from l2lcli import signals
    from l2lcli.commands import sweeping
    from l2lcli.commands.launch import cluster as find
    from l2lcli.config import plan as plans
    from l2lcli.runs import sweeps

    if (path is None) == (resume is None):
        raise typer.BadParameter("give an experiment file, such as configs/digits.yaml, with --over; or --resume")
    if resume is not None and (over or overrides or sample is not None or devices or new):
        raise typer.BadParameter("--resume goes on with a sweep as it was begun: no --over, --set, --sample, --devices, --new")
    if point is not None and not resume:
        raise typer.BadParameter("--point runs a point of the sweep that --resume names")
    if cluster not in ("auto", "local", "slurm"):
        raise typer.BadParameter(f"--cluster: {cluster!r} is none of auto, local, slurm")
    name: Name = cluster  # pyright: ignore[reportAssignmentType]  looked at above
    with signals.listening() as flag:
        if point is not None:
            return sweeping.run_point(sweeps.read(Path(resume or "")), point, sys.argv, flag, _warn)
        plan = None if path is None else plans.plan(path, over, sample, overrides)
        chosen = None if emit_commands or dry_run else find(name, _parameters(slurm))
        share = None if plan is None else sweeping.share(plan, chosen is None or chosen.name == "local", jobs, devices)
        if dry_run:
            return _show_plan(plan, share) if plan and share else _show(_opened(resume or ""))
        begun = _begun(plan, share, devices, new) if plan and share else _opened(resume or "")
        if emit_commands:
            return _emit(begun)
        assert chosen is not None
        _run(begun, chosen, jobs or sweeping.at_once(begun, chosen), flag)


def _parameters(texts: list[str]) -> dict[str, Any]:
    """`--slurm`, whose values are YAML. Raises ConfigError."""
    from l2lcli.config import ConfigError
    from l2lcli.config.files import settings
    from l2lcli.config.yaml_read import Fault, unplaced

    faults: list[Fault] = []
    found = {key: unplaced(value) for key, value in settings(texts, faults)}
    if faults:
        raise ConfigError(str(fault).replace("--set", "--slurm", 1) for fault in faults)
    return found


def _opened(name: str) -> Sweep:
    """The sweep to go on with: the one of that folder, or the newest that is not finished."""
    from l2lcli.runs import sweeps
    from l2lcli.runs.files import RunError

    found = sweeps.read(Path(name)) if name else sweeps.newest(ROOT)
    if found is None:
        raise RunError(f"no unfinished sweep in {ROOT}; begin one with: l2l sweep CONFIG --over KEY=VALUES")
    return found


def _begun(plan: Plan, share: Any, devices: int | None, new: bool) -> Sweep:
    """The sweep of this very command, or a new one. Raises ConfigError where it began with other devices, which change bits."""
    from l2lcli.commands import sweeping
    from l2lcli.config import ConfigError
    from l2lcli.runs import sweeps
    from l2lcli.runs.files import faults

    folder = ROOT / plan.name
    with faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with sweeps.held(folder):  # two that are started at once do not both begin one
        found = None if new else sweeps.newest(ROOT, plan.digest, plan.name)
        if found is None:
            return sweeping.create(plan, share.devices, ROOT, sys.argv)
    if devices and any(point.devices != devices for point in found.points.values()):
        raise ConfigError([f"--devices {devices}: {found.path} began with another number (--new begins another sweep)"])
    return found


def _run(begun: Sweep, cluster: Any, jobs: int, flag: Signals) -> None:
    """Run what is left, print the report, and end with the exit code."""
    from l2lcli.commands import sweeping
    from l2lcli.reports import sweep as reports
    from l2lcli.runs import sweeps
    from l2lcli.runs.files import RunError

    with sweeps.held(begun.path):
        states = sweeps.states(begun)
        left = sum(own not in (*sweeps.FINAL, "blocked") for own, _ in states.values())
        _warn(f"sweep: {begun.path}: {len(states)} points, {left} of them to run, {jobs} at once" if left else
              f"{begun.path} is done already (--new begins another)")  # fmt: skip
        for name, (own, reason) in states.items():
            if own in ("failed", "diverged"):
                again = f"l2l train --resume {shlex.quote(str(begun.path / name))}"
                _warn(f"{name}: {own} before{f': {reason}' if reason else ''}; try it again with: {again}")
        if left:
            states = sweeping.run(begun, cluster, jobs, flag, _warn)
        report = reports.write(begun.path, sweeping.drawn(begun))
    _show(begun)
    print(f"\nreport: {report}")
    lost = [name for name, (own, _) in states.items() if own in ("failed", "diverged", "blocked", "killed")]
    if lost:
        raise RunError(f"{len(lost)} of {len(states)} points failed: {', '.join(lost)}")
    if unfinished := [name for name, (own, _) in states.items() if own != "done"]:
        _warn(f"l2l: stopped: {', '.join(unfinished)}; go on with the same command, or: l2l sweep --resume {begun.path}")
        raise typer.Exit(75)


def _emit(begun: Sweep) -> None:
    """Print what runs each point, those first that others start from."""
    from l2lcli.commands import sweeping

    for name, point in begun.points.items():
        line = shlex.join(sweeping.command(begun, name))
        after = f"  # after {', '.join(point.after)}" if point.after else ""
        print(f"cd {shlex.quote(os.getcwd())} && {line}{after}")


def _show_plan(plan: Plan, share: Any) -> None:
    """Print the points, and how they would be run."""
    for point in plan.points[:SHOWN]:
        print(point.name + (f"  (starts from {point.after[0]})" if point.after else ""))
    if len(plan.points) > SHOWN:
        print(f"… and {len(plan.points) - SHOWN} more")
    counts = sorted({count or 0 for count in share.devices.values()})
    each = " or ".join("as many as it chooses" if count == 0 else str(count) for count in counts)
    steps = sum(point.config.train.meta_steps for point in plan.points)
    print(f"# {len(plan.points)} points, {share.jobs} at once, devices of each: {each}; {steps:,} meta-steps in all")


def _show(begun: Sweep) -> None:
    from l2lcli.reports import sweep as reports

    print(reports.text(begun))


def _warn(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
