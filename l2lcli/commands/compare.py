"""From an experiment to what an evaluation found: the comparison on it and on its variants, and a look at the updates."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from l2lcli import processes
from l2lcli.evaluation import few_shot, gates
from l2lcli.evaluation.compare import Comparison, compare
from l2lcli.evaluation.curves import program
from l2lcli.evaluation.equal_time import PACE, Remember, at_once
from l2lcli.evaluation.inspection import Inspection, inspect
from l2lcli.evaluation.response import respond
from l2lcli.evaluation.summary import Part
from l2lcli.experiment import Experiment
from l2lcli.inner.unroll import namespace
from l2lcli.optimizers.hand import hand
from l2lcli.runs import remembered
from l2lcli.signals import UNWATCHED, Progress

BESIDE = ("adam", "sgd")  # whose updates are shown beside the learned ones, where they are among the baselines


class Evaluation(NamedTuple):
    """What an evaluation found.

    Attributes:
      comparisons: name -> comparison, first the experiment's own, then each variant's.
      inspection: what the learned optimizer's updates look like; None where there is none, or on few-shot problems.
      gates: rows of gates.csv; None where the learned optimizer has none.
    """

    comparisons: dict[str, Comparison]
    inspection: Inspection | None
    gates: list[tuple[Any, ...]] | None = None


def evaluate_experiment(
    experiment: Experiment,
    phi: Any | None,
    progress: Progress = UNWATCHED,
    kept: Mapping[str, Any] = {},
) -> Evaluation:
    """Compare phi, or nothing where it is None, with the baselines of the config's `eval` section, and look at its updates.

    Args:
      experiment: what to compare on, with the variants of its config.
      phi: parameters of its optimizer.
      progress: told what is being done, and asked every few seconds.
      kept: other parameters of its optimizer, by name, which are rows of the comparison but not judged.
    """
    config = experiment.config
    experiment = experiment.plain
    found = {config.name: _compare(experiment, phi, kept, progress)}
    for name, member in [*experiment.problem.members.items()][1:]:  # of a mixture, the first is the experiment's own
        found[name] = _compare(experiment._replace(problem=member.problem).plain, phi, kept, _Variant(name, progress))
    for name in config.eval.variants:
        found[name] = _compare(experiment.varied(name, phi).plain, phi, kept, _Variant(name, progress))
    if phi is None:
        return Evaluation(found, None)
    few = experiment.config.few_shot
    inspection = None if few else _inspect(experiment, phi, found[config.name].summary, progress)
    return Evaluation(found, inspection, _gates(experiment, phi, progress))


class _Variant(NamedTuple):
    """What is said of a variant is said with its name."""

    name: str
    progress: Progress

    def say(self, line: str) -> None:
        self.progress.say(f"{self.name}: {line}")

    def check(self) -> None:
        self.progress.check()


def _inspect(experiment: Experiment, phi: Any, summary: Part, progress: Progress) -> Inspection:
    progress.check()
    progress.say("recording updates")
    optimizers = {experiment.label: (experiment.optimizer, phi)}
    for name in BESIDE:
        entry = summary.optimizers.get(name)
        if entry is not None and (rate := entry.rate("final")):
            optimizers[name] = hand(name), {"log_learning_rate": jnp.float32(math.log(rate))}
    what = experiment.problem, optimizers, namespace(experiment.root, "inspection"), experiment.config.eval.steps
    found = inspect(*what)
    progress.check()
    late = {f"response/{name}": array for name, array in respond(*what).items()}
    return found._replace(arrays=found.arrays | late)


def _gates(experiment: Experiment, phi: Any, progress: Progress):
    if experiment.optimizer.gates is None:
        return None
    progress.check()
    progress.say("recording gates")
    spec, few = experiment.config.eval, experiment.config.few_shot
    steps, split = (spec.updates, "test") if few else (min(spec.steps, gates.STEPS), "train")
    key = namespace(experiment.root, "inspection")
    return gates.record(experiment.problem, experiment.optimizer, phi, key, steps, split)


def _compare(
    experiment: Experiment,
    phi: Any | None,
    kept: Mapping[str, Any],
    progress: Progress,
) -> Comparison:
    config, spec = experiment.config, experiment.config.eval
    learned = None if phi is None else (experiment.label, experiment.optimizer, phi)
    what = experiment.problem, config.name, learned, spec.baselines, experiment.root
    if config.few_shot:
        found = few_shot.compare(
            *what, updates=spec.updates, episodes=spec.episodes, tuning_seeds=spec.tuning_seeds,
            joint_steps=spec.joint_steps, kept=kept, progress=progress,
        )  # fmt: skip
        found = found._replace(summary=found.summary.model_copy(update={"test_episodes": _episodes(experiment)}))
    else:
        found = compare(
            *what,
            steps=spec.steps,
            seeds=spec.seeds,
            metrics_every=spec.metrics_every,
            kept=kept,
            equal_time=spec.equal_time,
            remember=_remembering(experiment, progress),
            tuning_seeds=spec.tuning_seeds,
            progress=progress,
        )
    subsets = [label for label in experiment.problem.provenance if "[" in label]
    if not subsets:
        return found
    label = f"{config.name} ({', '.join(subsets)})"
    return found._replace(summary=found.summary.model_copy(update={"label": label}))


def _episodes(experiment: Experiment) -> str:
    """A digest of all that decides what the test episodes are: results under one digest can be compared."""
    config = experiment.config
    drawn = [config.problem.model_dump(mode="json"), config.seed, config.eval.episodes, dict(experiment.problem.provenance)]
    return hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()[:16]


def _remembering(experiment: Experiment, progress: Progress) -> Remember:
    """What was measured before, by all that decides it, in the cache folder."""
    problem, config = experiment.problem, experiment.config
    if jax.tree.leaves(dict(problem.data)) and not problem.provenance:
        return at_once  # nothing says what its data are
    identity = {
        "problem": config.problem.model_dump(mode="json"),
        "program": hashlib.sha256(program(problem).encode()).hexdigest(),
        "minibatch": problem.minibatch,
        "data": dict(problem.provenance),
        "tuning_seeds": config.eval.tuning_seeds,
        "seed": config.seed,
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "optax")},
        "backend": [jax.default_backend(), jax.devices()[0].device_kind],
    }
    paced = {"optimizer": config.optimizer.model_dump(mode="json"), "baselines": config.eval.baselines}

    def remember(what: str, steps: int, find: Callable[[], dict[str, float]]) -> dict[str, float]:
        whole = {**identity, "steps": steps, "baseline": what, **(paced if what == PACE else {})}
        found = processes.shared(lambda: remembered.read(whole))
        if found is None:
            found = find()
            if processes.first():
                remembered.write(whole, found)
        else:
            measured = "times of a step as measured" if what == PACE else f"{what}: learning rates as tuned"
            progress.say(f"{measured} before, from the cache")
        return found

    return remember
