"""Several problems at once, of any shapes: what an optimizer is meta-trained on that is to hold on more than one."""

from __future__ import annotations

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field, StringConstraints

from l2lcli import registry
from l2lcli.base import Member, Problem, ProblemSpec, Spec

Kind = TypeVar("Kind", bound=Spec)
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=60)]


class MemberSpec(Spec, Generic[Kind]):
    """One of the problems."""

    problem: Kind
    """The problem."""
    weight: float = Field(default=1.0, gt=0)
    """Of its meta-gradients among those of all."""
    tasks: int | None = Field(default=None, ge=1, le=65_536)
    """Its optimizees side by side; null: train.tasks."""
    horizon: int | None = Field(default=None, ge=1, le=1_000_000)
    """Its steps in an episode; null: train.horizon."""
    window: int | None = Field(default=None, ge=1, le=100_000)
    """Its steps per meta-gradient; null: train.estimator.window."""


class MixtureSpec(ProblemSpec, Generic[Kind]):
    """Several problems, each with its own optimizees; a meta-gradient is the weighted mean of theirs."""

    kind: Literal["mixture"] = "mixture"
    members: dict[Name, MemberSpec[Kind]] = Field(
        {"quadratic": {"problem": {"kind": "quadratic"}}}, min_length=1, max_length=100, validate_default=True
    )
    """Name to problem. The first is the one that an evaluation judges by; the others are parts of its summary."""


@registry.problem.register("mixture", MixtureSpec)
def mixture(spec: MixtureSpec, raw_dir: str | None = None) -> Problem:
    """Build all members. Theta, task, data, f and its unit are those of the first, with the others in `Problem.members`.

    Raises DataError as the members do, ValueError for a few-shot problem, or for a mixture, among them.
    """
    built = {}
    for name, member in spec.members.items():
        problem = registry.problem.build(member.problem, raw_dir)
        if problem.query is not None:
            raise ValueError(f"problem.members.{name}: a few-shot problem cannot be one of several")
        built[name] = Member(problem, member.weight, member.tasks, member.horizon, member.window)
    labels = {label: mark for member in built.values() for label, mark in member.problem.provenance.items()}
    return next(iter(built.values())).problem._replace(members=built, provenance=labels)
