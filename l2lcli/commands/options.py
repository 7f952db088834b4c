"""Options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a config value: train.horizon=200.")]
Import = Annotated[
    list[str], typer.Option("--import", metavar="FILE", help="Import a Python file, or a module, that registers something.")
]
Coordinator = Annotated[
    str | None,
    typer.Option("--coordinator", metavar="HOST:PORT", help="This is one of several processes: where process 0 is reached."),
]
NumProcesses = Annotated[int | None, typer.Option("--num-processes", metavar="P", min=1, help="How many processes there are.")]
ProcessId = Annotated[int | None, typer.Option("--process-id", metavar="I", min=0, help="Which of them this one is, from 0.")]
Distributed = Annotated[bool, typer.Option("--distributed", help="All of that as Slurm, Open MPI or Kubernetes says it.")]
PeerTimeout = Annotated[
    float,
    typer.Option("--peer-timeout", metavar="SECONDS", min=2, help="A process without a sign of life for so long ends the run."),
]
EqualTime = Annotated[
    bool, typer.Option("--equal-time", help="Also give every baseline as many steps as fit into the learned optimizer's time.")
]
