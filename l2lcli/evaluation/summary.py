"""summary.json: what an evaluation found, as one definition that writes and reads it. Loads no JAX."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

Metric: TypeAlias = Literal["final", "sum"]
METRICS: tuple[Metric, Metric] = ("final", "sum")
HIGHER = frozenset({"accuracy"})  # few-shot metrics of which more is better

Interval: TypeAlias = tuple[float, float]  # 95 %
Count: TypeAlias = Annotated[int, Field(ge=-(10**12), le=10**12)]


class Value(NamedTuple):
    """A number and its 95 % interval; None where a seed diverged, or where nothing was compared."""

    value: float | None
    interval: Interval | None


class Record(BaseModel):
    """Base: strict about types, as JSON has them; keys that it does not know are passed over; null is as good as missing."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class Rate(Record):
    """Parameters of a tuned baseline."""

    learning_rate: float | None = None


class Entry(Record):
    """One optimizer on one problem; what was not measured, or has no mean since a seed diverged, is None."""

    phi_final: Rate | None = None
    """The rate tuned for the final loss; None of a learned optimizer."""
    phi_sum: Rate | None = None
    """The rate tuned for the summed loss."""
    final: float | None = None
    """Mean over seeds of f at step T; on minibatches the mean of the last 5 steps."""
    final_ci: Interval | None = None
    sum: float | None = None
    """Mean over seeds of Σ_{t=0}^{T-1} f(theta_t)."""
    sum_ci: Interval | None = None
    diverged: Count | None = None
    """Seeds with a loss that is not finite."""
    steps_to_best_baseline: Count | None = None
    """First step at which the mean is at or below the best baseline's `final`."""
    seconds_per_step: float | None = None
    """One optimizee alone, jitted scan, median."""
    test: dict[str, float | Interval | None] | None = None
    """Metrics on the test split at step T, and `<name>_ci`."""

    def of(self, metric: Metric) -> Value:
        """The mean of that loss, and its interval."""
        return Value(self.final, self.final_ci) if metric == "final" else Value(self.sum, self.sum_ci)

    def tested(self, name: str) -> Value | None:
        """A metric on the test split; None where it was not measured."""
        value, interval = (self.test or {}).get(name), (self.test or {}).get(f"{name}_ci")
        known = isinstance(value, float | int)
        return Value(value, interval if isinstance(interval, tuple) else None) if known else None

    def rate(self, metric: Metric) -> float | None:
        """The learning rate tuned for that loss."""
        phi = self.phi_final if metric == "final" else self.phi_sum
        return phi and phi.learning_rate


class BestBaseline(Record):
    """The baseline whose mean is least."""

    final: str | None = None
    sum: str | None = None


class Pays(Record):
    """From when on the learned optimizer is below every baseline by the clock, for good; None: never."""

    step: Count | None = None
    seconds: float | None = None


class EqualTime(Record):
    """Baselines with as many steps as fit into the time of the learned optimizer's T, tuned for that many."""

    steps: dict[str, Count]
    """Of each baseline, by the seconds per step in `optimizers`."""
    learning_rates: dict[str, float]
    final: dict[str, float | None]
    """Mean over seeds of its final loss; None where a seed diverged."""
    best: str | None = None
    ratio: float | None = None
    """The learned one's mean final loss over the best one's, on the same seeds."""
    ratio_ci: Interval | None = None


class FewShot(Record):
    """One family on few-shot episodes: a metric on the query by number of updates."""

    metric: str
    """Its name, "accuracy" or "mse"."""
    updates: Annotated[list[Count], Field(min_length=1)]
    mean: list[float | None]
    """Over episodes, after each of these numbers of updates."""
    ci: list[float | None]
    """1.96 standard errors."""
    episodes: Count
    chosen: Count | None = None
    """The number of updates that was best on validation episodes."""
    learning_rate: float | None = None
    """Tuned on validation episodes; None of a learned one."""

    @model_validator(mode="after")
    def _alike(self) -> Self:
        if not len(self.updates) == len(self.mean) == len(self.ci):
            raise ValueError("updates, mean and ci have not one length")
        return self


class Part(Record):
    """What was found on one problem, or on one variant of it."""

    problem: str
    learned: str | None = None
    """Name of the learned optimizer; None where baselines alone were compared."""
    steps: Count
    """T; of a few-shot problem, updates."""
    seeds: Count
    """S; of a few-shot problem, episodes."""
    optimizers: dict[str, Entry]
    best_baseline: BestBaseline | None = None
    ratio_final: float | None = None
    """Mean of the learned one's / mean of the best baseline's, on the same seeds."""
    ratio_final_ci: Interval | None = None
    ratio_sum: float | None = None
    ratio_sum_ci: Interval | None = None
    pays: Pays | None = None
    equal_time: EqualTime | None = None
    few_shot: dict[str, FewShot] | None = None
    test_episodes: str | None = None
    """A digest of what decides the test episodes: results under one digest can be compared."""
    label: str | None = None
    """The problem's name with what it is a subset of, "mnist (mnist[10000/1000])"."""
    units: str | None = None
    """Of f."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.learned is not None and self.learned not in self.optimizers:
            raise ValueError(f"{self.learned!r} is not among the optimizers")
        return self

    @property
    def title(self) -> str:
        """What the problem is called on pages."""
        return self.label or self.problem

    def best(self, metric: Metric) -> str | None:
        """The best baseline by that loss."""
        return self.best_baseline and getattr(self.best_baseline, metric)

    def ratio(self, metric: Metric) -> Value:
        """The learned one's loss over the best baseline's."""
        if metric == "final":
            return Value(self.ratio_final, self.ratio_final_ci)
        return Value(self.ratio_sum, self.ratio_sum_ci)

    def mean(self, optimizer: str, metric: Metric) -> float | None:
        """That optimizer's mean loss; None where it has none, too."""
        return self.optimizers[optimizer].of(metric).value if optimizer in self.optimizers else None

    def dump(self) -> dict[str, Any]:
        """As JSON holds it: what was given, in the order of the fields."""
        return self.model_dump(mode="json", exclude_unset=True)

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Self:
        """From what JSON holds. Raises pydantic.ValidationError."""
        return cls.model_validate_json(json.dumps(value))


class Summary(Part):
    """The whole of summary.json."""

    variants: dict[str, Part] | None = None
    """Name -> what was found on that variant."""

    @property
    def parts(self) -> dict[str, Part]:
        """Name -> what was found, of the experiment itself and of its variants: the rows of the generalisation matrix."""
        return {self.problem: self, **(self.variants or {})}
