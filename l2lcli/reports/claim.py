"""One published claim: which reference result it is about, what is measured there, and what was said of it."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from l2lcli.base import Spec

FEW_SHOT = ("accuracy", "mse")


class Claim(Spec):
    """One line of the table: a ratio of losses, and on which side of 1 it was published to lie."""

    claim: str
    """What is claimed, in a few words."""
    published: str
    """Published numbers, with their source."""
    run: str
    """Folder of the result, beside the list's file: a run's, or that of a score."""
    wins: int | None = None
    """How many problems of the score's suite are won, at least (at equal steps, or by its metric in equal time); its measure is
    this number and no ratio."""
    task: str | None = None
    """A problem of the score's suite."""
    variant: str | None = None
    """A variant of that run; null for the problem itself."""
    optimizer: str | None = None
    """Whose loss is divided; null for the learned one."""
    against: str | None = None
    """Another run on the same seeds, by whose learned optimizer's loss it is divided; null for the best tuned baseline's."""
    rival: str | None = None
    """A baseline of the run, by whose loss it is divided, whether it is the best or not."""
    metric: Literal["final", "sum", "time", "accuracy", "mse"] = "final"
    """The loss at the end, or summed over the steps, or at the end after equal times; of few-shot problems the accuracy or the
    mean squared error, which is not divided but compared with that of `against`, or of `rival`."""
    expect: Literal["below 1", "above 1"] = "below 1"
    """The claim, as a side of 1. Of a few-shot metric, "above 1": ours is the higher one."""
    number: str | None = None
    """What is measured instead of a loss: see `numbers.find`."""
    above: float | None = None
    """The claim of a number: so much at least."""
    below: float | None = None
    """The claim of a number: so much at most."""

    @model_validator(mode="after")
    def _meant(self):
        """What would not be looked at is refused, not passed over."""
        bounded = self.above is not None or self.below is not None
        if bounded != (self.number is not None):
            raise ValueError("a number needs above or below, and these need a number")
        scored = self.wins is not None or self.task is not None
        alone = scored or self.number is not None
        others = [name for name in ("variant", "optimizer", "against", "rival") if getattr(self, name) is not None]
        if alone and others:
            raise ValueError(f"{others[0]} has no say in a score or a number")
        if scored and self.metric not in ("final", "time"):
            raise ValueError(f"a score knows no metric {self.metric}")
        if self.metric in FEW_SHOT and (self.variant is not None or (self.against is None) == (self.rival is None)):
            raise ValueError(f"{self.metric} is compared with that of either against or rival, and has no variants")
        return self
