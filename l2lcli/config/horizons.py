"""What only a config's horizons, its window and its weights together show to be wrong."""

from __future__ import annotations

from collections.abc import Iterator

from l2lcli.config.faults import Finding
from l2lcli.config.specs import Config


def drawn_horizons(config: Config, window: int) -> Iterator[Finding]:
    """Of `train.horizons`."""
    spec, at = config.train.horizons, ("train", "horizons")
    if spec is not None and spec.shortest is not None and (spec.shortest % window or spec.shortest > config.train.horizon):
        message = f"{spec.shortest} is not a multiple of the window {window} up to the horizon {config.train.horizon}"
        yield Finding((*at, "shortest"), message, (("train", "estimator", "window"), ("train", "horizon")))
    if config.train.weights == "last" or isinstance(config.train.weights, list):
        yield Finding(
            ("train", "weights"), "tasks with horizons of their own have no common steps: all, window, or {last: share}", (at,)
        )
    if config.few_shot:
        yield Finding(at, "not for few-shot problems, whose episodes are as long as their number of updates")


def curriculum(config: Config, horizons: list[int], window: int) -> Iterator[Finding]:
    """Of `train.curriculum`, whose horizons these are."""
    train, at = config.train, ("train", "curriculum")
    if horizons != sorted(set(horizons)) or horizons[-1] != train.horizon:
        message = f"its horizons must become longer, and end with train.horizon, {train.horizon}"
        yield Finding(at, message, (("train", "horizon"),))
    elif wrong := [each for each in horizons if each % window]:
        yield Finding(at, f"{wrong[0]} is not a multiple of the window {window}", (("train", "estimator", "window"),))
    if train.patience is None:
        yield Finding(at, "needs train.patience, the validations without improvement after which it goes on")
    if train.horizons is not None:
        yield Finding(
            at, "not together with train.horizons, which gives each task a horizon of its own", (("train", "horizons"),)
        )
    if train.weights == "last" or isinstance(train.weights, list):
        yield Finding(
            ("train", "weights"), "a curriculum's horizons have no common steps: all, window, or {last: share}", (at,)
        )
    if config.few_shot or config.problem.kind == "mixture":
        yield Finding(at, "not for few-shot problems or mixtures, which have horizons of their own")


def listed_weights(weights: list[float], horizon: int, window: int) -> Iterator[Finding]:
    """Of `train.weights` that are a list."""
    at = ("train", "weights")
    if len(weights) != horizon:
        yield Finding(at, f"{len(weights)} weights for the {horizon} steps of the horizon")
    elif empty := [start for start in range(0, horizon, window) if not any(weights[start : start + window])]:
        yield Finding(at, f"no step of the window from {empty[0] + 1} to {empty[0] + window} has a weight")
