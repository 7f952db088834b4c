"""The command `l2l list`: what a config can name."""

from __future__ import annotations

from typing import Annotated

import typer

from l2lcli.commands.config import take_imports
from l2lcli.commands.options import Import


def list_names(
    family: Annotated[str, typer.Argument(metavar="problems|optimizers|estimators|datasets|sinks")],
    imports: Import = [],  # noqa: B006
) -> None:
    """List what a config can name."""
    from l2lcli import registry

    take_imports(imports)
    families = {"problems": registry.problem, "optimizers": registry.optimizer, "estimators": registry.estimator}
    if family == "datasets":
        from l2lcli.data import loader

        entries = loader.describe()
    elif family == "sinks":
        from l2lcli.sinks import source

        entries = source.describe()
    elif family in families:
        specs = families[family].specs().items()
        entries = [(name, ((spec.__doc__ or "").strip().splitlines() or [""])[0]) for name, spec in specs]
    else:
        raise typer.BadParameter(f"{family!r} is none of problems, optimizers, estimators, datasets, sinks")
    width = max(len(name) for name, _ in entries)
    for name, line in entries:
        print(f"{name:<{width}}  {line}".rstrip())
