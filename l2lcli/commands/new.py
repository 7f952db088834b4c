"""The command `l2l new`: a problem or an optimizer of one's own, to be filled in, with its test and its config."""

from __future__ import annotations

import importlib.util
import keyword
from pathlib import Path
from typing import Annotated, Literal

import typer

TEMPLATES = Path(__file__).parent / "templates"


def new(
    family: Annotated[Literal["problem", "optimizer"], typer.Argument(metavar="problem|optimizer")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Small letters, digits and underscores.", show_default=False)],
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where to write; default here.")] = Path("."),
) -> None:
    """Write a commented file of your own, with a test and a config that works as it is."""
    from l2lcli import registry
    from l2lcli.runs.files import RunError, faults, replacing

    if not registry.NAME.fullmatch(name):
        raise typer.BadParameter(f"{name!r} is no name: small letters, digits and underscores, a letter first")
    if keyword.iskeyword(name) or importlib.util.find_spec(name) is not None:
        raise typer.BadParameter(f"{name!r} is a word of Python's own, or a module that the file would hide")
    known = {"problem": registry.problem, "optimizer": registry.optimizer}[family].specs()
    if name in known:
        raise typer.BadParameter(
            f"there is {'an' if family == 'optimizer' else 'a'} {family} called {name!r} already (l2l list {family}s)"
        )
    files = {f"{name}.py": f"{family}.py", f"test_{name}.py": f"test_{family}.py", f"{name}.yaml": f"{family}.yaml"}
    if there := [file for file in files if (folder / file).exists()]:
        raise RunError(f"{folder / there[0]} is there already: nothing was written")
    words = {"NAME": name, "SPEC": "".join(part.capitalize() for part in name.split("_")) + "Spec"}
    with faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for file, template in files.items():
        text = (TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")
        for word, value in words.items():
            text = text.replace(f"%{word}%", value)
        with replacing(folder / file) as stream:
            stream.write(text.encode())
        print(folder / file)
    print(f"\ntry it: l2l train {folder / f'{name}.yaml'}, and pytest {folder / f'test_{name}.py'}")
