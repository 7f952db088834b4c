"""The command `l2l export`: a trained optimizer as one file elsewhere, or as a folder for the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from l2lcli.commands.config import take_imports
from l2lcli.commands.options import Import
from l2lcli.commands.score import label

if TYPE_CHECKING:
    from l2lcli.evaluation.summary import Summary
    from l2lcli.runs.trained import Trained

SUFFIXES = {"npz": ".npz", "safetensors": ".safetensors", "hf": "-hf"}


def export(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="Run directory, optimizer file or shipped name; default the newest finished run."),
    ] = None,
    kind: Annotated[
        Literal["npz", "safetensors", "hf"],
        typer.Option(
            "--format", help="One file, one that other frameworks read, or a folder as the Hugging Face Hub has them."
        ),
    ] = "npz",
    to: Annotated[
        Path | None, typer.Option(metavar="PATH", help="File or folder to write; default one named after it, here.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there; a folder's other files stay.")] = False,
    imports: Import = [],  # noqa: B006
) -> None:
    """Write a trained optimizer elsewhere: as .npz, as .safetensors, or as a folder with a model card."""
    from l2lcli.runs import safetensors, trained
    from l2lcli.runs.files import RunError, making, replacing

    take_imports(imports)
    found = trained.read(name)
    called = _called(name, found)
    target = to or Path(f"{called}{SUFFIXES[kind]}")
    if target.exists() and not force:
        raise RunError(f"{target} is there already: nothing was written (--force replaces it)")
    if kind != "hf":
        content = found.npz() if kind == "npz" else safetensors.packed(found.phi, found.meta)
        with replacing(target) as file:
            file.write(content)
        return print(target)
    files = _folder(called, found)
    if target.exists():
        _fill(target, files)
    else:
        with making(target) as folder:
            _fill(folder, files)
    print(target)


def _called(name: str | None, found: Trained) -> str:
    """What it is called: after its experiment, or as it was named."""
    if name is None or Path(name).is_dir():
        return str(found.record.get("name") or "optimizer").replace("/", "-")
    return label(name, found)


def _folder(called: str, found: Trained) -> dict[str, bytes]:
    """The files of a folder for the Hub, by name."""
    import importlib.metadata

    from l2lcli.reports import card
    from l2lcli.runs import safetensors, scores, trained
    from l2lcli.runs.artefact import FORMAT
    from l2lcli.runs.files import strict_json

    text = card.card(called, found, scores.of(found), _summary(found))
    public = found._replace(record=_without_paths(found.record))
    about = {
        "library_name": card.LIBRARY,
        "library_version": importlib.metadata.version(card.LIBRARY),
        "model_type": found.optimizer.kind,
        "format": FORMAT,
        "optimizer": found.optimizer.model_dump(mode="json"),
        **public.meta,
    }
    model = safetensors.packed(public.phi, public.meta)
    return {"README.md": text.encode(), "config.json": strict_json(about), trained.MODEL: model}


def _summary(found: Trained) -> Summary | None:
    """What was found on its own problem: of a run, or of the reference result that a shipped optimizer is from."""
    from l2lcli.reports.tables import read_summary
    from l2lcli.runs import trained

    folders = [found.artefact.parent] if found.artefact.name == trained.NAME else []
    if found.artefact.parent == trained.SHIPPED:
        folders = [trained.SOURCES / "reference" / found.artefact.stem]
    return next((summary for folder in folders if (summary := read_summary(folder))), None)


def _without_paths(record: dict[str, Any]) -> dict[str, Any]:
    """The config of a run as others may see it: where data lay on this machine is left out."""
    data = record.get("data")
    return record | {"data": data | {"raw_dir": None}} if isinstance(data, dict) and "raw_dir" in data else record


def _fill(folder: Path, files: dict[str, bytes]) -> None:
    from l2lcli.runs.files import replacing

    for name, content in files.items():
        with replacing(folder / name) as file:
            file.write(content)
