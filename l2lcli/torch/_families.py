"""From the spec and phi of a trained optimizer to what steps bundles of PyTorch parameters."""

# Where PyTorch is not installed, pyright takes this very folder for it.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from l2lcli.base import KindSpec
from l2lcli.optimizers._tensors import CLOCK, CONTROLS, FEATURES, ROLES
from l2lcli.optimizers.lstm import LstmSpec
from l2lcli.optimizers.mlp import MlpSpec
from l2lcli.optimizers.scaled import LIMIT, ScaledSpec
from l2lcli.torch import _tensors
from l2lcli.torch._bundles import Bundle
from l2lcli.torch._rules import Phi, Rule, lstm, mlp, moved, shrunk

NAMES = "lstm, mlp, scaled"


class Family(NamedTuple):
    """What the optimizer's step needs of a family.

    Attributes:
      begin: of a bundle without state, fills in `coordinates`, `tensors` and `shared`.
      updates: (bundles that have gradients, the run, the loss or None) -> updates [N] of each, to be added. The states change
        in place. The run is `steps`, how many were taken, and `losses`, of the whole optimizer.
      reads_loss: whether it needs the loss.
    """

    begin: Callable[[Bundle], None]
    updates: Callable[[list[Bundle], dict[str, Any], torch.Tensor | None], list[torch.Tensor]]
    reads_loss: bool


def family(spec: KindSpec, phi: dict[str, np.ndarray]) -> Family:
    """Build it. Raises ValueError for a family that is not here, or a phi that does not fit it."""
    if isinstance(spec, ScaledSpec):
        return scaled(spec, Phi(phi))
    return coordinatewise(rule(spec, Phi(phi)), spec if isinstance(spec, LstmSpec) else None)


def rule(spec: KindSpec, phi: Phi) -> Rule:
    """A coordinatewise family. Raises ValueError as `family`."""
    if isinstance(spec, LstmSpec):
        return lstm(spec, phi)
    if isinstance(spec, MlpSpec):
        return mlp(spec, phi)
    raise ValueError(f"l2lcli.torch has optimizers of the kinds {NAMES}, not {spec.kind!r}; in JAX: l2lcli.load")


def coordinatewise(rule: Rule, spec: LstmSpec | None) -> Family:
    """The family of a rule alone; `spec` says which updates are made smaller."""

    def begin(bundle):
        coordinates, shared = rule.unseen(sum(bundle.sizes), bundle.fixed.sizes)
        bundle.state.update(coordinates=coordinates, tensors={}, shared=shared)

    def updates(bundles, run, value):
        found = [rule.say(bundle.state, bundle.gradient(), bundle.group["horizon"] or 0) for bundle in bundles]
        for bundle, update in zip(bundles, found, strict=True):
            if spec is not None:
                shrunk(spec, bundle, update)
        return found

    return Family(begin, updates, reads_loss=False)


class OutputWeights(NamedTuple):
    """phi of the network that decides step sizes; what it is not shown has weights of 0."""

    step: torch.Tensor  # [ROLES]
    share: torch.Tensor  # [ROLES] of the nominal term
    linear: torch.Tensor  # [FEATURES]
    kernel: torch.Tensor  # [H, FEATURES]
    bias: torch.Tensor  # [H, 1]
    readout: torch.Tensor  # [H]


def scaled(spec: ScaledSpec, phi: Phi) -> Family:
    """`l2lcli.optimizers.scaled`. The network that it looks at is all parameters of the optimizer, whatever their group."""
    inner = None if spec.rule is None else rule(spec.rule, phi.below("rule"))
    of, hidden = phi.below("output"), spec.hidden
    unseen = [] if spec.clock else list(CLOCK)
    unseen += [] if spec.control else list(CONTROLS)
    linear, kernel = of.take("linear", FEATURES), of.take("kernel", hidden, FEATURES) if hidden else torch.zeros(0, FEATURES)
    linear[unseen] = 0
    kernel[:, unseen] = 0
    bias, readout = (of.take(name, hidden) if hidden else torch.zeros(0) for name in ("bias", "readout"))
    step, share = of.take("step", ROLES), of.take("nominal", ROLES).exp()
    weights = moved(OutputWeights(step, share, linear, kernel, bias[:, None], readout))

    def begin(bundle):
        coordinates, tensors, shared = _tensors.unseen(bundle, bundle.fixed.sizes)
        if inner is not None:
            more, also = inner.unseen(sum(bundle.sizes), bundle.fixed.sizes)
            coordinates, shared = coordinates | more, shared | also
        bundle.state.update(coordinates=coordinates, tensors=tensors, shared=shared)

    def updates(bundles, run, value):
        devices = {bundle.parameters[0].device for bundle in bundles}
        if len(devices) > 1:
            raise ValueError(f"this optimizer looks at the network as a whole: its parameters are on {len(devices)} devices")
        known = [_tensors.see((spec.memory, spec.growth), bundle, bundle.gradient()) for bundle in bundles]
        if "losses" not in run:
            run["losses"] = known[0].x.new_zeros(3)
        shown = _tensors.features(bundles, known, run, value)
        w = weights(shown)
        logs = w.linear @ shown
        if hidden:
            logs += w.readout @ torch.addmm(w.bias, w.kernel, shown).tanh_()
        found, start = [], 0
        for bundle, of in zip(bundles, known, strict=True):
            stop, roles, horizon = start + len(bundle.sizes), bundle.fixed.roles, bundle.group["horizon"] or 0
            steps = (w.step[roles] + LIMIT * (logs[start:stop] / LIMIT).tanh_()).exp_()
            if spec.anneal:
                steps *= 1 - min(run["steps"] / (horizon or 2 * (run["steps"] + 1)), 1)
            directions = inner.say(bundle.state, of.x, horizon) if inner else torch.zeros_like(of.x)
            shares = bundle.tensorwise(w.share[roles].to(directions.dtype))
            for rows, share, nominal in zip(bundle.rows(directions), shares, bundle.rows(of.nominal), strict=True):
                rows.addcmul_(share, nominal, value=-1)
            _tensors.size(spec.normalise, bundle, of, directions, steps.to(of.x.dtype))
            found.append(directions)
            start = stop
        return found

    return Family(begin, updates, reads_loss=True)
