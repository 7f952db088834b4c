"""The paper's LSTM with global averaging cells, by which coordinates hear of each other."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from l2lcli import registry
from l2lcli.base import KindSpec, LearnedOptimizer
from l2lcli.optimizers._averages import AveragesSpec, see
from l2lcli.optimizers._averages import shown as shown_of_averages
from l2lcli.optimizers._preprocess import LogSign, Preprocess, preprocess
from l2lcli.optimizers.lstm import LstmSpec, LstmState, lstm


class GacSpec(KindSpec):
    """What all optimizers with averaging cells say of their LSTM."""

    hidden: int = Field(default=20, ge=1, le=1024)
    """Units per layer."""
    averaged: int = Field(default=5, ge=0, le=1024)
    """Units of each layer that send out the mean of their activations over coordinates."""
    preprocess: Preprocess = LogSign()
    """What the LSTM is shown of a gradient."""
    forget_bias: float = 1.0
    """Added to the forget gate's input."""

    @model_validator(mode="after")
    def _units(self):
        if self.averaged > self.hidden:
            raise ValueError(f"averaged {self.averaged} is more than the {self.hidden} units of a layer")
        return self


class LstmGacSpec(GacSpec):
    """Coordinatewise LSTM with global averaging cells (LSTM+GAC of Andrychowicz et al. 2016); without any the kind lstm."""

    kind: Literal["lstm_gac"] = "lstm_gac"
    layers: int = Field(default=2, ge=1, le=8)
    """LSTM layers."""
    over: Literal["all", "tensor"] = "all"
    """What the mean is over: all coordinates, or those of each tensor."""
    averages: AveragesSpec | None = None
    """Running averages in time that it is shown, too, as of the kind lstm."""
    output_scale: float = Field(default=0.1, gt=0)
    """The read-out is multiplied by this to give the update."""


@registry.optimizer.register("lstm_gac", LstmGacSpec)
def lstm_gac(spec: LstmGacSpec) -> LearnedOptimizer:
    """Build the family; phi, the gates' order and the read-out are those of the kind `lstm`.

    The first `averaged` units of each layer are cells like the others, with a state of their own for each coordinate, but what
    they send out, to the next layer, to the recurrence and to the read-out, is its mean over coordinates. The paper names the
    cells in the section "Information sharing between coordinates"; how many there are it does not say.

    It is not replayed. A block of coordinates hears of all the others through the means, and the means depend on phi. With the
    means of a window recorded in the forward pass, and held constant, blocks would be independent again; but the gradient
    through the means, by which the cells learn what to average, would be lost. To keep it, the backward sweep would need the
    cotangents of a step's means from all blocks before any block could go on to the step before: blocks in lock-step, with
    all their activations held, which is what `autodiff` does.
    """
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    from l2lcli.inner.transformation import transformation
    from l2lcli.optimizers import _gac
    from l2lcli.optimizers._lstm_cell import fuse

    same = ("layers", "hidden", "preprocess", "averages", "output_scale", "forget_bias")
    plain = lstm(LstmSpec(**{name: getattr(spec, name) for name in same}))
    show = preprocess(spec.preprocess)

    def bind(phi):
        def update(grad, state, theta=None, **extra):
            flat, unravel = ravel_pytree(grad)
            seen, x = state.seen, jax.vmap(show, out_axes=-1)(flat)
            if spec.averages is not None:
                seen, ratios, root = see(spec.averages, seen, flat)
                x = jnp.concatenate([x, shown_of_averages(ratios, root)])
            weights = fuse(phi, spec.forget_bias, spec.output_scale)
            average = _gac.averaging(grad, spec.over)
            h, c, sent = _gac.step(weights.layers, state.h, state.c, x, spec.averaged, average)
            return unravel(weights.kernel @ sent + weights.bias), LstmState(h, c, seen)

        return transformation(plain.bind(phi).init, update)

    return LearnedOptimizer(plain.init, bind)
