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


def _fail(code: int, *lines: str) -> int:
    for line in lines:
        print(line, file=sys.stderr)
    return code


def main() -> None:
    """The command `l2l`: runs one command and ends the process with its exit code."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(args=_bare_resume(arguments), prog_name="l2l")
    except Exception as error:
        if "--debug" in sys.argv[1:]:
            traceback.print_exc()
        sys.exit(_exit_code(error))


def _exit_code(error: Exception) -> int:
    """Say what went wrong; the exit code for it."""
    from l2lcli.config import ConfigError
    from l2lcli.data.source import DataError
    from l2lcli.plugins import PluginError
    from l2lcli.runs.files import RunError, one_line
    from l2lcli.signals import Ending

    if isinstance(error, ConfigError):
        return _fail(2, *error.faults)
    if isinstance(error, PluginError):
        return _fail(2, str(error))
    if isinstance(error, Ending):
        return _fail(error.exit_code, f"l2l: {error}")
    if isinstance(error, RunError | DataError):
        return _fail(1, f"l2l: {error}")
    return _fail(1, f"l2l: {type(error).__name__}: {one_line(error)} (--debug shows the traceback)")


if __name__ == "__main__":
    main()
