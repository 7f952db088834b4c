"""From a config to its objects, to a comparison: what training, evaluation and the Python API have in common."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2lcli import registry, tree
from l2lcli.base import Key, LearnedOptimizer, Problem
from l2lcli.config import Config, ConfigError, variant
from l2lcli.config.specs import FEW_SHOT
from l2lcli.evaluation import few_shot, gates
from l2lcli.evaluation.compare import Comparison, compare, program
from l2lcli.evaluation.inspection import Inspection, inspect
from l2lcli.inner.unroll import namespace
from l2lcli.optimizers.hand import hand
from l2lcli.runs import trained, tuned_rates
from l2lcli.runs.files import RunError
from l2lcli.runs.trained import Trained

BESIDE = ("adam", "sgd")  # whose updates are shown beside the learned ones, where they are among the baselines


class Experiment(NamedTuple):
    """The objects of one config.

    Attributes:
      config: what they were built from.
      problem: f, with its data loaded.
      optimizer: the family.
      root: the key that all randomness derives from.
    """

    config: Config
    problem: Problem
    optimizer: LearnedOptimizer
    root: Key

    def theta(self) -> Any:
        """Abstract optimizee parameters: shapes and types alone."""
        return jax.eval_shape(self.problem.init, self.root, self.problem.data["train"])[0]

    def phi(self) -> Any:
        """Fresh optimizer parameters; a learned start begins as one of the problem's own."""
        key, data = namespace(self.root, "phi"), self.problem.data["train"]
        theta = self.theta() if self.optimizer.start is None else jax.jit(self.problem.init)(key, data)[0]
        return self.optimizer.init(key, theta)

    def fitted(self, found: Trained) -> Any:
        """phi of a trained optimizer, for this family and theta. Raises RunError if it does not fit them."""
        if reason := tree.misfit(found.phi, jax.eval_shape(self.phi)):
            raise RunError(f"{found.artefact}: its parameters do not fit this config: {reason}")
        return tree.from_host(jax.eval_shape(self.phi), found.phi)

    def kept(self, folder: Path) -> dict[str, Any]:
        """phi after those episodes at which a run in `folder` was to keep it, by a name for it. Raises RunError."""
        files = {episode: folder / trained.kept(episode) for episode in sorted(self.config.train.keep)}
        there = {episode: file for episode, file in files.items() if file.is_file()}  # it may have stopped before
        return {f"{self.label} after {episode}": self.fitted(trained.read(file)) for episode, file in there.items()}

    @property
    def label(self) -> str:
        """What the learned optimizer is called in comparisons: its kind, told apart from a baseline of that name."""
        kind = self.config.optimizer.kind
        return f"{kind}_learned" if kind in self.config.eval.baselines else kind

    def varied(self, name: str, phi: Any | None) -> Experiment:
        """One of its config's variants, to evaluate phi on, which may be abstract; None if only baselines are.

        Raises DataError and ConfigError as `build`, RunError if phi does not fit it.
        """
        try:
            varied = build(variant(self.config, name))
        except ConfigError as error:
            raise ConfigError(f"eval.variants.{name}: {fault}" for fault in error.faults) from error
        if phi is not None and (reason := tree.misfit(dict(tree.named(phi)), jax.eval_shape(varied.phi))):
            raise RunError(f"eval.variants.{name}: the optimizer's parameters do not fit it: {reason}")
        return varied


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


def build(config: Config) -> Experiment:
    """Build what a config describes.

    Raises DataError if its data set cannot be loaded, ConfigError if its optimizer is not one for its problem's parameters.
    """
    problem = registry.problem.build(config.problem, config.data.raw_dir)
    try:
        built = Experiment(config, problem, registry.optimizer.build(config.optimizer), jax.random.key(config.seed))
        phi = jax.eval_shape(built.phi)
    except ValueError as error:
        raise ConfigError([f"optimizer: {error}"]) from error
    if not jax.tree.leaves(phi):
        raise ConfigError(["optimizer: nothing of it is learned"])
    if problem.query is None and (alien := [name for name in config.eval.baselines if name in FEW_SHOT]):
        raise ConfigError([f"eval.baselines: {alien[0]} is for few-shot problems, which {config.problem.kind} is not"])
    return built


def load(name: str | Path | None = None) -> optax.GradientTransformationExtraArgs:
    """A trained optimizer as an Optax transformation, for any training loop.

        tx = optax.chain(optax.clip_by_global_norm(1.0), l2lcli.load("runs/latest"))

    Its updates are added to the parameters (`optax.apply_updates`), as every Optax optimizer's are; it has no learning
    rate. `update` takes the loss as value=…, which a family that reads it needs.

    Args:
      name: a run directory, an artefact file, or the name of a shipped optimizer; None is the newest finished run.

    Raises RunError if there is none, or if it is damaged.
    """
    found = trained.read(name)
    return registry.optimizer.build(found.config.optimizer).bind(tree.nest(found.phi))


def evaluate(
    experiment: Experiment,
    phi: Any | None,
    tell: Callable[[str], None],
    poll: Callable[[], None],
    kept: Mapping[str, Any] = {},
) -> Evaluation:
    """Compare phi, or nothing where it is None, with the baselines of the config's `eval` section, and look at its updates.

    Args:
      experiment: what to compare on, with the variants of its config.
      phi: parameters of its optimizer.
      tell: called with a line on what is being done.
      poll: called every few seconds.
      kept: other parameters of its optimizer, by name, which are rows of the comparison but not judged.
    """
    config = experiment.config
    found = {config.name: _compare(experiment, phi, kept, tell, poll)}
    for name in config.eval.variants:
        saying = lambda line, name=name: tell(f"{name}: {line}")  # noqa: E731
        found[name] = _compare(experiment.varied(name, phi), phi, kept, saying, poll)
    if phi is None:
        return Evaluation(found, None)
    few = experiment.problem.query is not None
    inspection = None if few else _inspect(experiment, phi, found[config.name].summary, tell, poll)
    return Evaluation(found, inspection, _gates(experiment, phi, tell, poll))


def _inspect(experiment: Experiment, phi: Any, summary: dict[str, Any], tell: Callable[[str], None], poll: Callable[[], None]):
    poll()
    tell("recording updates")
    optimizers = {summary["learned"]: (experiment.optimizer, phi)}
    for name in BESIDE:
        if rates := summary["optimizers"].get(name, {}).get("phi_final"):
            optimizers[name] = hand(name), {"log_learning_rate": jnp.float32(math.log(rates["learning_rate"]))}
    return inspect(experiment.problem, optimizers, namespace(experiment.root, "inspection"), experiment.config.eval.steps)


def _gates(experiment: Experiment, phi: Any, tell: Callable[[str], None], poll: Callable[[], None]):
    if experiment.optimizer.gates is None:
        return None
    poll()
    tell("recording gates")
    spec, few = experiment.config.eval, experiment.problem.query is not None
    steps, split = (spec.updates, "test") if few else (min(spec.steps, gates.STEPS), "train")
    key = namespace(experiment.root, "inspection")
    return gates.record(experiment.problem, experiment.optimizer, phi, key, steps, split)


def _compare(
    experiment: Experiment,
    phi: Any | None,
    kept: Mapping[str, Any],
    tell: Callable[[str], None],
    poll: Callable[[], None],
) -> Comparison:
    config, spec = experiment.config, experiment.config.eval
    learned = None if phi is None else (experiment.label, experiment.optimizer, phi)
    what = experiment.problem, config.name, learned, spec.baselines, experiment.root
    common = {"tuning_seeds": spec.tuning_seeds, "tell": tell, "poll": poll}
    if experiment.problem.query is not None:
        found = few_shot.compare(*what, updates=spec.updates, episodes=spec.episodes, joint_steps=spec.joint_steps, **common)
        found.summary["test_episodes"] = _episodes(experiment)
    else:
        found = compare(
            *what,
            steps=spec.steps,
            seeds=spec.seeds,
            metrics_every=spec.metrics_every,
            kept=kept,
            remember=_remembering(experiment, tell),
            **common,
        )
    subsets = [label for label in experiment.problem.provenance if "[" in label]
    label = {"label": f"{config.name} ({', '.join(subsets)})"} if subsets else {}
    return found._replace(summary={**found.summary, **label})


def _episodes(experiment: Experiment) -> str:
    """A digest of all that decides what the test episodes are: results under one digest can be compared."""
    config = experiment.config
    drawn = [config.problem.model_dump(mode="json"), config.seed, config.eval.episodes, dict(experiment.problem.provenance)]
    return hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()[:16]


def _remembering(
    experiment: Experiment, tell: Callable[[str], None]
) -> Callable[[str, Callable[[], dict[str, float]]], dict[str, float]]:
    """`compare`'s `remember`: by all that decides which learning rates are found, in the cache folder."""
    problem, config = experiment.problem, experiment.config
    if jax.tree.leaves(dict(problem.data)) and not problem.provenance:
        return lambda baseline, find: find()  # nothing says what its data are
    identity = {
        "problem": config.problem.model_dump(mode="json"),
        "program": hashlib.sha256(program(problem).encode()).hexdigest(),
        "minibatch": problem.minibatch,
        "data": dict(problem.provenance),
        "steps": config.eval.steps,
        "tuning_seeds": config.eval.tuning_seeds,
        "seed": config.seed,
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "optax")},
        "backend": [jax.default_backend(), jax.devices()[0].device_kind],
    }

    def remember(baseline: str, find: Callable[[], dict[str, float]]) -> dict[str, float]:
        whole = {**identity, "baseline": baseline}
        found = tuned_rates.read(whole)
        if found is None:
            found = find()
            tuned_rates.write(whole, found)
        else:
            tell(f"{baseline}: learning rates as tuned before, from the cache")
        return found

    return remember
