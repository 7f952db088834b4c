"""The command line: parse, call, print, and turn errors into exit codes. No maths, and no JAX before a command needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from l2lcli.commands import bench, config, export, inspect, names, new, report, score, sweep
from l2lcli.commands.options import Coordinator, Distributed, EqualTime, Import, NumProcesses, PeerTimeout, ProcessId, Set

if TYPE_CHECKING:
    from l2lcli.commands.begin import Begun
    from l2lcli.config import Config
    from l2lcli.runs.trained import Trained

app = typer.Typer(
    help="Train, compare and use learned optimizers.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Every command takes --debug: show the traceback of an error.",
)

ROOT = Path("runs")
NEWEST = ""  # what --resume without a RUN becomes, see __main__.py


def version(show: bool) -> None:
    """Print the version and leave."""
    if show:
        import importlib.metadata

        print(f"l2l {importlib.metadata.version('l2lcli')}")
        raise typer.Exit


app.command("bench")(bench.bench)
app.add_typer(config.app, name="config")
app.command("export")(export.export)
app.command("inspect")(inspect.inspect)
app.command("list")(names.list_names)
app.command("new")(new.new)
app.command("report")(report.report)
app.command("score")(score.score)
app.command("sweep")(sweep.sweep)


@app.callback()
def common(show: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Show the version.")] = False):
    """Train, compare and use learned optimizers."""


@app.command()
def train(
    path: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="Experiment file (YAML).", show_default=False)] = None,
    overrides: Set = [],  # noqa: B006
    run_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the run; default runs/<name>/<time>.")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="[RUN]", help="Go on with a stopped or killed run; without RUN, the newest one.")
    ] = None,
    init_from: Annotated[str | None, typer.Option(metavar="RUN", help="Start from another run's trained optimizer.")] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Devices to split the tasks over; default all cores that divide them.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the complete config and the plan; write nothing.")] = False,
    coordinator: Coordinator = None,
    number: NumProcesses = None,
    process: ProcessId = None,
    distributed: Distributed = False,
    peer_timeout: PeerTimeout = 30.0,
) -> None:
    """Meta-train an optimizer, and compare it with tuned baselines."""
    from l2lcli import config as configs
    from l2lcli import processes, signals
    from l2lcli.commands import joining
    from l2lcli.commands.begin import begin, everywhere

    if path is None and resume is None:
        raise typer.BadParameter("give an experiment file, such as configs/digits.yaml, or --resume")
    if resume is not None and (run_dir or init_from or (overrides and path is None)):
        raise typer.BadParameter("--resume goes on with a run as it was begun: no --run-dir, --init-from or --set")
    group = joining.group(coordinator, number, process, distributed, devices, peer_timeout)

    def opened() -> Begun:
        begun = None if resume is None else _reopen(resume, path, overrides)
        asked = begun.config if begun is not None else _asked(path, overrides, init_from)
        if dry_run:
            print(configs.dump(asked), end="")
            print(_plan(asked))
            raise typer.Exit
        return begun or begin(asked, run_dir, devices, sys.argv)

    joining.join(None if dry_run else group)
    with signals.listening() as flag:
        joining.listen(flag)
        begun = everywhere(opened)
        with begun.run as run:
            joining.at_work_in(run.path)
            run.lock()
            done = processes.shared(lambda: run.read_status()["state"] == "done")
            if processes.first():
                _warn(f"{run.path} is done already" if done else f"run directory: {run.path}")
            if not done:
                from l2lcli.commands import train as training

                training.train(run, begun.config, devices or joining.as_before(begun.devices), sys.argv, flag)
            if processes.first():
                _show(run.path)


@app.command("eval")
def evaluate(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="Run directory, optimizer file or shipped name; default the newest finished run."),
    ] = None,
    baseline: Annotated[str | None, typer.Option(metavar="NAMES", help="Baselines, such as adam,rmsprop,sgd.")] = None,
    overrides: Set = [],  # noqa: B006
    path: Annotated[
        Path | None,
        typer.Option(
            "--config", metavar="CONFIG", help="Evaluate on this experiment; where no run is finished yet, its baselines alone."
        ),
    ] = None,
    imports: Import = [],  # noqa: B006
    steps: Annotated[
        int | None, typer.Option(metavar="T", help="Optimizee steps (few-shot: updates), but for variants that say their own.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="S", help="Optimizees (few-shot: episodes) that all are reported on.")
    ] = None,
    variants: Annotated[
        bool, typer.Option("--variants/--no-variants", help="Evaluate on the config's eval.variants, too; the default.")
    ] = True,
    equal_time: EqualTime = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, and no table.")] = False,
    coordinator: Coordinator = None,
    number: NumProcesses = None,
    process: ProcessId = None,
    distributed: Distributed = False,
    peer_timeout: PeerTimeout = 30.0,
) -> None:
    """Compare a trained optimizer with tuned baselines; written to eval/ inside its run."""
    from l2lcli import config as configs
    from l2lcli import processes, signals
    from l2lcli.commands import joining
    from l2lcli.commands.api import settle

    joining.join(joining.group(coordinator, number, process, distributed, None, peer_timeout))
    chosen = None if baseline is None else [part.strip() for part in baseline.split(",") if part.strip()]
    with signals.listening() as flag:
        joining.listen(flag)
        config.take_imports(imports)
        given = None if path is None else configs.load(path, overrides)
        found = _trained(name, needed=given is None)
        asked = settle(found, given, chosen, steps, seeds, [] if given else overrides, variants, equal_time)
        if found is None and not asked.eval.baselines:
            raise typer.BadParameter("nothing to evaluate: no trained optimizer and no baselines")
        from l2lcli.commands import evaluate as evaluating

        folder = evaluating.evaluate(asked, found, sys.argv, flag)
    if not processes.first():
        return None
    if as_json:
        return print((folder / "summary.json").read_text(encoding="utf-8"), end="")
    _show(folder)


def _asked(path: Path | None, overrides: list[str], init_from: str | None) -> Config:
    from l2lcli import config as configs

    assert path is not None
    asked = configs.load(path, overrides)
    return asked if init_from is None else configs.override(asked, {"train.init_from": init_from})


def _reopen(name: str, path: Path | None, overrides: list[str]) -> Begun:
    """A run to go on with; ConfigError if the experiment file, where one is given, says something else."""
    from l2lcli import config as configs
    from l2lcli.commands.begin import reopen
    from l2lcli.runs import rundir

    named = None if path is None else configs.name_of(path, overrides)
    root = ROOT if named is None else ROOT / named
    run = rundir.open_run(rundir.newest(root, finished=False) if name == NEWEST else Path(name))
    begun = reopen(run, _warn)
    if path is not None:
        asked = configs.load(path, overrides, execute=False)  # by what the run's own copies register
        alike = asked.model_copy(update={"imports": begun.config.imports})  # the run has its own copies
        if differences := configs.diff(begun.config, alike):
            lines = [f"{key}: {there!r} in the run {run.path}, {here!r} here" for key, there, here in differences]
            raise configs.ConfigError([*lines, "a run goes on under its own config: leave the file out, or start a new run"])
    return begun


def _trained(name: str | None, needed: bool) -> Trained | None:
    """The trained optimizer of that name, or the newest; None where there is none and none is needed."""
    from l2lcli.runs import trained
    from l2lcli.runs.files import RunError

    try:
        return trained.read(name)
    except RunError:
        if needed or name is not None or any(ROOT.glob(f"*/*/{trained.NAME}")):
            raise
        return None


def _plan(asked: Config) -> str:
    """What a training would do, as YAML comments."""
    spec, comparison = asked.train, asked.eval
    baselines = ", ".join(comparison.baselines) or "nothing"
    compared = f"compared over {comparison.steps} steps on {comparison.seeds} seeds with {baselines}, tuned on"
    if asked.few_shot:
        compared = f"judged up to {comparison.updates} updates on {comparison.episodes} episodes beside {baselines}, chosen on"
    horizons = ", ".join(map(str, spec.stages))
    lines = [
        *([f"horizons {horizons}, each until {spec.patience} validations bring nothing better"] if spec.curriculum else []),
        f"{spec.episodes} episodes of {spec.horizon} steps on {spec.tasks} tasks; a meta-step every {spec.estimator.window} "
        f"steps, {spec.meta_steps} in all",
        f"validated every {spec.validate_every} episodes on {spec.validation_seeds} seeds",
        f"{compared} {comparison.tuning_seeds} other seeds",
    ]
    return "\n".join(f"# {line}" for line in lines)


def _show(folder: Path) -> None:
    """Print the result of a run or of an evaluation, and where it lies."""
    from l2lcli.reports.tables import read_summary
    from l2lcli.reports.text import result_table

    summary = read_summary(folder)
    if summary is not None:
        print(result_table(summary))
    drawn = (folder / "report.html").is_file()
    print(f"\nreport: {folder / 'report.html'}" if drawn else f"\nresults: {folder} (no report yet: l2l report {folder})")


def _warn(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
