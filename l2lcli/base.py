"""The types that every part shares. Types only: nothing in here computes, and importing it loads no JAX.

Letters, here and everywhere: theta optimizee parameters, phi optimizer (meta-)parameters, f optimizee loss, M tasks in a
meta-batch, T optimizee steps in an episode (horizon), W window (steps per meta-gradient), N coordinates, H hidden units,
S evaluation seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import jax
    import optax

Key: TypeAlias = "jax.Array"  # a typed PRNG key, ()
Scalar: TypeAlias = "jax.Array"  # () float32
Theta: TypeAlias = Any  # optimizee parameters: any pytree of float arrays
Phi: TypeAlias = Any  # optimizer parameters: nested dicts of arrays, so that '/'-joined keys name every leaf
Task: TypeAlias = Any  # what makes one f this f; () if nothing
Data: TypeAlias = Any  # one split of a data set as device arrays; () if the problem has none
Batch: TypeAlias = Any  # the evidence of one step
State: TypeAlias = Any  # an estimator's state
Intervals: TypeAlias = tuple[tuple[int, int], ...]  # (start, stop) each


class Spec(BaseModel):
    """Base of everything that a YAML file can say: frozen, strict, no unknown key, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        """A generic spec is called, and described, the same whatever it is over."""
        return cls.__name__

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """See `model_parametrized_name`."""
        if (generic := cls.__pydantic_generic_metadata__["origin"]) is not None:
            cls.__doc__ = generic.__doc__


class KindSpec(Spec):
    """Base of what a registry builds from: a problem, an optimizer, an estimator."""

    kind: Any = None
    """The name under which it is registered: a `Literal` in every subclass. (`str` here could not be narrowed there.)"""


class ProblemSpec(KindSpec):
    """Base of every problem's spec."""

    few_shot: ClassVar[bool] = False
    """Each task has a query set, by which the trained network is judged: `Problem.query`."""


class EstimatorSpec(KindSpec):
    """Base of every estimator's spec."""

    window: int = 20
    """Steps per meta-gradient; divides the horizon."""


class Problem(NamedTuple):
    """A distribution over optimizees f, as pure functions of ONE instance. Nothing in here knows of M.

    Attributes:
      init: (key, data) -> (theta_0, task). The key is consumed.
      batch: (key, task, data) -> evidence for one step, freshly drawn; a full-batch f returns its task. The key is consumed.
      loss: (theta, batch) -> f(theta), () float32; the unit is in the builder's docstring.
      data: device arrays per split ("train", and where they exist "validation", "test"). Passed to jit as an ARGUMENT,
        never closed over.
      minibatch: True where `batch` differs from step to step, so that one loss is a noisy sample of f.
      query: (key, task, data) -> evidence of the OUTER loss where it differs from the inner one (few-shot); the key is
        consumed. `init`, `batch` and `query` of a task need the same split.
      metrics: (theta, batch) -> named scalars such as accuracy; evaluated on the whole "test" split, or on a query.
      joint: the network that baselines of a few-shot problem are made of.
      units: (theta, task) -> theta as `metrics` takes it, where a task computes in other units than theta's.
      describe: task -> named scalars, what was drawn for it that tells one task from another; beside the curves.
      plain: what validations and evaluations are of, on the same data, where meta-training alone is to see this problem.
      held_out: True where the tasks of each split are others. "train" is then for meta-training alone, choices are made on
        tasks of "validation", and what is reported is of those of "test". (A few-shot problem's `query` says the same of it.)
      pictures: how a theta that is an image is looked at.
      members: of a mixture, name -> the problems that it is made of; the others of these fields are then those of the first.
      provenance: label -> fingerprint of each data set that was read; "mnist[10000/1000]" labels a subset.
    """

    init: Callable[[Key, Data], tuple[Theta, Task]]
    batch: Callable[[Key, Task, Data], Batch]
    loss: Callable[[Theta, Batch], Scalar]
    data: Mapping[str, Data]
    minibatch: bool = False
    query: Callable[[Key, Task, Data], Batch] | None = None
    metrics: Callable[[Theta, Batch], dict[str, Scalar]] | None = None
    joint: Joint | None = None
    units: Callable[[Theta, Task], Theta] | None = None
    describe: Callable[[Task], dict[str, Scalar]] | None = None
    plain: Problem | None = None
    held_out: bool = False
    pictures: Pictures | None = None
    members: Mapping[str, Member] = {}
    provenance: Mapping[str, str] = {}


class Pictures(NamedTuple):
    """How optimizees that are images are looked at; each image is [h, w, 3], red, green and blue in 0 … 1, cut to that.

    Attributes:
      given: task -> named images, what was asked for.
      made: theta -> the image that it is.
    """

    given: Callable[[Task], Mapping[str, jax.Array]]
    made: Callable[[Theta], jax.Array]


class Member(NamedTuple):
    """One problem of a mixture."""

    problem: Problem
    weight: float  # of its meta-gradients, among those of all members
    tasks: int | None = None  # its own M; None: `train.tasks`
    horizon: int | None = None  # its own T; None: `train.horizon`
    window: int | None = None  # its own W; None: the estimator's


class Joint(NamedTuple):
    """What baselines of a few-shot problem need: one network for all its training tasks together.

    Attributes:
      problem: training that network, on "train" alone.
      start: (its theta, theta_0 of an episode) -> an episode's learner that begins as that network, but for the new output.
      features: (its theta, or None, batch) -> [B, F] what it makes of the inputs of a batch; the inputs themselves for None.
      copied: (support, query, [Q] rows of the support) -> metrics of answering each query as that row of the support.
    """

    problem: Problem
    start: Callable[[Theta, Theta], Theta]
    features: Callable[[Theta | None, Batch], jax.Array]
    copied: Callable[[Batch, Batch, jax.Array], dict[str, Scalar]]


class LearnedOptimizer(NamedTuple):
    """A family of Optax transformations indexed by phi. Hand-made optimizers are such families too.

    Attributes:
      init: (key, theta) -> phi. The key is consumed; theta may be abstract (`jax.ShapeDtypeStruct` leaves), but for a family
        with a start, which begins as that theta. Raises ValueError, in one line, for a theta that the family is not for.
      bind: phi -> an Optax transformation; its update receives value=f(theta_t) and horizon=T, the steps that the run takes in
        all (0 where nobody says), as extra arguments.
      start: (phi, theta) -> where the optimizee begins, of an optimizer that learns theta_0; its state before the first step
        does not depend on that.
      replay: what the estimator `replay` is told of the family; None if it cannot be replayed.
      second_order: its meta-gradients flow through the gradients that it is fed, whatever the estimator's config says.
      gates: state -> {name: [N]}, what an inspection shows of each coordinate.
    """

    init: Callable[[Key, Theta], Phi]
    bind: Callable[[Phi], optax.GradientTransformationExtraArgs]
    start: Callable[[Phi, Theta], Theta] | None = None
    replay: Replay | None = None
    second_order: bool = False
    gates: Callable[[Any], Mapping[str, jax.Array]] | None = None


class Replay(NamedTuple):
    """A family that can be replayed coordinate by coordinate.

    Its init and update accept one 1-D array of coordinates; coordinate i's update depends on its own history and on recorded
    scalars alone; every leaf of its state has N as its LAST axis, or is a scalar. With `members`, all of them are so.

    Attributes:
      window: (phi, state, gradients [W, N]) -> the updates [W, N] that W calls of update would give; with a backward pass of
        its own, of which phi's part alone is right. Only where update reads gradients alone, and no leaf of phi that is
        indexed by coordinate. None: update is called.
      block: coordinates at a time that are asked for -> those that `window` is best given; called where the gradient is
        traced. None: as asked.
      per_coordinate: phi -> tree of bool, which leaves of phi are indexed by coordinate, [N] in the order of the raveled
        theta (a learned start, a rate per coordinate). None: none.
      members: theta -> {name: (family, the intervals (start, stop) of the raveled theta that it trains)}, of a family that
        is made of others; phi is {name: phi of that family}. The intervals of all are those of theta's leaves.
      composed: of a family that makes its updates of what a coordinatewise one says of the coordinates of each tensor.
    """

    window: Callable[[Phi, Any, jax.Array], jax.Array] | None = None
    block: Callable[[int], int] | None = None
    per_coordinate: Callable[[Phi], Any] | None = None
    members: Callable[[Theta], Mapping[str, tuple[LearnedOptimizer, Intervals]]] | None = None
    composed: Composed | None = None


class Composed(NamedTuple):
    """A family whose updates are a function of tensors of what a coordinatewise rule says, which no later state depends on.

    phi is {"rule": that of the rule, "output": the rest}. State: `ComposedState`.

    Attributes:
      rule: the coordinatewise family; its update reads gradients, `value` and `horizon`, and neither theta nor what became of
        its updates.
      init: theta -> the state of `feed`.
      feed: (gradients, state, theta, value, horizon) -> (what the rule is fed, like theta; context; new state). No phi.
      output: (phi["output"], what the rule says, like theta, context) -> updates like theta. Differentiable in both.
    """

    rule: LearnedOptimizer
    init: Callable[[Theta], Any]
    feed: Callable[..., tuple[Theta, Any, Any]]
    output: Callable[[Phi, Theta, Any], Theta]


class ComposedState(NamedTuple):
    """State of a `Composed` family."""

    rule: Any  # that of the rule, of the raveled theta
    fed: Any  # that of `feed`


class Inner(NamedTuple):
    """One optimizee in training. It carries its own randomness; theta stays a pytree."""

    theta: Theta
    opt: Any  # the state of optimizer.bind(phi)
    task: Task
    key: Key  # () step t draws its batch from fold_in(key, t)
    t: jax.Array  # () int32 steps taken; one unbatched scalar for M tasks that run in lock-step
    horizon: jax.Array  # () int32 steps that the run takes in all, T; 0 where nobody says. Batched as t is
    first: Scalar  # f(theta_0; batch_0), which a meta-loss may be relative to
    value: Scalar  # f(theta_t; batch_t)
    grad: Theta  # its gradient, like theta


class Objective(NamedTuple):
    """What meta-training makes low: Σ_t w_t g(f(theta_t)), the mean over tasks. `inner.objective` computes it.

    Attributes:
      weights: w_1 … w_T, of the longest horizon.
      last: the share of a run's own horizon, at its end, whose steps alone count, each as much as all 1 / last of them would;
        None: `weights` say.
      measure: g: "plain" f itself, "relative" f / f(theta_0), "log" its logarithm.
      cut: f counts as at most so many times f(theta_0); None for no bound.
    """

    weights: tuple[float, ...]
    last: float | None = None
    measure: Literal["plain", "relative", "log"] = "plain"
    cut: float | None = None


class Estimate(NamedTuple):
    """One window's meta-gradient."""

    grad: Phi  # of the mean over tasks of the window's part of the objective, like phi
    loss: Scalar  # () that part itself
    losses: jax.Array  # [W] mean over tasks of f, the inner loss, at steps t+1 … t+W, unweighted


class Estimator(NamedTuple):
    """A meta-gradient estimator, Optax-shaped: state in, state out; every leaf of state but a shared t has leading axis M.

    Attributes:
      init: (key, phi, data) -> M fresh optimizees. The key is consumed.
      estimate: (key, phi, data, state) -> (Estimate, state W steps further). The key is consumed.
      shardings: state -> how `estimate` leaves it on several devices, a prefix of its tree, t on all; None on one device.
      restart: (the key of all episodes, meta-step, phi, data, state) -> the state in which that meta-step begins; nothing is
        consumed. None: all optimizees begin anew together, every T / W meta-steps.
      family: the family whose states its optimizees have, whole, where that is not the optimizer as it was given: of the
        raveled theta, say.
    """

    init: Callable[[Key, Phi, Data], State]
    estimate: Callable[[Key, Phi, Data, State], tuple[Estimate, State]]
    shardings: Callable[[State], Any] | None = None
    restart: Callable[[Key, Any, Phi, Data, State], State] | None = None
    family: LearnedOptimizer | None = None
