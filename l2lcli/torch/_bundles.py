"""Which parameters are stepped together, as one vector, and how that vector is divided into tensors again.

A *bundle* is of parameters with one history: the same group, device and type, and a gradient at the same steps. Its state is
that of one vector of N coordinates, so that a step is a few operations on all of them, and not a few for each parameter.
Where a parameter of a bundle has no gradient at some step, and others of it have, the bundle is divided, for good: each part
then goes on as if it had been alone from the start. In a bundle, tensors of one shape lie side by side: a *bucket*, whose
tensors are dealt with together where the vector is not enough.
"""

# Where PyTorch is not installed, pyright takes this very folder for it.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch


class Bucket(NamedTuple):
    """K tensors of one shape, one after the other in the vector.

    Attributes:
      shape: of each.
      outputs: the axis of a matrix's outputs.
      at: their coordinates in the vector.
      tensors: their places among the bundle's.
    """

    shape: tuple[int, ...]
    outputs: int
    at: slice
    tensors: slice

    @property
    def number(self) -> int:
        """K."""
        return self.tensors.stop - self.tensors.start

    @property
    def role(self) -> int:
        """As `l2lcli.optimizers._tensors.role`: 0 of a matrix, 1 of a vector, 2 of a single number."""
        return 2 if math.prod(self.shape) == 1 else 1 if len(self.shape) < 2 else 0

    def whole(self, flat: torch.Tensor) -> torch.Tensor:
        """The vector [N] as this bucket's tensors [K, outputs, inputs, …], a view."""
        return flat[self.at].view(self.number, *self.shape).movedim(1 + self.outputs, 1)

    def matrices(self, flat: torch.Tensor) -> torch.Tensor:
        """The vector [N] as matrices [K, outputs, inputs times kernel], a view where strides allow one."""
        return self.whole(flat).flatten(2)


class Fixed(NamedTuple):
    """What never changes of K tensors, on their device and in the type that they are computed in."""

    sizes: torch.Tensor  # [K]
    matrix: torch.Tensor  # [K] 1 of a matrix, else 0
    vector: torch.Tensor  # [K] 1 of a vector, else 0
    roles: torch.Tensor  # [K]


class Bundle(NamedTuple):
    """Parameters that are stepped together.

    Attributes:
      group: their param group.
      parameters: in the vector's order, that of the state's `parameters`.
      sizes: how many coordinates each has.
      buckets: the vector in tensors of one shape.
      fixed: what never changes of them.
      state: `parameters`, the places of the parameters among all of the optimizer's; `seen`, how many gradients they had; and
        tensors by name: `coordinates` [..., N], `tensors` [..., K], `shared` of any shape. Nothing else is kept from step to
        step, and it can be saved as it is.
    """

    group: dict[str, Any]
    parameters: list[torch.Tensor]
    sizes: list[int]
    buckets: list[Bucket]
    fixed: Fixed
    state: dict[str, Any]

    @property
    def dtype(self) -> torch.dtype:
        """What its steps are computed in: float64 for parameters in float64, float32 for all others."""
        return computed_in(self.parameters[0])

    def gradient(self) -> torch.Tensor:
        """The gradients as one vector [N]."""
        return torch.cat([parameter.grad.reshape(-1) for parameter in self.parameters]).to(self.dtype)

    def rows(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """The vector [N], or several [R, N], as views: of each bucket its tensors [K, n], or [R, K, n]."""
        parts = flat.split([bucket.at.stop - bucket.at.start for bucket in self.buckets], -1)
        return [part.unflatten(-1, (bucket.number, -1)) for part, bucket in zip(parts, self.buckets, strict=True)]

    def tensorwise(self, numbers: torch.Tensor) -> list[torch.Tensor]:
        """Numbers [K] of all tensors: of each bucket its own, [K, 1]."""
        return list(numbers[:, None].split([bucket.number for bucket in self.buckets]))

    def apart(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """The vector [N] as views like the parameters."""
        return [part.view_as(p) for part, p in zip(flat.split(self.sizes), self.parameters, strict=True)]


def computed_in(parameter: torch.Tensor) -> torch.dtype:
    """The type that a parameter's steps are computed in."""
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def bundle(groups: Sequence[dict[str, Any]], state: dict[str, Any]) -> Bundle:
    """The bundle that a state is of."""
    everything = [(group, parameter) for group in groups for parameter in group["params"]]
    of = [everything[i] for i in state["parameters"]]
    group, parameters = of[0][0], [parameter for _, parameter in of]
    sizes = [parameter.numel() for parameter in parameters]
    buckets, start, first = [], 0, 0
    for last, parameter in enumerate(parameters, 1):
        if last == len(parameters) or parameters[last].shape != parameter.shape:
            stop, shape = start + sum(sizes[first:last]), tuple(parameter.shape)
            outputs = group["outputs"] if len(shape) > 1 else 0
            if not -len(shape) <= outputs < max(len(shape), 1):
                raise ValueError(f"outputs {outputs} is no axis of a parameter of shape {list(shape)}")
            buckets.append(Bucket(shape, outputs % max(len(shape), 1), slice(start, stop), slice(first, last)))
            start, first = stop, last
    like = torch.empty(0, device=parameters[0].device, dtype=computed_in(parameters[0]))
    roles = torch.tensor([bucket.role for bucket in buckets for _ in range(bucket.number)], device=like.device)
    fixed = Fixed(like.new_tensor(sizes), (roles == 0).to(like.dtype), (roles == 1).to(like.dtype), roles)
    return Bundle(group, parameters, sizes, buckets, fixed, state)


def joined(groups: Sequence[dict[str, Any]], places: Iterable[int]) -> list[list[int]]:
    """Parameters that have their first gradient, in the lists that become bundles: of a group, device and type each."""
    everything = [(k, parameter) for k, group in enumerate(groups) for parameter in group["params"]]
    alike: dict[Any, list[int]] = {}
    for i in places:
        k, parameter = everything[i]
        alike.setdefault((k, parameter.device, computed_in(parameter)), []).append(i)
    return [sorted(found, key=lambda i: (tuple(everything[i][1].shape), i)) for found in alike.values()]


def divided(whole: Bundle, inside: set[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The states of those parameters of a bundle that are inside, and of the others; each as if it had always been alone."""
    places = whole.state["parameters"]
    halves = []
    for chosen in (True, False):
        taken = [k for k, i in enumerate(places) if (i in inside) is chosen]

        def coordinates(leaf, taken=taken):
            parts = leaf.split(whole.sizes, -1)
            return torch.cat([parts[k] for k in taken], -1)

        halves.append(
            {
                "parameters": [places[k] for k in taken],
                "seen": whole.state["seen"],
                "coordinates": {name: coordinates(leaf) for name, leaf in whole.state["coordinates"].items()},
                "tensors": {name: leaf[..., taken] for name, leaf in whole.state["tensors"].items()},
                "shared": {name: leaf.clone() for name, leaf in whole.state["shared"].items()},
            }
        )
    return halves[0], halves[1]
