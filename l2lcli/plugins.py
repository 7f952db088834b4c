"""Problems, optimizers, estimators, data sets and sinks of one's own: files and modules that register them, and entry points.

A config names them under `imports:`, a command after `--import`; an installed package names its modules under the entry
point groups in `GROUPS`. Whatever is wrong with one is one `PluginError`, whose text begins with the file and the line.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import traceback
import types
from pathlib import Path
from typing import NamedTuple

GROUPS = ("l2l.problems", "l2l.optimizers", "l2l.estimators", "l2l.datasets", "l2l.sinks")
WHOLE = "an imported file must be whole in itself; what it shares with others belongs in a package, and that is named instead"
NOTHING = "no @l2lcli.register.problem(…), .optimizer, .estimator, .dataset or .sink"

registered: list[str] = []  # "problem 'quadratic'", in the order in which they came


class RegistrationError(ValueError):
    """Something cannot be registered as it is; the text says why, and the traceback where."""


class PluginError(ValueError):
    """A file, module or entry point that cannot be imported, in one line."""


class Imported(NamedTuple):
    """A file or module that was imported.

    Attributes:
      name: as it was named: a path, or a dotted name.
      path: the file that was run; None of a module that has none.
      sha256: of that file; "" without one.
    """

    name: str
    path: Path | None
    sha256: str


def is_file(name: str) -> bool:
    """Whether an import is a file's name, and not a module's."""
    return name.endswith(".py") or os.sep in name


def take(name: str) -> Imported:
    """Import a file (`./mylogreg.py`) or a module (`mypackage.problems`) once. Raises PluginError."""
    return take_file(Path(name)) if is_file(name) else take_module(name)


def take_file(path: str | os.PathLike[str]) -> Imported:
    """Run a Python file as a module of its own, unless one of the same content was run before. Raises PluginError.

    The file's folder is not put on the path: a run keeps a copy of the file alone, and goes on with that.
    """
    path = Path(path)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise PluginError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    sha256 = hashlib.sha256(source).hexdigest()
    # A module is called after the place of its file, not after its content: a file that was edited and is imported again takes
    # the place of what it was; and a copy of what it was, that of a run, takes its place again.
    place = hashlib.sha256(os.path.realpath(path).encode()).hexdigest()[:8]
    name = _names.get(sha256) or "_".join(["l2l", re.sub(r"\W", "_", path.stem), place])
    if _current.get(name) != sha256:
        module = types.ModuleType(name)
        module.__file__ = str(path)
        before = len(registered)
        sys.modules[name] = module
        _current.pop(name, None)  # whatever comes of this, what was there is no longer all that is registered
        try:
            exec(compile(source, str(path), "exec"), module.__dict__)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise PluginError(f"{_place(path, error)}: {_reason(path, error)}") from error
        if len(registered) == before:
            raise PluginError(f"{path}: registers nothing: {NOTHING}")
        _current[name] = sha256
        _names[sha256] = name
    return Imported(str(path), path, sha256)


def take_module(name: str) -> Imported:
    """Import a module by its dotted name. Raises PluginError."""
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise PluginError(f"no module named {error.name!r} is installed (a file is named with its .py)") from None
        path = _origin(name) or Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if isinstance(error, SyntaxError) and error.filename:
            path = Path(error.filename)
        raise PluginError(f"{_place(path, error)}: {_reason(path, error)}") from error
    file = getattr(module, "__file__", None)
    path = Path(file) if file and Path(file).is_file() else None
    return Imported(name, path, "" if path is None else hashlib.sha256(path.read_bytes()).hexdigest())


@functools.cache
def take_entry_points(group: str) -> None:
    """Import the modules that installed packages name under an entry point group. Raises PluginError at a broken one."""
    for point in importlib.metadata.entry_points(group=group):
        try:
            take_module(point.value.partition(":")[0])
        except PluginError as error:
            package = point.dist.name if point.dist else "an installed package"
            raise PluginError(f"entry point {point.name!r} of {package} ({group}): {error}") from None


_names: dict[str, str] = {}  # sha256 of a file that was run -> its module
_current: dict[str, str] = {}  # module -> sha256 of the file that it was last made of


def _origin(name: str) -> Path | None:
    """The file of a module that could not be imported."""
    try:
        spec = importlib.util.find_spec(name)
    except Exception:  # what is above it cannot be imported, either
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def _place(path: Path, error: BaseException) -> str:
    """`file:line` of what went wrong, as deep as the traceback is in that file."""
    if isinstance(error, SyntaxError) and error.filename == str(path) and error.lineno:
        return f"{path}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _reason(path: Path, error: BaseException) -> str:
    said = " ".join(str(getattr(error, "msg", None) or error).split())
    if isinstance(error, RegistrationError | SyntaxError):
        return said
    if isinstance(error, SystemExit):
        return f"ends the program (SystemExit: {said})"
    beside = path.parent / f"{(error.name or '').partition('.')[0]}.py" if isinstance(error, ModuleNotFoundError) else None
    hint = f"; {WHOLE}" if beside is not None and beside.is_file() else ""
    return f"{type(error).__name__}: {said}{hint}"
