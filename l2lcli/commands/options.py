"""Options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a config value: train.horizon=200.")]
Import = Annotated[
    list[str], typer.Option("--import", metavar="FILE", help="Import a Python file, or a module, that registers something.")
]
EqualTime = Annotated[
    bool, typer.Option("--equal-time", help="Also give every baseline as many steps as fit into the learned optimizer's time.")
]
