"""What an experiment file can say: one model for each section, and the whole, whose families come from the registries."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, JsonValue, StringConstraints, create_model

from l2lcli import registry
from l2lcli.base import EstimatorSpec, KindSpec, Objective, ProblemSpec, Spec
from l2lcli.config.yaml_read import Path

KINDS: dict[Path, str] = {("problem",): "quadratic", ("optimizer",): "lstm", ("train", "estimator"): "auto"}  # the defaults

FEW_SHOT = ("finetune", "nearest_neighbour")  # baselines of few-shot problems alone
LINE_SEARCH = ("bfgs", "lbfgs", "conjugate_gradient")  # of problems that are the same at every step
Positive = Annotated[int, Field(ge=1, le=1_000_000)]
Seeds = Annotated[int, Field(ge=2, le=100_000)]
Episodes = Annotated[int, Field(ge=1, le=10_000_000)]
VariantName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=60)]


class DataSpec(Spec):
    """Where the raw data files are."""

    raw_dir: str | None = None
    """Directory with `<data set>/<published file name>`; null: that of L2L_RAW_DIR;
    without either the files are downloaded."""


class MetaOptimizerSpec(Spec):
    """What applies the meta-gradients to phi."""

    name: str = "adam"
    """An Optax optimizer."""
    learning_rate: float = Field(default=0.01, gt=0)
    """The learning rate, at its highest."""
    schedule: Literal["constant", "cosine", "linear", "exponential"] = "cosine"
    """How the learning rate falls over the meta-steps."""
    clip: float | None = Field(default=None, gt=0)
    """Global norm that meta-gradients are clipped to; null for no clipping."""
    factors: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Glob on a parameter's path in phi -> factor of its learning rate; the first match counts, and 0 keeps it as it is."""


class LastSpec(Spec):
    """Only the end of a run counts."""

    last: float = Field(gt=0, le=1)
    """The share of its steps, at its end, that count, all alike."""


class MetaLossSpec(Spec):
    """How a loss is measured that is to be made low: what makes tasks of different scale count alike."""

    measure: Literal["plain", "relative", "log"] = "plain"
    """The loss itself, over its value at the start, or its logarithm."""
    cut: float | None = Field(default=None, gt=0)
    """A loss counts as at most so many times its value at the start, so that one run that diverges has not the say alone."""


class HorizonsSpec(Spec):
    """Tasks with horizons of their own, each of which begins anew when its own is over.

    Horizons are multiples of the window, up to train.horizon, evenly in the logarithm. A meta-gradient then sees early and late
    steps at once.
    """

    shortest: Positive | None = None
    """Steps, a multiple of the window; null: one window."""
    curriculum: float = Field(default=0.0, ge=0, le=1)
    """The part of meta-training in which the longest horizon grows, from the shortest to train.horizon."""


class ImitationSpec(Spec):
    """Imitation of a hand-made optimizer: on networks that it trains, the learned one is to say its updates.

    Half the mean squared difference of their updates, in units of the learning rate, is added to the meta-loss of every step.
    """

    of: str = "adam"
    """An Optax optimizer."""
    learning_rate: float = Field(default=0.01, gt=0)
    """Its learning rate."""
    weight: float = Field(default=1.0, ge=0)
    """What the difference is multiplied by at the first meta-step."""
    until: float = Field(default=0.5, gt=0, le=1)
    """The part of meta-training in which the weight falls to 0, along a line."""


class TrainSpec(Spec):
    """Meta-training."""

    episodes: Episodes = 200
    """Episodes, each of one horizon for all tasks: horizon / window meta-steps."""
    keep: list[Episodes] = Field(default=[], max_length=20)
    """Episodes after which phi is kept apart, to be compared with the final one: how long is long enough?"""
    init_from: str | None = None
    """Run, optimizer file or name of a shipped one whose phi training starts from; null for a fresh start."""
    tasks: Annotated[int, Field(ge=1, le=65_536)] = 4
    """Optimizees trained side by side (M)."""
    horizon: Positive = 100
    """Optimizee steps in an episode (T)."""
    horizons: HorizonsSpec | None = None
    """Horizons that are drawn for each task; null, as published: all have the same, and run in lock-step."""
    curriculum: list[Positive] | None = Field(default=None, min_length=2, max_length=100)
    """Horizons, each longer than the one before, the last being train.horizon: after `patience` validations without improvement
    the next one begins, from the best phi of the one before. Validations are on the next horizon, at the last one on that."""
    imitation: ImitationSpec | None = None
    """A hand-made optimizer that is imitated at first; null for none."""
    estimator: EstimatorSpec
    """How the meta-gradient is estimated."""
    meta_optimizer: MetaOptimizerSpec = MetaOptimizerSpec()
    """What applies the meta-gradients to phi."""
    validate_every: Episodes = 20
    """Episodes from one validation to the next."""
    validation_seeds: Seeds = 16
    """Fresh optimizees in a validation."""
    patience: Episodes | None = None
    """Validations without improvement after which training stops, or the curriculum goes on; null for never."""
    weights: Literal["all", "last", "window"] | list[Annotated[float, Field(ge=0)]] | LastSpec = "all"
    """How much the losses at steps 1 … horizon count: every one alike, the last alone, the last of each window, those of the
    last part, {last: 0.2}, or a number for each step."""
    meta_loss: MetaLossSpec = MetaLossSpec()
    """How a loss is measured."""
    checkpoint_seconds: float = Field(default=20, ge=0, le=86_400)
    """Least time from one checkpoint to the next, in seconds."""

    @property
    def windows(self) -> int:
        """Meta-steps in an episode, T / W."""
        return self.horizon // self.estimator.window

    @property
    def meta_steps(self) -> int:
        """Meta-steps in all."""
        return self.episodes * self.windows

    @property
    def stages(self) -> tuple[int, ...]:
        """The horizons of the curriculum, or the only one."""
        return tuple(self.curriculum or [self.horizon])

    def judged(self, stage: int) -> TrainSpec:
        """The section with the horizon that validations are on at a stage."""
        return self.model_copy(update={"horizon": self.stages[min(stage + 1, len(self.stages) - 1)]})

    @property
    def step_weights(self) -> tuple[float, ...]:
        """w_1 … w_T."""
        if self.weights == "all" or isinstance(self.weights, LastSpec):
            return (1.0,) * self.horizon
        if self.weights == "window":
            return ((0.0,) * (self.estimator.window - 1) + (1.0,)) * self.windows
        return (0.0,) * (self.horizon - 1) + (1.0,) if self.weights == "last" else tuple(self.weights)

    @property
    def objective(self) -> Objective:
        """What meta-training makes low."""
        last = self.weights.last if isinstance(self.weights, LastSpec) else None
        return Objective(self.step_weights, last, self.meta_loss.measure, self.meta_loss.cut)


class EvalSpec(Spec):
    """Evaluation against tuned baselines."""

    steps: Positive = 100
    """Optimizee steps."""
    seeds: Seeds = 20
    """Optimizees that every optimizer is reported on (S)."""
    tuning_seeds: Seeds = 10
    """Other optimizees, that the baselines' learning rates are tuned on."""
    baselines: list[str] = Field(default=["sgd", "momentum", "nag", "rmsprop", "adam"], max_length=100)
    """Optax optimizers to compare with; adam_cosine and nag_cosine: with a rate that falls to zero at the last step;
    clipped_sgd, clipped_momentum and clipped_adam: after a clip of the gradient to a global norm of 1. For few-shot problems
    also finetune and nearest_neighbour; where f is the same at every step also bfgs, lbfgs and conjugate_gradient, of which an
    evaluation of f counts as a step."""
    equal_time: bool = False
    """Every baseline is also given as many steps as fit into the learned optimizer's time, at a rate tuned for that many."""
    metrics_every: Positive = 20
    """Steps from one measurement of the test metrics to the next."""
    updates: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Few-shot problems: inner updates up to which the query is judged; they have no `steps` and `seeds`."""
    episodes: Seeds = 600
    """Few-shot problems: test episodes; tuning_seeds is how many validation episodes choices are made on."""
    joint_steps: Positive = 1000
    """Few-shot problems: steps of training jointly on all training classes, for finetune and nearest_neighbour."""
    report: bool = True
    """Draw the figures and write report.html at the end; false leaves both to `l2l report`."""
    variants: dict[VariantName, dict[str, JsonValue]] = Field(default={}, max_length=1000)
    """Further settings to evaluate on: name -> {dotted key: value}, changes to this file."""


class Config(Spec):
    """An experiment. Its fields' full types depend on what is registered: `config_class()` has them."""

    name: str = Field(default="experiment", pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=60)
    """Name of the experiment and of its folder of runs; the file's stem if left out."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """What all randomness derives from."""
    imports: list[Annotated[str, Field(min_length=1, max_length=4096)]] = Field(default=[], max_length=100)
    """Python files, relative to this one, or modules, that register what is named below."""
    data: DataSpec = DataSpec()
    """Where the raw data files are."""
    problem: ProblemSpec
    """What is optimized: a distribution over optimizees."""
    optimizer: KindSpec
    """The learned optimizer."""
    train: TrainSpec
    """Meta-training."""
    eval: EvalSpec = EvalSpec()
    """Evaluation against tuned baselines."""
    sinks: list[str] = Field(default=[], max_length=20)
    """Where a training's rows and summary are told to besides its files: wandb, mlflow, or a sink of your own."""

    @property
    def few_shot(self) -> bool:
        """Whether the problem judges a trained network on a query set, by number of updates."""
        return self.problem.few_shot


def config_class() -> type[Config]:
    """The Config whose problem, optimizer and train.estimator are the registered specs, told apart by `kind`."""
    return _config_class(*(tuple(r.specs().items()) for r in (registry.problem, registry.optimizer, registry.estimator)))


Family: TypeAlias = tuple[tuple[str, type[Spec]], ...]  # kind, spec


@functools.lru_cache(maxsize=8)
def _config_class(problems: Family, optimizers: Family, estimators: Family) -> type[Config]:
    train = _model(TrainSpec, estimator=_union(TrainSpec, ("train", "estimator"), estimators))
    return _model(
        Config,
        problem=_union(Config, ("problem",), problems),
        optimizer=_union(Config, ("optimizer",), optimizers),
        train=(train, Field(default=train(), description=Config.model_fields["train"].description)),
    )


def _model(base: type[Spec], **fields: Any) -> Any:
    return create_model(base.__name__, __base__=base, __module__=__name__, __doc__=base.__doc__, **fields)


def _union(base: type[Spec], path: Path, family: Family) -> tuple[Any, Any]:
    """Type and default of the field of `base` that takes any spec of a family."""
    specs, kind = dict(family), KINDS[path]
    if kind not in specs:
        raise RuntimeError(
            f"{'.'.join(map(str, path))}: the default kind {kind!r} is not registered; known: {', '.join(specs)}"
        )
    return registry.union(specs.values()), Field(
        default=specs[kind](), description=base.model_fields[str(path[-1])].description
    )
