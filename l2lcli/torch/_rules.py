"""The coordinatewise families in PyTorch: the LSTM and the perceptron, on a vector of N coordinates."""

# Where PyTorch is not installed, pyright takes this very folder for it.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from l2lcli.optimizers._averages import SMALLEST, AveragesSpec, P, averages_shown
from l2lcli.optimizers._preprocess import Clamp, DeepmindLogSign, LogSign, Preprocess, features
from l2lcli.optimizers.lstm import LstmSpec
from l2lcli.optimizers.mlp import MlpSpec
from l2lcli.torch._bundles import Bundle

WORK = {"cpu": 1 << 18}  # numbers of the widest array of a block of coordinates: on a CPU it stays in a core's cache
BOUND = 1 << 26  # elsewhere, where only memory bounds it

State = dict[str, Any]  # `Bundle.state`


class Rule(NamedTuple):
    """A coordinatewise family with its phi.

    Attributes:
      unseen: (N, a tensor of the device and type) -> `coordinates` and `shared` of the state before the first gradient.
      say: (state, gradients [N], horizon or 0) -> updates [N]. The state's tensors are changed in place; its `seen` counts the
        gradients before this one.
    """

    unseen: Callable[[int, torch.Tensor], tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]
    say: Callable[[State, torch.Tensor, int], torch.Tensor]


class Phi:
    """A stored phi: arrays by name, looked at for their shapes, and moved to where they are used."""

    def __init__(self, arrays: dict[str, np.ndarray], prefix: str = "") -> None:
        """Of those arrays whose names begin with the prefix."""
        self._arrays, self._prefix = arrays, prefix

    def below(self, name: str) -> Phi:
        """Those under a name."""
        return Phi(self._arrays, f"{self._prefix}{name}/")

    def take(self, name: str, *shape: int) -> torch.Tensor:
        """One array, in float64. Raises ValueError if it is missing or of another shape."""
        key = self._prefix + name
        if key not in self._arrays:
            raise ValueError(f"the optimizer's parameters do not fit its family: {key} is missing")
        if self._arrays[key].shape != shape:
            there, here = list(self._arrays[key].shape), list(shape)
            raise ValueError(f"the optimizer's parameters do not fit its family: {key} is {there} there, {here} here")
        return torch.from_numpy(np.array(self._arrays[key], np.float64))


def moved(weights: Any) -> Callable[[torch.Tensor], Any]:
    """A NamedTuple of tensors as a function of a tensor: the same, on that one's device and in its type."""

    @functools.cache
    def to(device: Any, dtype: Any) -> Any:
        move = lambda leaf: leaf.to(device, dtype) if isinstance(leaf, torch.Tensor) else leaf
        return type(weights)(*(tuple(map(move, leaf)) if isinstance(leaf, tuple) else move(leaf) for leaf in weights))

    return lambda like: to(like.device, like.dtype)


def blocks(g: torch.Tensor, rows: int) -> list[slice]:
    """The coordinates [N], a block at a time; of each `rows` numbers are at work."""
    size = max(1, WORK.get(g.device.type, BOUND) // rows)
    return [slice(start, min(start + size, len(g))) for start in range(0, len(g), size)]


class Averaging(NamedTuple):
    """What running averages are computed with."""

    decays: torch.Tensor  # [K + 1] of the averages, and of that of the square
    weights: torch.Tensor  # [K, 1] of a new gradient in the averages

    @classmethod
    def of(cls, spec: AveragesSpec) -> Averaging:
        """In float64."""
        decays = torch.tensor([*spec.decays, spec.square_decay], dtype=torch.float64)
        return cls(decays, 1 - decays[:-1, None])


def unseen_averages(spec: AveragesSpec, n: int, like: torch.Tensor) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """`l2lcli.optimizers._averages.unseen`, by name: averages [K, N], square [N], and the weights of the start [K + 1]."""
    coordinates = {"averages": like.new_zeros(len(spec.decays), n), "square": like.new_zeros(n)}
    return coordinates, {"rest": like.new_ones(len(spec.decays) + 1)}


def see(spec: AveragesSpec, with_: Averaging, state: State, g: torch.Tensor, at: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """`l2lcli.optimizers._averages.see` of a block's gradients [B], after `rest` was brought forward.

    Returns: ratios [K + 1, B] and the root [B].
    """
    mean, square = state["coordinates"]["averages"][:, at], state["coordinates"]["square"][at]
    left = 1 - state["shared"]["rest"]
    mean.lerp_(g, with_.weights)
    square.mul_(spec.square_decay).addcmul_(g, g, value=1 - spec.square_decay)
    root = (square / left[-1]).clamp_min_(SMALLEST**2).sqrt_().add_(SMALLEST)
    ratios = g.new_empty(len(spec.decays) + 1, len(g))
    torch.div(mean, left[:-1, None], out=ratios[:-1])
    ratios[-1] = g
    return ratios.div_(root), root


class LstmWeights(NamedTuple):
    """phi of the LSTM as the step reads it: what it multiplies is shown, or half of an h."""

    inputs: tuple[torch.Tensor, ...]  # [4H, inputs] of each layer; the rows of the cell's input are doubled
    recurrent: tuple[torch.Tensor, ...]  # [4H, H]
    bias: tuple[torch.Tensor, ...]  # [4H, 1], the forget gate's included
    readout: torch.Tensor  # [1, inputs], output scale included
    offset: torch.Tensor  # ()


def lstm(spec: LstmSpec, phi: Phi) -> Rule:
    """`l2lcli.optimizers.lstm`: halves of h and c, [layers H, N].

    Every tanh is a sigmoid, tanh(a) = 2 (sigmoid(2a) - 1/2), six times as fast in PyTorch on a CPU; so a step's four gates are
    one operation. The factors of 2 are in the weights, and h and c are kept halved, which is exact.

    Raises ValueError for a learned start, or a phi that does not fit.
    """
    if spec.learn_start:
        raise ValueError("an optimizer that learns where training starts is for one network, in JAX: l2lcli.load")
    seen = averages_shown(spec.averages) if spec.averages else 0
    shown, hidden = features(spec.preprocess) + seen, spec.hidden
    layers, below = [], shown
    for i in range(spec.layers):
        of = phi.below(f"lstm_{i}")
        x, h, bias = of.take("input", 4 * hidden, below), of.take("recurrent", 4 * hidden, hidden), of.take("bias", 4 * hidden)
        bias[hidden : 2 * hidden] += spec.forget_bias
        for leaf in (x, h, bias):
            leaf[2 * hidden : 3 * hidden] *= 2
        layers.append(((2 if i else 1) * x, 2 * h, bias[:, None]))
        below = hidden
    inputs, recurrent, bias = (tuple(each) for each in zip(*layers, strict=True)) if layers else ((), (), ())
    of = phi.below("readout")
    scale = spec.output_scale * (2 if layers else 1)
    readout = scale * of.take("kernel", below)[None], spec.output_scale * of.take("bias")
    weights = moved(LstmWeights(inputs, recurrent, bias, *readout))
    averaging = moved(Averaging.of(spec.averages or AveragesSpec()))

    def unseen(n, like):
        coordinates, shared = unseen_averages(spec.averages, n, like) if spec.averages else ({}, {})
        for name in ("h", "c") if spec.layers else ():
            coordinates[name] = like.new_zeros(spec.layers * hidden, n)
        return coordinates, shared

    def say(state, g, horizon):
        of, updates = weights(g), torch.empty_like(g)
        if spec.averages:
            state["shared"]["rest"] *= averaging(g).decays
        for at in blocks(g, max(4 * hidden, shown)):
            part = g[at]
            x = g.new_empty(shown, len(part))
            show(spec.preprocess, part, x)
            if spec.averages:
                ratios, root = see(spec.averages, averaging(g), state, part, at)
                x[-seen:-1] = ratios
                torch.log(root.clamp_min_(math.exp(-P)), out=x[-1]).div_(P)
            for i in range(spec.layers):
                own = slice(i * hidden, (i + 1) * hidden)
                h, c = state["coordinates"]["h"][own, at], state["coordinates"]["c"][own, at]
                gates = torch.addmm(of.bias[i], of.inputs[i], x).addmm_(of.recurrent[i], h).sigmoid_()
                taken, kept, cell, given = gates.view(4, hidden, -1).unbind()
                c.mul_(kept).addcmul_(taken, cell.sub_(0.5))
                x = torch.mul(given, torch.mul(c, 4, out=cell).sigmoid_().sub_(0.5), out=h)
            torch.addmm(of.offset, of.readout, x, out=updates[None, at])
        return updates

    return Rule(unseen, say)


def show(spec: Preprocess, g: torch.Tensor, out: torch.Tensor) -> None:
    """`l2lcli.optimizers._preprocess.preprocess` of gradients [B], into the first rows of `out`."""
    match spec:
        case LogSign():
            torch.log(g.abs().clamp_min_(math.exp(-spec.p)), out=out[0]).div_(spec.p)
            torch.mul(g, math.exp(spec.p), out=out[1]).clamp_(-1, 1)
        case DeepmindLogSign():
            torch.log(g.abs().add_(torch.finfo(g.dtype).eps), out=out[0]).div_(spec.k).clamp_min_(-1)
            torch.mul(g, math.exp(spec.k), out=out[1]).clamp_(-1, 1)
        case Clamp():
            torch.clamp(g, spec.low, spec.high, out=out[0])
        case _:
            out[0] = g


def shrunk(spec: LstmSpec, bundle: Bundle, updates: torch.Tensor) -> None:
    """`LstmSpec.fan_in`: make the updates of matrices with more inputs smaller, in place."""
    if spec.fan_in is None:
        return
    for bucket in bundle.buckets:
        if len(bucket.shape) > 1 and (inputs := math.prod(bucket.shape) // bucket.shape[bucket.outputs]) > spec.fan_in:
            updates[bucket.at] *= spec.fan_in / inputs


class MlpWeights(NamedTuple):
    """phi of the perceptron as the step reads it, output scale included; K averages."""

    skip: torch.Tensor  # [2, K + 1] of ratios, and of ratios times the root
    odd: torch.Tensor  # [H, K + 1] of ratios, doubled: tanh is a sigmoid, as in `lstm`
    odd_sized: torch.Tensor  # [H, K + 1] of ratios times the root, doubled
    one: torch.Tensor  # [H, 1] 1 and the even part's constant
    even: torch.Tensor  # [H, K + 1] of the sizes of the averages, and of the root's logarithm
    clock: torch.Tensor  # [H, 2] of the functions of time
    readout: torch.Tensor  # [1, H], doubled


def mlp(spec: MlpSpec, phi: Phi) -> Rule:
    """`l2lcli.optimizers.mlp`. Raises ValueError for a phi that does not fit."""
    averages, hidden = len(spec.averages.decays), spec.hidden
    rows = averages + 1
    parts = [spec.output_scale * phi.take("skip", 2 * rows).view(2, rows)]
    if hidden:
        of = phi.below("hidden")
        odd, even = of.take("odd", hidden, 2 * rows), of.take("even", hidden, rows + 1 + 2 * spec.clock)
        parts += [2 * odd[:, :rows], 2 * odd[:, rows:], 1 + even[:, :1], even[:, 1 : rows + 1].roll(-1, 1), even[:, rows + 1 :]]
        parts += [2 * spec.output_scale * of.take("readout", hidden)[None]]
    else:
        parts += [torch.empty(0)] * 6
    weights, averaging = moved(MlpWeights(*parts)), moved(Averaging.of(spec.averages))

    def unseen(n, like):
        return unseen_averages(spec.averages, n, like)

    def say(state, g, horizon):
        of, updates = weights(g), torch.empty_like(g)
        state["shared"]["rest"] *= averaging(g).decays
        one = of.one
        if hidden and spec.clock:
            seen = state["seen"] + 1
            whole = horizon or 2 * seen
            one = one + min(seen / whole, 1) * of.clock[:, :1] + math.log(whole / 100) * of.clock[:, 1:]
        for at in blocks(g, max(hidden, rows)):
            ratios, root = see(spec.averages, averaging(g), state, g[at], at)
            size = root.clamp_min_(math.exp(-P))
            plain, sized = of.skip @ ratios
            said = torch.addcmul(plain, sized, size, out=updates[at])
            if hidden:
                x = torch.addmm(of.odd_sized @ (ratios * size), of.odd, ratios).sigmoid_().sub_(0.5)
                torch.log(size, out=ratios.abs_()[-1]).div_(P)  # in the place of the gradient's own, which has no part in it
                said += (of.readout @ x.mul_(torch.addmm(one, of.even, ratios)))[0]
        return updates

    return Rule(unseen, say)
