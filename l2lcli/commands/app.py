"""The command line: parse, call, print, and turn errors into exit codes. No maths, and no JAX before a command needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from l2lcli.commands import bench, config

if TYPE_CHECKING:
    from l2lcli.config import Config
    from l2lcli.runs.rundir import Run
    from l2lcli.runs.trained import Trained

app = typer.Typer(
    help="Train, compare and use learned optimizers.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Every command takes --debug: show the traceback of an error.",
)

Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a config value: train.horizon=200.")]
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
) -> None:
    """Meta-train an optimizer, and compare it with tuned baselines."""
    from l2lcli import config as configs
    from l2lcli import signals
    from l2lcli.runs import files, rundir, trained

    if path is None and resume is None:
        raise typer.BadParameter("give an experiment file, such as configs/digits.yaml, or --resume")
    if resume is not None and (run_dir or init_from or (overrides and path is None)):
        raise typer.BadParameter("--resume goes on with a run as it was begun: no --run-dir, --init-from or --set")
    config = None if path is None else configs.load(path, overrides)
    if config is not None and init_from is not None:
        config = configs.override(config, {"train.init_from": init_from})
    with signals.listening() as flag:
        if resume is not None:
            run, config = _reopen(resume, config)
            devices = devices or (files.read_json(run.path / "env.json") or {}).get("devices_used")
        if dry_run:
            print(configs.dump(config), end="")
            return print(_plan(config))
        if config.train.estimator.kind == "autodiff" and config.train.tasks % (devices or 1):
            raise typer.BadParameter(f"{devices} devices do not divide the {config.train.tasks} tasks (train.tasks)")
        if resume is None:
            beside = {"env.json": files.strict_json({"argv": sys.argv, "devices_used": devices})}
            if config.train.init_from is not None:
                beside[trained.START] = trained.read(config.train.init_from).artefact.read_bytes()
            run = rundir.create(ROOT, config.name, configs.dump(config), path=run_dir, beside=beside)
        else:
            run.lock()
            if run.read_status()["state"] == "done":
                print(f"{run.path} is done already", file=sys.stderr)
                return _show(run.path)
        print(f"run directory: {run.path}", file=sys.stderr, flush=True)
        from l2lcli.commands import train

        train.train(run, config, devices, sys.argv, flag)
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
    steps: Annotated[
        int | None, typer.Option(metavar="T", help="Optimizee steps (few-shot: updates), but for variants that say their own.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="S", help="Optimizees (few-shot: episodes) that all are reported on.")
    ] = None,
    variants: Annotated[
        bool, typer.Option("--variants/--no-variants", help="Evaluate on the config's eval.variants, too; the default.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON, and no table.")] = False,
) -> None:
    """Compare a trained optimizer with tuned baselines; written to eval/ inside its run."""
    from l2lcli import config as configs
    from l2lcli import signals

    names = None if baseline is None else [part.strip() for part in baseline.split(",") if part.strip()]
    options = {"eval.steps": steps, "eval.seeds": seeds, "eval.baselines": names}
    options |= {"eval.updates": steps, "eval.episodes": seeds}  # what counts on few-shot problems
    changes = {key: value for key, value in options.items() if value is not None}
    with signals.listening() as flag:
        config = None if path is None else configs.load(path, overrides)
        found = _trained(name, needed=config is None)
        if config is None:
            config = configs.override(found.config, changes, overrides)
        else:
            family = {} if found is None else {"optimizer": found.config.optimizer.model_dump(mode="json")}
            config = configs.override(config, family | changes)
        config = config if variants else configs.alone(config)
        if found is None and not config.eval.baselines:
            raise typer.BadParameter("nothing to evaluate: no trained optimizer and no baselines")
        from l2lcli.commands import evaluate

        folder = evaluate.evaluate(config, found, sys.argv, flag)
    if as_json:
        return print((folder / "summary.json").read_text(encoding="utf-8"), end="")
    _show(folder)


@app.command()
def report(
    runs: Annotated[list[Path] | None, typer.Argument(metavar="RUN...", help="Run directories; default the newest.")] = None,
    out: Annotated[Path, typer.Option(help="Page for a comparison of several runs.")] = Path("compare.html"),
    save_reference: Annotated[
        bool, typer.Option("--save-reference", help="Keep each RUN's result, under 1 MB, in runs/reference/<name>/ instead.")
    ] = False,
    figures: Annotated[bool, typer.Option("--figures", help="Draw each RUN's PNG figures again instead, and no page.")] = False,
    claims: Annotated[
        Path | None, typer.Option(metavar="LIST", help="Print the table of a list of claims (YAML) from the results beside it.")
    ] = None,
) -> None:
    """Draw a run's figures and write its report again; of several runs, write one page that compares them."""
    from l2lcli.reports import claims as lists
    from l2lcli.reports import comparison
    from l2lcli.reports import page as reports
    from l2lcli.runs import files, rundir

    if claims is not None:
        if runs or save_reference or figures:
            raise typer.BadParameter("--claims reads the results that its list names: no RUN, --save-reference or --figures")
        return print(lists.markdown(lists.table(claims)))
    if save_reference and figures:
        raise typer.BadParameter("--save-reference draws the figures itself: no --figures")
    folders = runs or [rundir.newest(ROOT)]
    for folder in folders:
        if not folder.is_dir():
            raise files.RunError(f"{folder}: no such run directory")
    for folder in folders if save_reference or figures else ():
        if save_reference:
            from l2lcli.reports import reference

            print(reference.save(folder, ROOT / "reference"))
        else:
            print(*reports.redraw(folder), sep="\n")
    if not (save_reference or figures):
        print(reports.write(folders[0]) if len(folders) == 1 else comparison.write(folders, out))


@app.command("list")
def list_names(family: Annotated[str, typer.Argument(metavar="problems|optimizers|estimators|datasets")]) -> None:
    """List what a config can name."""
    from l2lcli import registry

    families = {"problems": registry.problem, "optimizers": registry.optimizer, "estimators": registry.estimator}
    if family == "datasets":
        from l2lcli.data import loader

        entries = loader.describe()
    elif family in families:
        entries = [(name, (spec.__doc__ or "").strip().splitlines()[0]) for name, spec in families[family].specs().items()]
    else:
        raise typer.BadParameter(f"{family!r} is none of problems, optimizers, estimators, datasets")
    width = max(len(name) for name, _ in entries)
    for name, line in entries:
        print(f"{name:<{width}}  {line}")


def _reopen(name: str, config: Config | None) -> tuple[Run, Config]:
    """A run to go on with, and its config; ConfigError if `config`, where given, is another one."""
    from l2lcli import config as configs
    from l2lcli.runs import rundir

    root = ROOT if config is None else ROOT / config.name
    run = rundir.open_run(rundir.newest(root, finished=False) if name == NEWEST else Path(name))
    own = configs.load(run.path / "config.yaml")
    if config is not None and (differences := configs.diff(own, config)):
        lines = [f"{key}: {there!r} in the run {run.path}, {here!r} here" for key, there, here in differences]
        raise configs.ConfigError([*lines, "a run goes on under its own config: leave the file out, or start a new run"])
    return run, own


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


def _plan(config: Config) -> str:
    """What a training would do, as YAML comments."""
    spec, comparison = config.train, config.eval
    meta_steps = spec.meta_steps
    baselines = ", ".join(comparison.baselines) or "nothing"
    compared = f"compared over {comparison.steps} steps on {comparison.seeds} seeds with {baselines}, tuned on"
    if config.few_shot:
        compared = f"judged up to {comparison.updates} updates on {comparison.episodes} episodes beside {baselines}, chosen on"
    lines = [
        f"{spec.episodes} episodes of {spec.horizon} steps on {spec.tasks} tasks; a meta-step every {spec.estimator.window} "
        f"steps, {meta_steps} in all",
        f"validated every {spec.validate_every} episodes on {spec.validation_seeds} seeds",
        f"{compared} {comparison.tuning_seeds} other seeds",
    ]
    return "\n".join(f"# {line}" for line in lines)


def _show(folder: Path) -> None:
    """Print the result of a run or of an evaluation, and where it lies."""
    from l2lcli.reports import few_shot, tables

    summary = tables.read_summary(folder)
    if summary is not None:
        print((few_shot if summary.get("few_shot") else tables).table(summary))
    drawn = (folder / "report.html").is_file()
    print(f"\nreport: {folder / 'report.html'}" if drawn else f"\nresults: {folder} (no report yet: l2l report {folder})")
