"""An LSTM with averaging cells that reads and writes a memory shared by all coordinates: NTM-BFGS and NTM-L-BFGS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field, model_validator

from l2lcli import registry
from l2lcli.base import LearnedOptimizer
from l2lcli.optimizers._preprocess import features, preprocess
from l2lcli.optimizers.lstm_gac import GacSpec

if TYPE_CHECKING:
    import jax

    from l2lcli.optimizers._memory import Memory

SMALLEST = 1e-8  # root mean squares are at least this
P = 10.0  # logarithms are cut at -P and divided by it, as `log_sign` does


class NtmSpec(GacSpec):
    """What both kinds say."""

    layers: int = Field(default=1, ge=1, le=8)
    """LSTM layers of the controller."""
    reads: int = Field(default=1, ge=1, le=16)
    """Read heads (R)."""
    writes: int = Field(default=3, ge=0, le=16)
    """Write heads; without any the memory stays the identity, which shows what it is good for."""
    rate: float = Field(default=0.1, gt=0)
    """Untrained, the update is near so much of the first read, whose key is the gradient: gradient descent at this rate."""
    growth: float = Field(default=2.0, gt=0)
    """An update is cut to so many times the length of the one before, or of `rate` times the gradient, whichever is longer.
    Root mean squares below 1e-8 count as 1e-8 here."""
    write_scale: float = Field(default=1.0, gt=0)
    """Multiplies what is written."""


class NtmBfgsSpec(NtmSpec):
    """LSTM+GAC with a memory of N x N (NTM-BFGS of Andrychowicz et al. 2016)."""

    kind: Literal["ntm_bfgs"] = "ntm_bfgs"


class NtmLbfgsSpec(NtmSpec):
    """LSTM+GAC whose memory is its latest writes alone (NTM-L-BFGS of Andrychowicz et al. 2016)."""

    kind: Literal["ntm_lbfgs"] = "ntm_lbfgs"
    window: int = Field(default=30, ge=1, le=10_000)
    """Writes that are remembered: those of the latest window / writes steps."""

    @model_validator(mode="after")
    def _steps(self):
        if self.writes and self.window % self.writes:
            raise ValueError(f"window {self.window} is not a multiple of writes, {self.writes}: it would forget half a step")
        return self


class ControllerState(NamedTuple):
    """State of the learned controller, of N coordinates."""

    h: tuple[jax.Array, ...]  # [H, N] each
    c: tuple[jax.Array, ...]  # [H, N] each
    gradient: jax.Array  # [N] the one before
    step: jax.Array  # [N] the update before


@registry.optimizer.register("ntm_bfgs", NtmBfgsSpec)
def ntm_bfgs(spec: NtmBfgsSpec) -> LearnedOptimizer:
    """Build the family; see `_memory` for the memory and for how it can be BFGS, and `_family` for the controller.

    Its transformation's init raises ValueError for a theta of more than `_memory.LARGEST` coordinates.
    """
    from l2lcli.optimizers._memory import whole

    return _family(spec, whole())


@registry.optimizer.register("ntm_lbfgs", NtmLbfgsSpec)
def ntm_lbfgs(spec: NtmLbfgsSpec) -> LearnedOptimizer:
    """Build the family: M is the identity and the sum of the latest `window` writes, in O(window N) time and memory.

    With BFGS's writes it is BFGS until the window is full, and so L-BFGS with as many pairs. Then it is not: a write is made
    once, of H_t y with the H_t of its day, and stays what it was, where L-BFGS computes every pair's contribution anew as if
    those that are forgotten had never been. Only with one pair (of three writes, of y itself in place of H_t y) are the two the
    same. A controller with 2m averages and the m latest pairs in its own state could run L-BFGS's two loops, without a memory.
    """
    from l2lcli.optimizers._memory import latest

    return _family(spec, latest(spec.window))


def _family(spec: NtmBfgsSpec | NtmLbfgsSpec, memory: Memory) -> LearnedOptimizer:
    """The family of the learned controller with a memory.

    The controller is an LSTM with averaging cells. It knows V vectors of coordinates: the gradient, its difference from the one
    before, the step before, and the reads; each divided by its root mean square (the difference by the sum of both gradients').
    The LSTM is shown them and the logarithms of the sizes of gradient, step and reads. All that the controller says, the
    update, the keys and both sides of every write, is a combination of the vectors, whose weights are linear read-outs of the
    LSTM: BFGS is made of the same vectors, weighed by functions of averages. The update has the step as it was, and the others
    in units of the gradient, times `rate`. What is written is divided by N, so that a read weighs by averages, not by sums.
    Since the vectors are of unit size, the memory grows at most in proportion to the steps: what was read has no say in how
    much is written. `growth` stands in for a line search: without it a run whose gradients are next to nothing is now and then
    thrown far away.

    phi: `lstm_<i>/{input [4H, inputs], recurrent [4H, H], bias [4H]}` and, for keys (V without the reads, R outputs) and act
    (1 + 2K outputs), `<head>/{kernel [outputs, V, H], bias [outputs, V]}`. At the start the keys are the gradient, the update
    is -`rate` times the first read, and every write has the step on its right and next to nothing on its left.

    The paper says that reads and writes are made coordinatewise by an LSTM+GAC, that the memory takes low-rank writes alone,
    and that one read and three writes suffice for BFGS. It has neither the number of heads that were used, nor sizes, training
    or results of these two. The root mean squares, the vectors and their combination, `growth`, reading in the same step, and
    the start are this project's.
    """
    import jax
    import jax.numpy as jnp

    from l2lcli.optimizers import _gac
    from l2lcli.optimizers._lstm_cell import fresh_layer, fuse_layer, uniform
    from l2lcli.optimizers._memory import Act, Controller, remembering

    show = preprocess(spec.preprocess)
    inputs, hidden = features(spec.preprocess) + 5 + 2 * spec.reads, spec.hidden
    layers = [f"lstm_{i}" for i in range(spec.layers)]
    outputs = {"keys": (spec.reads, 3), "act": (1 + 2 * spec.writes, 3 + spec.reads)}

    def init(key, theta):
        dtype = jax.tree.leaves(theta)[0].dtype
        *layer_keys, keys_key, act_key = jax.random.split(key, spec.layers + 2)
        sizes = [inputs] + [hidden] * (spec.layers - 1)
        phi = {
            name: fresh_layer(jax.random.split(layer_key, 3), size, hidden, dtype)
            for name, layer_key, size in zip(layers, layer_keys, sizes, strict=True)
        }
        bias = {name: jnp.zeros(shape, dtype) for name, shape in outputs.items()}
        bias["keys"] = bias["keys"].at[:, 0].set(1.0)
        bias["act"] = bias["act"].at[0, 3].set(-1.0).at[1 + spec.writes :, 2].set(1.0)
        for name, head_key in (("keys", keys_key), ("act", act_key)):
            kernel = 0.1 * uniform(head_key, (*outputs[name], hidden), hidden, dtype)
            phi[name] = {"kernel": kernel, "bias": bias[name]}
        return phi

    def root(rows):
        """Of the mean square of each, [V, 1]; finite derivatives at 0, the second ones too, and no square that overflows."""
        unit = jax.lax.stop_gradient(jnp.maximum(jnp.abs(rows).max(1, keepdims=True), SMALLEST))  # the result hangs on no unit
        square = jnp.mean(jnp.square(rows / unit), 1, keepdims=True)
        return unit * jnp.sqrt(jnp.maximum(square, jnp.square(SMALLEST / unit)))

    def known(grad, state):
        """The gradient, its difference and the step at unit size [3, N], and these sizes [3, 1]."""
        sizes = root(jnp.stack([grad, state.gradient, state.step]))
        sizes = sizes.at[1].add(sizes[0])
        return jnp.stack([grad, grad - state.gradient, state.step]) / sizes, sizes

    def controller(phi):
        fused = tuple(fuse_layer(phi[name], spec.forget_bias) for name in layers)

        def say(head, h, vectors):
            """Combinations [outputs, N] of the vectors [V, N]."""
            weights = jnp.einsum("ovh,hn->ovn", head["kernel"], h) + head["bias"][:, :, None]
            return jnp.einsum("ovn,vn->on", weights, vectors)

        def start(flat):
            zeros = lambda: tuple(jnp.zeros((hidden, flat.size), flat.dtype) for _ in layers)
            return ControllerState(zeros(), zeros(), jnp.zeros_like(flat), jnp.zeros_like(flat))

        def keys(grad, state):
            return say(phi["keys"], state.h[-1], known(grad, state)[0])

        def act(grad, reads, state):
            vectors, (size, both, moved) = known(grad, state)  # sizes are [1]
            gains = root(reads)[:, 0]  # of the memory: keys are about as large as vectors
            vectors = jnp.concatenate([vectors, reads / gains[:, None]])
            logs = jnp.maximum(jnp.log(jnp.concatenate([size, moved, gains])), -P) / P
            logs = jnp.broadcast_to(logs[:, None], (logs.size, grad.size))
            x = jnp.concatenate([jax.vmap(show, out_axes=-1)(grad), vectors, logs])
            h, c, sent = _gac.step(fused, state.h, state.c, x, spec.averaged, _gac.averaging(grad, "all"))
            units = jnp.concatenate([spec.rate * size, spec.rate * both, moved, spec.rate * size * gains])
            first, rest = ({name: leaf[part] for name, leaf in phi["act"].items()} for part in (slice(1), slice(1, None)))
            update = say(first, sent, units[:, None] * vectors)
            bound = spec.growth * jnp.maximum(moved, spec.rate * size)
            update = (update * jnp.minimum(1.0, bound[:, None] / root(update)))[0]
            left, right = jnp.split(say(rest, sent, vectors), 2)
            return Act(update, spec.write_scale / grad.size * left, right), ControllerState(h, c, grad, update)

        return Controller(start, keys, act)

    return LearnedOptimizer(init, lambda phi: remembering(controller(phi), memory))
