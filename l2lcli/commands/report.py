"""The command `l2l report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ROOT = Path("runs")


def report(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN...", help="Run directories, or a sweep; default the newest run.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Page for a comparison of several runs; its figures are files in a folder beside it, too.")
    ] = Path("compare.html"),
    save_reference: Annotated[
        bool, typer.Option("--save-reference", help="Keep each RUN's result, under 1 MB, in runs/reference/<name>/ instead.")
    ] = False,
    figures: Annotated[bool, typer.Option("--figures", help="Draw each RUN's PNG figures again instead, and no page.")] = False,
    claims: Annotated[
        Path | None, typer.Option(metavar="LIST", help="Print the table of a list of claims (YAML) from the results beside it.")
    ] = None,
) -> None:
    """Draw the figures of a run, or of a sweep, and write its report again; of several runs, one page that compares them."""
    from l2lcli.reports import claims as lists
    from l2lcli.reports import comparison
    from l2lcli.reports import page as reports
    from l2lcli.reports import sweep as sweep_reports
    from l2lcli.runs import files, rundir, sweeps

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
    if any(map(sweeps.is_sweep, folders)) and not (save_reference or figures):
        if len(folders) > 1:
            raise typer.BadParameter("a sweep has a report of its own: name it alone, or name its points")
        print(sweep_reports.text(sweeps.read(folders[0])))
        return print(f"\nreport: {sweep_reports.write(folders[0])}")
    folders = [each for folder in folders for each in sweeps.done(folder)]
    for folder in folders if save_reference or figures else ():
        from l2lcli.reports import reference, score

        scored = (folder / "score.json").is_file()
        if save_reference:
            print((score.keep if scored else reference.save)(folder, ROOT / "reference"))
        else:
            print(*(score.redraw if scored else reports.redraw)(folder), sep="\n")
    if not (save_reference or figures):
        print(reports.write(folders[0]) if len(folders) == 1 else comparison.write(folders, out))
