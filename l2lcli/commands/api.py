"""`l2lcli.train` and `l2lcli.evaluate`: what the commands do, from Python, in a script or a notebook."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from l2lcli import config as configs
from l2lcli import plugins, signals
from l2lcli.commands.begin import Begun, begin, reopen
from l2lcli.config import Config
from l2lcli.evaluation.summary import Summary
from l2lcli.reports import tables
from l2lcli.reports.text import result_table
from l2lcli.runs import rundir, trained
from l2lcli.runs.files import RunError
from l2lcli.runs.trained import Trained


class Result(NamedTuple):
    """What a training or an evaluation left.

    Attributes:
      path: its folder; `l2lcli.load(path)` is a training's optimizer, `path / "report.html"` the report.
      summary: what was found there, as `summary.json` says it. `print(result)` is the commands' table.
    """

    path: Path
    summary: Summary

    def __str__(self) -> str:
        """The table that the commands print."""
        return result_table(self.summary)


def train(
    config: str | os.PathLike[str] | Mapping[str, Any] | Config | None = None,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    devices: int | None = None,
) -> Result:
    """Meta-train an optimizer into a run directory, and compare it with tuned baselines, as `l2l train` does.

    Args:
      config: an experiment file, or what one would say as a mapping; what is left out takes its default.
      run_dir: the run's folder; default runs/<name>/<time> below the working directory.
      resume: go on with this run instead; without `config`.
      overrides: `--set`'s `a.b=value`.
      devices: over how many devices the tasks are split; default as many as divide them.

    Raises ConfigError, RunError, DataError, Diverged. An interrupt leaves a run that can be gone on with, and is raised as
    KeyboardInterrupt.
    """
    argv = ["l2lcli.train"]
    if (config is None) == (resume is None):
        raise TypeError("train takes a config, or resume=RUN")
    with signals.listening() as flag:
        if resume is not None:
            begun = reopen(rundir.open_run(Path(resume)), _warn)
            begun.run.lock()
        else:
            begun = begin(_config(config, overrides), None if run_dir is None else Path(run_dir), devices, argv)
        return _trained(begun, devices, argv, flag)


def _trained(begun: Begun, devices: int | None, argv: list[str], flag: signals.Signals) -> Result:
    from l2lcli.commands import train as training

    with begun.run as run:
        if run.read_status()["state"] != "done":
            try:
                training.train(run, begun.config, devices or begun.devices, argv, flag)
            except signals.Stopped as stopped:
                raise KeyboardInterrupt(f"go on with: l2lcli.train(resume={str(run.path)!r})") from stopped
        return _result(run.path)


def evaluate(
    run: str | os.PathLike[str] | None = None,
    *,
    config: str | os.PathLike[str] | Mapping[str, Any] | Config | None = None,
    baselines: Sequence[str] | None = None,
    steps: int | None = None,
    seeds: int | None = None,
    overrides: Sequence[str] = (),
    variants: bool = True,
    equal_time: bool = False,
) -> Result:
    """Compare a trained optimizer with tuned baselines, as `l2l eval` does.

    Args:
      run: a run directory, an optimizer file or a shipped name; None is the newest finished run, or, with `config`, nothing:
        the baselines alone.
      config: evaluate on this experiment; default that of the run.
      baselines: their names; default those of the config.
      steps: T.
      seeds: S.
      overrides: `--set`'s `a.b=value`.
      variants: evaluate on the config's variants, too.
      equal_time: also give every baseline as many steps as fit into the learned optimizer's time.

    Raises ConfigError, RunError, DataError; KeyboardInterrupt, after which nothing is left.
    """
    found = None if run is None and config is not None else trained.read(None if run is None else Path(run))
    settled = settle(
        found, None if config is None else _config(config, ()), baselines, steps, seeds, overrides, variants, equal_time
    )
    from l2lcli.commands import evaluate as evaluating

    with signals.listening() as flag:
        try:
            return _result(evaluating.evaluate(settled, found, ["l2lcli.evaluate"], flag))
        except signals.Stopped as stopped:
            raise KeyboardInterrupt from stopped


def settle(
    found: Trained | None,
    config: Config | None,
    baselines: Sequence[str] | None,
    steps: int | None,
    seeds: int | None,
    overrides: Sequence[str],
    variants: bool,
    equal_time: bool,
) -> Config:
    """The config of an evaluation: that of the optimizer or another one, under what the caller says. Raises ConfigError."""
    options = {"eval.baselines": None if baselines is None else list(baselines), "eval.equal_time": equal_time or None}
    changes = _said(options)
    if config is None:
        if found is None:
            raise RunError("nothing to evaluate: no trained optimizer and no config")
        config = found.config(_warn)
        config = config.model_copy(update={"imports": _found(found, config)})
    elif found is not None:
        changes |= {"optimizer": found.optimizer.model_dump(mode="json"), **_trained_by(found, config)}
    config = configs.override(config, changes, overrides)
    length = ("eval.updates", "eval.episodes") if config.few_shot else ("eval.steps", "eval.seeds")
    config = configs.override(config, _said(dict(zip(length, (steps, seeds), strict=True))))
    return config if variants else configs.alone(config)


def _trained_by(found: Trained, config: Config) -> dict[str, Any]:
    """The `train` section that an optimizer was trained by, since another experiment's need not fit it; {} where unknown."""
    try:
        train = found.config(lambda line: None).train.model_dump(mode="json")
    except RunError:  # of a problem that is not at hand, and need not be
        return {}
    return {"train": train | ({"imitation": None} if config.few_shot else {})}


def _said(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _config(config: str | os.PathLike[str] | Mapping[str, Any] | Config | None, overrides: Sequence[str]) -> Config:
    if isinstance(config, Config):
        return configs.override(config, {}, overrides)
    if config is None:
        raise TypeError("a config is needed: a file's name or a mapping")
    return configs.load(config, overrides)


def _found(found: Trained, config: Config) -> list[str]:
    """What a trained optimizer's config imports, from here: a run's files are its own copies, others' are not kept."""
    kept = [name for name in config.imports if found.run is not None or not plugins.is_file(name)]
    return [str(found.run.path / name) if found.run and plugins.is_file(name) else name for name in kept]


def _result(folder: Path) -> Result:
    summary = tables.read_summary(folder)
    if summary is None:
        raise RunError(f"{folder}: has not been evaluated (no summary.json)")
    return Result(folder, summary)


def _warn(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
