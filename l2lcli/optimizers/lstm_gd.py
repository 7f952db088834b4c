"""The LSTM whose cell state is the optimizee's parameters, so that its recurrence is gradient descent.

    theta_t = f_t ⊙ theta_{t−1} + i_t ⊙ (−∇_t)

Ravi and Larochelle 2017, Section 3: f_t may shrink the parameters, i_t is a learning rate, and both are decided for every
coordinate and step by one net that all coordinates share. Version 1 decides from the gradient and the loss of the step,
version 2 lets an ordinary LSTM digest those of all steps first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from l2lcli import registry
from l2lcli.base import KindSpec, LearnedOptimizer, Replay
from l2lcli.optimizers._preprocess import LogSign, Preprocess, features, preprocess
from l2lcli.optimizers._start import learning_start

if TYPE_CHECKING:
    import jax

SCALE = 0.01  # weights start as U(−SCALE, SCALE)
BIAS = {"forget": (4.0, 5.0), "input": (-5.0, -4.0)}  # and biases within these: f near .99, i near .01


class LstmGdSpec(KindSpec):
    """What both versions say."""

    preprocess: Preprocess = LogSign()
    """What the gates are shown of a gradient and of the loss."""
    learn_start: bool = True
    """Learn theta_0, too; needs a window as long as the horizon."""
    frozen_rate: float | None = Field(default=None, gt=0, lt=1)
    """Hold f = 1 and i = this, so that the start alone is learned, as in first-order MAML; null to learn the gates."""


class LstmGdV1Spec(LstmGdSpec):
    """Gradient descent with learned gates, from gradient, loss and parameter (Ravi and Larochelle 2017, Section 3.1)."""

    kind: Literal["lstm_gd_v1"] = "lstm_gd_v1"


class LstmGdV2Spec(LstmGdSpec):
    """The same behind a coordinatewise LSTM over gradient and loss (Ravi and Larochelle 2017, Section 3.2)."""

    kind: Literal["lstm_gd_v2"] = "lstm_gd_v2"
    hidden: int = Field(default=20, ge=1, le=1024)
    """Units of the LSTM in front."""


class LstmGdState(NamedTuple):
    """State of N coordinates; N is the last axis."""

    forget: jax.Array  # [N] f_{t−1}
    input: jax.Array  # [N] i_{t−1}
    h: tuple[jax.Array, ...]  # [H, N] of the LSTM in front; none in version 1
    c: tuple[jax.Array, ...]  # [H, N]


@registry.optimizer.register("lstm_gd_v1", LstmGdV1Spec)
def lstm_gd_v1(spec: LstmGdV1Spec) -> LearnedOptimizer:
    """Build version 1: i_t = σ(W_I [∇_t, loss_t, theta_{t−1}, i_{t−1}] + b_I), f_t the same with its own weights and f_{t−1}.

    phi: `forget` and `input/{kernel [inputs], bias ()}` over the preprocessed gradient and loss, theta, and the gate's last
    value, 0 at first; where it is learned `start [N]`. Raises ValueError if nothing is learned.
    """
    return _family(spec, 0)


@registry.optimizer.register("lstm_gd_v2", LstmGdV2Spec)
def lstm_gd_v2(spec: LstmGdV2Spec) -> LearnedOptimizer:
    """Build version 2: the gates read [h_t, theta_{t−1}, i_{t−1}], h_t that of an LSTM over preprocessed gradient and loss.

    phi: that of version 1, and `lstm/{input [4H, inputs], recurrent [4H, H], bias [4H]}`, gates in the order of `lstm`.
    """
    return _family(spec, spec.hidden)


def _family(spec: LstmGdSpec, hidden: int) -> LearnedOptimizer:
    """hidden: units of the LSTM in front; 0 for none."""
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    from l2lcli.inner.transformation import transformation
    from l2lcli.optimizers._lstm_cell import cell, fuse_layer

    show, shown = preprocess(spec.preprocess), 2 * features(spec.preprocess)
    frozen = spec.frozen_rate is not None
    if frozen and not spec.learn_start:
        raise ValueError("nothing of it is learned: frozen_rate is set and learn_start is false")

    def init(key, theta):
        dtype = jax.tree.leaves(theta)[0].dtype
        if frozen:
            return {}
        *keys, lstm_key = jax.random.split(key, 5)
        small = lambda key, shape: jax.random.uniform(key, shape, dtype, -SCALE, SCALE)
        phi: dict[str, Any] = {
            name: {
                "kernel": small(keys[2 * i], ((hidden or shown) + 2,)),
                "bias": jax.random.uniform(keys[2 * i + 1], (), dtype, *BIAS[name]),
            }
            for i, name in enumerate(BIAS)
        }
        if hidden:
            shapes = {"input": (4 * hidden, shown), "recurrent": (4 * hidden, hidden), "bias": (4 * hidden,)}
            parts = zip(shapes.items(), jax.random.split(lstm_key, 3), strict=True)
            phi["lstm"] = {name: small(key, shape) for (name, shape), key in parts}
        return phi

    def bind(phi):
        def start(theta):
            flat, _ = ravel_pytree(theta)
            # One buffer a leaf, not one shared: whoever donates the state would else donate the same buffer twice.
            state = lambda: (jnp.zeros((hidden, flat.size), flat.dtype),) if hidden and not frozen else ()
            return LstmGdState(jnp.zeros_like(flat), jnp.zeros_like(flat), state(), state())

        def gates(grad, theta, state, value):
            """f_t and i_t [N], and the front LSTM's h and c."""
            if spec.frozen_rate is not None:
                return jnp.ones_like(grad), jnp.full_like(grad, spec.frozen_rate), (), ()
            with jax.named_scope("preprocess"):
                loss = jnp.broadcast_to(show(jnp.asarray(value, grad.dtype))[:, None], (shown // 2, grad.size))
                x, h, c = jnp.concatenate([jax.vmap(show, out_axes=-1)(grad), loss]), (), ()
            if hidden:
                with jax.named_scope("lstm"):
                    x, new_c, _ = cell(fuse_layer(phi["lstm"], 0.0), x, state.h[0], state.c[0])
                h, c = (x,), (new_c,)

            def gate(name, before):
                weights = phi[name]
                with jax.named_scope(f"{name} gate"):
                    return jax.nn.sigmoid(weights["kernel"] @ jnp.concatenate([x, theta[None], before[None]]) + weights["bias"])

            return gate("forget", state.forget), gate("input", state.input), h, c

        def update(grad, state, theta=None, *, value=None, **extra):
            if theta is None or value is None:
                raise ValueError("lstm_gd reads the parameters and the loss: call update with params and value=loss")
            flat, unravel = ravel_pytree(grad)
            params, _ = ravel_pytree(theta)
            f, i, h, c = gates(flat, params, state, value)
            return unravel((f - 1) * params - i * flat), LstmGdState(f, i, h, c)

        return transformation(start, update)

    gates_of = lambda state: {"forget": state.forget, "input": state.input}
    family = LearnedOptimizer(init, bind, replay=Replay(), gates=gates_of)
    return learning_start(family) if spec.learn_start else family
