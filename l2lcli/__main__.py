"""The process: the command `l2l`, also `python -m l2lcli`. Its arguments before Typer sees them, its errors, its exit code."""

from __future__ import annotations

import sys
import traceback

from l2lcli.commands.app import NEWEST, app


def _bare_resume(arguments: list[str]) -> list[str]:
    """`--resume` may stand without a RUN, which Typer's options cannot: before an option, a config file, or the end."""
    out = []
    for i, argument in enumerate(arguments):
        after = arguments[i + 1] if i + 1 < len(arguments) else "-"
        bare = argument == "--resume" and (after.startswith("-") or after.endswith((".yaml", ".yml")))
        out.append(f"--resume={NEWEST}" if bare else argument)
    return out


def main() -> None:
    """The command `l2l`: runs one command and ends the process with its exit code."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    code, lines, error = 0, [], None
    try:
        app(args=_bare_resume(arguments), prog_name="l2l")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as raised:
        if "--debug" in sys.argv[1:]:
            traceback.print_exc()
        code, lines = _said(error := raised)
    if (joining := sys.modules.get("l2lcli.commands.joining")) is not None:
        joining.over(code, lines, error)
    for line in lines:
        print(line, file=sys.stderr)
    sys.exit(code)


def _said(error: Exception) -> tuple[int, list[str]]:
    """The exit code for what went wrong, and the lines that say it."""
    from l2lcli.config import ConfigError
    from l2lcli.data.source import DataError
    from l2lcli.plugins import PluginError
    from l2lcli.runs.files import RunError, one_line
    from l2lcli.signals import Ending

    if isinstance(error, ConfigError):
        return 2, error.faults
    if isinstance(error, PluginError):
        return 2, [str(error)]
    if isinstance(error, Ending):
        return error.exit_code, [f"l2l: {error}"]
    if isinstance(error, RunError | DataError):
        return 1, [f"l2l: {error}"]
    return 1, [f"l2l: {type(error).__name__}: {one_line(error)} (--debug shows the traceback)"]


if __name__ == "__main__":
    main()
