"""The command `l2l` in a process of its own, and a config that takes seconds."""

import os
import subprocess
import sys

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
    return [sys.executable, "-W", "error", "-m", "l2lcli", *map(str, arguments)]


def l2l(folder, *arguments, code=0, **environment):
    """Run one command in `folder`; its stdout and stderr. It must end with that exit code, and never with a traceback."""
    done = subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr or "--debug" in arguments
    return done.stdout, done.stderr
