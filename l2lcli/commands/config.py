"""The commands `l2l config …`: look at experiment files. They load no JAX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from l2lcli.commands.options import Set

app = typer.Typer(help="Look at experiment files.", no_args_is_help=True, rich_markup_mode=None)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="Experiment file (YAML).", show_default=False)]


@app.command()
def show(
    path: ConfigFile,
    overrides: Set = [],  # noqa: B006
    origin: Annotated[bool, typer.Option("--origin", help="Say for each value where it was set.")] = False,
) -> None:
    """Print the complete config: what the file says, and the defaults for the rest."""
    from l2lcli import config as configs

    if not origin:
        return print(configs.dump(configs.load(path, overrides)), end="")
    values = configs.values(configs.load(path, overrides))
    for key, place in configs.provenance(path, overrides).items():
        print(f"{key}: {json.dumps(values[key], ensure_ascii=False)}  # {place}")


def take_imports(names: list[str]) -> None:
    """Import what `--import` names. Raises ConfigError."""
    from l2lcli import plugins
    from l2lcli.config import ConfigError

    faults = []
    for name in names:
        try:
            plugins.take(name)
        except plugins.PluginError as error:
            faults.append(f"--import: {error}")
    if faults:
        raise ConfigError(faults)


@app.command()
def schema(
    imports: Annotated[
        list[str], typer.Option("--import", metavar="FILE", help="Import a Python file, or a module, that registers something.")
    ] = [],  # noqa: B006
) -> None:
    """Print the JSON schema of experiment files, for editors."""
    from l2lcli import config as configs

    take_imports(imports)
    print(json.dumps(configs.schema(), indent=2))


@app.command()
def validate(paths: Annotated[list[Path], typer.Argument(metavar="CONFIG...", show_default=False)]) -> None:
    """Check experiment files; every fault is a line."""
    from l2lcli import config as configs

    faults = []
    for path in paths:
        try:
            configs.load(path)
            print(f"{path}: ok")
        except configs.ConfigError as error:
            faults += error.faults
    if faults:
        raise configs.ConfigError(faults)


@app.command()
def diff(a: ConfigFile, b: Annotated[Path, typer.Argument(metavar="OTHER", show_default=False)]) -> None:
    """Print the values in which two experiment files differ, defaults included."""
    from l2lcli import config as configs

    for key, here, there in configs.diff(configs.load(a), configs.load(b)):
        print(f"{key}: {here!r} | {there!r}")
