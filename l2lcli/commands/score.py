"""The command `l2l score`: options, and what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from l2lcli.commands.config import take_imports
from l2lcli.commands.options import Coordinator, Distributed, EqualTime, Import, NumProcesses, PeerTimeout, ProcessId

if TYPE_CHECKING:
    from l2lcli.runs.trained import Trained


def score(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[OPTIMIZER]", help="Run directory, optimizer file or shipped name; default the newest run."),
    ] = None,
    suite: Annotated[Path, typer.Option(metavar="DIR", help="Folder of experiment files, a problem each.")] = Path(
        "configs/suite"
    ),
    baselines: Annotated[bool, typer.Option("--baselines", help="Tune and keep the suite's baselines alone.")] = False,
    equal_time: EqualTime = False,
    imports: Import = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print the score as JSON, and no lines.")] = False,
    coordinator: Coordinator = None,
    number: NumProcesses = None,
    process: ProcessId = None,
    distributed: Distributed = False,
    peer_timeout: PeerTimeout = 30.0,
) -> None:
    """Score a trained optimizer on a suite of problems against tuned baselines; written to runs/scores/."""
    from l2lcli import processes, signals
    from l2lcli.commands import joining
    from l2lcli.runs import scores, trained

    joining.join(joining.group(coordinator, number, process, distributed, None, peer_timeout))
    with signals.listening() as flag:
        joining.listen(flag)
        take_imports(imports)
        problems = scores.suite(suite)
        found = None if baselines else trained.read(name)
        called = "" if found is None else label(name, found)
        from l2lcli.commands import scoring

        say = print if processes.first() and not as_json else lambda line: None
        folder = scoring.score(found, called, problems, say, flag, equal_time)
    if folder is None or not processes.first():
        return
    if as_json:
        return print((folder / "score.json").read_text(encoding="utf-8"), end="")
    from l2lcli.reports import score as reports
    from l2lcli.runs.files import read_json

    print(f"\n{reports.verdict(read_json(folder / 'score.json') or {})}\n\nreport: {folder / 'report.html'}")


def label(name: str | None, found: Trained) -> str:
    """What it is called: a shipped optimizer's name, the experiment's and the run's, a file's without its ending."""
    if found.run is not None:
        return "-".join(found.run.path.absolute().parts[-2:])
    if found.artefact == Path(name or ""):
        return found.artefact.stem
    return (name or "optimizer").strip("/").replace("/", "-")
