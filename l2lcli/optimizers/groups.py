"""A family per group of parameters: one optimizer for the convolutions, say, and another for the rest."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field, StringConstraints

from l2lcli import registry
from l2lcli.base import KindSpec, LearnedOptimizer, Replay, Spec

Member = TypeVar("Member", bound=Spec)
GroupName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=60)]
Glob = Annotated[str, StringConstraints(min_length=1, max_length=200)]
NAMED = 8  # parameters that an error names at most


class Group(Spec, Generic[Member]):
    """Some of the parameters, and their optimizer."""

    match: list[Glob] = Field(min_length=1, max_length=100)
    """Shell globs, of which one must match a parameter's whole '/'-joined path, such as layers_1/kernel; * matches / too."""
    optimizer: Member
    """What trains them."""


class GroupsSpec(KindSpec, Generic[Member]):
    """An optimizer of its own for every group of parameters (Andrychowicz et al. 2016, Section 3.3)."""

    kind: Literal["groups"] = "groups"
    groups: dict[GroupName, Group[Member]] = Field(
        {"all": {"match": ["*"], "optimizer": {"kind": "lstm"}}}, min_length=1, max_length=100, validate_default=True
    )
    """Name to group; a parameter belongs to the first that matches it."""


@registry.optimizer.register("groups", GroupsSpec)
def groups(spec: GroupsSpec) -> LearnedOptimizer:
    """Build the family; phi: {name: phi of the group's optimizer}.

    Every parameter must belong to a group, and every group must have one: init, and the init and update of what bind
    returns, raise ValueError where theta is not so. Raises ValueError if a group's optimizer learns where theta begins.
    """
    import jax
    import optax

    from l2lcli.inner.transformation import called

    families = {name: registry.optimizer.build(group.optimizer) for name, group in spec.groups.items()}
    for name, family in families.items():
        if family.start is not None:
            raise ValueError(
                f"group {name!r}: its optimizer learns where the parameters begin, which one for some of them cannot"
            )

    def owner(path: str) -> str | None:
        return next((name for name, group in spec.groups.items() if any(fnmatchcase(path, g) for g in group.match)), None)

    def label(theta: Any) -> Any:
        """Tree like theta of the groups' names."""
        paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(theta)]
        owners = [owner(path) for path in paths]
        if None in owners:
            raise ValueError(f"no group matches the parameter {paths[owners.index(None)]!r}")
        for name in spec.groups:
            if name not in owners:
                among = ", ".join(paths[:NAMED]) + (", …" if len(paths) > NAMED else "")
                raise ValueError(f"group {name!r} matches no parameter that an earlier group does not take; there are {among}")
        return jax.tree.unflatten(jax.tree.structure(theta), owners)

    def init(key, theta):
        labels, phi = label(theta), {}
        for (name, family), own_key in zip(families.items(), jax.random.split(key, len(families)), strict=True):
            own = jax.tree.map(lambda x, owner, name=name: x if owner == name else optax.MaskedNode(), theta, labels)
            phi[name] = family.init(own_key, own)
        return phi

    def bind(phi):
        # A family that learns nothing has an empty phi, which a file does not hold.
        named: dict[Any, Any] = {name: called(name, family.bind(phi.get(name, {}))) for name, family in families.items()}
        return optax.partition(named, label)

    def members(theta):
        found, start = {name: [] for name in families}, 0
        for owner, leaf in zip(jax.tree.leaves(label(theta)), jax.tree.leaves(theta), strict=True):
            found[owner].append((start, start + leaf.size))
            start += leaf.size
        return {name: (families[name], tuple(intervals)) for name, intervals in found.items()}

    replayable = all(family.replay is not None and family.replay.composed is None for family in families.values())
    return LearnedOptimizer(init, bind, replay=Replay(members=members) if replayable else None)
