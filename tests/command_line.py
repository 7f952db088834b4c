"""The command `l2l`, in this process or in one of its own, and a config that takes seconds."""

import contextlib
import io
import os
import sys
from pathlib import Path
from unittest import mock

from l2lcli.__main__ import main

CONFIG = """
name: small
problem: {kind: quadratic, dimension: 3}
optimizer: {kind: lstm, layers: 1, hidden: 2, preprocess: {kind: identity}}
train:
  episodes: 4
  tasks: 2
  horizon: 10
  estimator: {kind: auto, window: 5}
  validate_every: 2
  validation_seeds: 2
eval: {steps: 10, seeds: 3, tuning_seeds: 2, baselines: [sgd]}
"""


QUIET = ["--set", "eval.report=false"]


def command(*arguments):
    """The words of a process of its own: for what is killed, and for what is imported."""
    return [sys.executable, "-W", "error", "-m", "l2lcli", *map(str, arguments)]


def l2l(folder, *arguments, code=0, **environment):
    """Run one command as if in `folder`; its stdout and stderr. It must end with that exit code, and never with a traceback.

    In this process, where JAX is there already: what a command needs beyond that is its own.
    """
    out, err, words = io.StringIO(), io.StringIO(), ["l2l", *map(str, arguments)]
    with (
        contextlib.chdir(Path(folder)), mock.patch.dict(os.environ, environment), mock.patch.object(sys, "argv", words),
        contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
    ):  # fmt: skip
        try:
            main()
            ended = 0
        except SystemExit as end:
            ended = end.code or 0
    assert ended == code, err.getvalue()
    assert "Traceback" not in err.getvalue() or "--debug" in arguments
    return out.getvalue(), err.getvalue()
