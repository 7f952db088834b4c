"""A perceptron in place of the LSTM: a coordinate remembers running averages alone (in the manner of Metz et al. 2020)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import KindSpec, LearnedOptimizer, Replay
from l2lcli.optimizers._averages import AveragesSpec, P, bounded, see, unseen


class MlpSpec(KindSpec):
    """Coordinatewise perceptron over running averages; gradients of the opposite sign give the opposite update."""

    kind: Literal["mlp"] = "mlp"
    hidden: int = Field(default=8, ge=0, le=1024)
    """Units; 0 leaves the linear map alone."""
    averages: AveragesSpec = AveragesSpec()
    """The running averages that it sees, which are all its memory."""
    clock: bool = True
    """It also sees which part of its horizon is over; of a horizon that nobody says, it thinks half."""
    output_scale: float = Field(default=0.1, gt=0)
    """What it says is multiplied by this to give the update."""


@registry.optimizer.register("mlp", MlpSpec)
def mlp(spec: MlpSpec) -> LearnedOptimizer:
    """Build the family.

    d = output_scale (s · x + r · (tanh(A x) ⊙ (1 + B y))), x the K averages and the gradient, once as they are and once divided
    by the root r of the averaged square, which change their sign with the gradient, and y what does not: log r, the sizes of
    the averages over r, the clock. So d changes its sign with the gradients, and is 0 where none was ever seen.

    phi: `skip [2K+2]`, and `hidden/{odd [H, 2K+2], even [H, inputs], readout [H]}`. Memory: K + 1 numbers per coordinate.
    """
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    from l2lcli.inner.transformation import transformation

    averages = len(spec.averages.decays)
    odd, even = 2 * averages + 2, averages + 2 + 2 * spec.clock

    def init(key, theta):
        dtype = jax.tree.leaves(theta)[0].dtype
        phi: dict[str, Any] = {"skip": jnp.zeros(odd, dtype)}
        if spec.hidden:
            keys = jax.random.split(key, 3)
            draw = lambda key, shape: jax.random.normal(key, shape, dtype) * shape[-1] ** -0.5
            phi["hidden"] = {
                "odd": draw(keys[0], (spec.hidden, odd)),
                "even": 0.1 * draw(keys[1], (spec.hidden, even)),
                "readout": draw(keys[2], (spec.hidden,)),
            }
        return phi

    def bind(phi):
        def start(theta):
            return unseen(spec.averages, ravel_pytree(theta)[0])

        def update(grad, state, theta=None, *, horizon=0, **extra):
            flat, unravel = ravel_pytree(grad)
            with jax.named_scope("averages"):
                state, ratios, root = see(spec.averages, state, flat)
            size = bounded(root)
            # Row by row, not as a product of matrices: it is one pass over the coordinates then.
            divided, as_it_is = jnp.split(phi["skip"], 2)
            said = jnp.zeros_like(size)
            for of_ratio, of_row, row in zip(divided, as_it_is, ratios, strict=True):
                said += (of_ratio + of_row * size) * row
            if spec.hidden:
                x = jnp.concatenate([ratios, ratios * size[None]])
                y = [jnp.ones_like(size), jnp.log(size) / P, *jnp.abs(ratios[:averages])]
                if spec.clock:
                    y += [jnp.full_like(size, of_time) for of_time in clock(state.seen, horizon)]
                hidden = jnp.tanh(phi["hidden"]["odd"] @ x) * (1 + phi["hidden"]["even"] @ jnp.stack(y))
                said = said + phi["hidden"]["readout"] @ hidden
            return unravel(spec.output_scale * said), state

        def clock(seen, horizon):
            """Two functions of time, (); `seen` is the number of gradients seen."""
            whole = jnp.where(horizon > 0, horizon, 2 * seen).astype(seen.dtype)
            return jnp.minimum(seen / whole, 1), jnp.log(whole / 100)

        return transformation(start, update)

    return LearnedOptimizer(init, bind, replay=Replay())
