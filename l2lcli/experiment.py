"""From a config to its objects, to a comparison: what training, evaluation and the Python API have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from l2lcli import registry, tree
from l2lcli.base import Key, LearnedOptimizer, Problem
from l2lcli.config import Config, ConfigError, variant
from l2lcli.config.specs import LINE_SEARCH
from l2lcli.data.source import DataError
from l2lcli.inner.any_tree import for_any_tree
from l2lcli.inner.check import check_problem, malformed
from l2lcli.inner.transformation import transformation
from l2lcli.inner.unroll import namespace
from l2lcli.runs import trained
from l2lcli.runs.files import RunError

LARGE = 1024  # numbers, from which on an array of a state is one of coordinates


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
        return jax.jit(lambda key: self.optimizer.init(key, theta))(key)  # one program, not one for each of its operations

    def fitted(self, phi: Mapping[str, Any], file: Path | str) -> Any:
        """phi as read from a file, or what else names it, for this family and theta. Raises RunError if it does not fit."""
        if reason := tree.misfit(phi, jax.eval_shape(self.phi)):
            raise RunError(f"{file}: its parameters do not fit this config: {reason}")
        return tree.from_host(jax.eval_shape(self.phi), phi)

    def kept(self, folder: Path) -> dict[str, Any]:
        """phi after those episodes at which a run in `folder` was to keep it, by a name for it. Raises RunError."""
        files = {episode: folder / trained.kept(episode) for episode in sorted(self.config.train.keep)}
        there = {episode: file for episode, file in files.items() if file.is_file()}  # it may have stopped before
        return {f"{self.label} after {episode}": self.fitted(trained.read(file).phi, file) for episode, file in there.items()}

    @property
    def label(self) -> str:
        """What the learned optimizer is called in comparisons: its kind, told apart from a baseline of that name."""
        kind = self.config.optimizer.kind
        return f"{kind}_learned" if kind in self.config.eval.baselines else kind

    @property
    def plain(self) -> Experiment:
        """The same on the problem that evaluations are of."""
        return self._replace(problem=self.problem.plain or self.problem)

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


def build(config: Config) -> Experiment:
    """Build what a config describes.

    Raises DataError if its data set cannot be loaded, ConfigError if its optimizer is not one for its problem's parameters.
    """
    problem = _problem(config)
    try:
        built = Experiment(config, problem, registry.optimizer.build(config.optimizer), jax.random.key(config.seed))
        phi = jax.eval_shape(built.phi)
        if problem.plain is not None and built.optimizer.start is not None:
            raise ValueError(f"it learns where theta begins, and {config.problem.kind} is evaluated on another theta")
        _fits(built, phi)
    except ValueError as error:
        raise ConfigError([f"optimizer: {error}"]) from error
    if not jax.tree.leaves(phi):
        raise ConfigError(["optimizer: nothing of it is learned"])
    if config.few_shot != (problem.query is not None):
        said = "says few_shot, and has no query" if config.few_shot else "has a query: its spec must say `few_shot = True`"
        raise ConfigError([f"problem.kind: {config.problem.kind!r} {said}"])
    searches = [name for name in config.eval.baselines if name in LINE_SEARCH]
    if searches and problem.minibatch:
        why = f"{config.problem.kind} is another loss at every step"
        raise ConfigError([f"eval.baselines: {searches[0]} searches along a line of one loss, and {why}"])
    return built


def _fits(built: Experiment, phi: Any) -> None:
    """Whether phi fits all the thetas there are: a mixture's members', and those that evaluations are of. Raises ValueError."""
    several = {f"problem.members.{name}: ": member.problem for name, member in built.problem.members.items()}
    for place, problem in (several or {"": built.problem}).items():
        for each in (problem, *([] if problem.plain is None else [problem.plain])):
            theta = jax.eval_shape(each.init, built.root, each.data["train"])[0]
            try:
                jax.eval_shape(lambda phi, theta: built.optimizer.bind(phi).init(theta), phi, theta)
                if reason := tree.misfit(dict(tree.named(phi)), jax.eval_shape(built.optimizer.init, built.root, theta)):
                    raise ValueError(reason)
            except ValueError as error:
                evaluated = "" if each is problem else f"{built.config.problem.kind} is evaluated on another theta: "
                raise ValueError(f"{place}{evaluated}{error}") from error


def _problem(config: Config) -> Problem:
    """The config's problem. What is wrong with a builder that is not the package's own is a ConfigError that names its file."""
    kind = config.problem.kind
    builder = registry.problem.builder(kind)
    if builder.__module__.startswith("l2lcli."):
        try:
            return registry.problem.build(config.problem, config.data.raw_dir)
        except ValueError as error:  # numbers that do not fit each other
            raise ConfigError([str(error)]) from error
    try:
        problem = registry.problem.build(config.problem, config.data.raw_dir)
    except DataError:
        raise
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ConfigError([f"problem {kind!r}, {registry.where(builder)}: {said}"]) from error
    if (said := malformed(problem)) is not None:
        raise ConfigError([f"problem {kind!r}, {registry.where(builder)}: {said}"])
    return problem


def load(
    name: str | Path | None = None,
    scale: float = 1.0,
    weight_decay: float = 0.0,
    horizon: int | None = None,
    state_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """A trained optimizer as an Optax transformation, for any training loop.

        tx = optax.chain(optax.clip_by_global_norm(1.0), l2lcli.load("runs/latest"))

    Its updates are added to the parameters (`optax.apply_updates`), as every Optax optimizer's are; it has no learning
    rate. `update` takes the loss as value=…, which a family that reads it needs. Parameters may be of half precision, in part
    or all of them: a step then computes and remembers in float32, and an update is of its parameter's type.

    Numbers may be traced, so that `optax.inject_hyperparams(l2lcli.load)` takes schedules of them.

    Args:
      name: a run directory, an artefact file, what `l2l export` wrote, or the name of a shipped optimizer; None is the newest
        finished run.
      scale: updates are multiplied by this; 1 leaves them as they are, to the bit.
      weight_decay: so much of the parameters is taken away at every step (decoupled: Loshchilov and Hutter 2019).
      horizon: the steps that the training will take in all, which an optimizer that anneals wants to know.
      state_dtype: what the state's arrays of more than 1,024 numbers are kept in from step to step (`jax.numpy.bfloat16` halves
        what is remembered); a step computes in float32. None: float32, or float64 where a parameter is.

    Raises RunError if there is none, or if it is damaged; ValueError for a negative scale, weight decay or horizon, and, at
    `init`, for a network that it has not the numbers for. One that has learned where training begins: see `start`.
    """
    traced = lambda number: isinstance(number, Tracer)
    steps = 0 if horizon is None else horizon
    if any(number < 0 for number in (scale, weight_decay, steps) if not traced(number)):
        raise ValueError(f"scale {scale}, weight_decay {weight_decay} and horizon {horizon} must not be negative")
    found = trained.read(name)
    family = registry.optimizer.build(found.optimizer)
    bound = family.bind(tree.nest(found.phi))

    def begin(theta: Any) -> Any:
        state = bound.init(theta)  # first, for what it says against a network is the clearer
        if reason := tree.misfit(found.phi, jax.eval_shape(family.init, jax.random.key(0), theta)):
            raise ValueError(f"{found.artefact}: is not for this network: {reason}")
        return state

    tx = transformation(begin, bound.update)
    if state_dtype is not None:
        tx = _remembered_as(tx, state_dtype)

    scaled, decayed = traced(scale) or scale != 1, traced(weight_decay) or weight_decay > 0

    def update(grad: Any, state: Any, theta: Any = None, **extra: Any) -> tuple[Any, Any]:
        if decayed and theta is None:
            raise ValueError("weight decay reads the parameters: call update with params")
        step, state = tx.update(grad, state, theta, **({"horizon": steps} | extra))
        if scaled:
            step = jax.tree.map(lambda u: scale * u, step)
        return jax.tree.map(lambda u, p: u - weight_decay * p, step, theta) if decayed else step, state

    return for_any_tree(transformation(tx.init, update))


def start(name: str | Path | None, params: Any) -> Any:
    """Where a trained optimizer that has learned it wants training to begin (`maml`, `meta_sgd`, `learn_start: true`).

        params = l2lcli.start("runs/latest", params)
        state = l2lcli.load("runs/latest").init(params)

    Args:
      name: as `load` takes it.
      params: parameters of the network that it was trained for, whose values do not count.

    Returns:
      A tree like `params`, with the learned values.

    Raises RunError as `load`; ValueError if it has learned no start, or one for another number of parameters.
    """
    found = trained.read(name)
    family = registry.optimizer.build(found.optimizer)
    if family.start is None:
        raise ValueError(f"{found.artefact}: has learned no start")
    return family.start(tree.nest(found.phi), params)


def _remembered_as(tx: optax.GradientTransformationExtraArgs, dtype: Any) -> optax.GradientTransformationExtraArgs:
    """The transformation with a state whose large arrays are of that type; what is of a tensor or of the run stays as it is."""
    large = lambda leaf: leaf.size > LARGE and jnp.issubdtype(leaf.dtype, jnp.floating)
    cast = lambda state, to: jax.tree.map(lambda leaf: leaf.astype(to) if large(leaf) else leaf, state)

    def update(grad: Any, state: Any, theta: Any = None, **extra: Any) -> tuple[Any, Any]:
        step, state = tx.update(grad, cast(state, jnp.float32), theta, **extra)
        return step, cast(state, dtype)

    return transformation(lambda theta: cast(tx.init(theta), dtype), update)


def checked(experiment: Experiment, warn: Callable[[str], None]) -> None:
    """Look at one task of a problem that is not the package's own, before hours go into it.

    `warn` hears of what is odd. Raises ConfigError, a line for each thing that is wrong.
    """
    kind = experiment.config.problem.kind
    if registry.problem.builder(kind).__module__.startswith("l2lcli."):
        return  # the package's own are tested
    wrong, odd = check_problem(experiment.problem, namespace(experiment.root, "check"))
    if wrong:
        raise ConfigError(f"problem {kind!r}: {line}" for line in wrong)
    for line in odd:
        warn(f"warning: problem {kind!r}: {line}")
