"""The search for a learning rate: a grid in the logarithm, extended on the side where its best value lies at the edge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple


class Grid(NamedTuple):
    """Learning rates 10^(e / per_decade), e whole.

    Attributes:
      per_decade: rates in a decade.
      first: the exponents e that are tried in any case.
      stride: how many are tried at a time, and by how many the grid is extended.
      furthest: a grid that has reached this exponent, of either sign, is extended no further.
    """

    per_decade: int
    first: range
    stride: int
    furthest: int

    def rate(self, exponent: int) -> float:
        """The learning rate of an exponent."""
        return 10.0 ** (exponent / self.per_decade)

    def search(self, costs: Callable[[list[int]], Mapping[int, Mapping[str, float]]]) -> dict[str, int]:
        """For each metric the exponent of least cost, the smaller one of equals.

        Args:
          costs: exponents -> {exponent: {metric: cost, infinite where it is lost}}.
        """
        known: dict[int, Mapping[str, float]] = {}
        for start in range(self.first.start, self.first.stop, self.stride):
            known |= costs(list(range(start, min(start + self.stride, self.first.stop))))
        while True:
            metrics = next(iter(known.values()))
            best = {metric: min(known, key=lambda e, metric=metric: (known[e][metric], e)) for metric in metrics}
            low, high = min(known), max(known)
            if low in best.values() and low > -self.furthest:
                known |= costs(list(range(low - self.stride, low)))
            elif high in best.values() and high < self.furthest:
                known |= costs(list(range(high + 1, high + 1 + self.stride)))
            else:
                return best
