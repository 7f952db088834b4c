"""Hand-made optimizers as families: phi is the logarithm of the learning rate, everything else as in the papers compared with.

Any constructor of `optax` or `optax.contrib` serves by its name if a learning rate is all that it needs and its update
runs from (grads, state, params, value) alone.
"""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, create_model

from l2lcli import registry
from l2lcli.base import KindSpec, LearnedOptimizer, Replay

# Optax's constructor and what differs from its defaults. As Torch7 has them, which the paper compared with (Andrychowicz et al.
# 2016, Section 3): RMSprop with a decay of .99 and epsilon beside the root, momentum .9.
COMMON: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("sgd", {}),
    "momentum": ("sgd", {"momentum": 0.9}),
    "nag": ("sgd", {"momentum": 0.9, "nesterov": True}),
    "rmsprop": ("rmsprop", {"decay": 0.99, "eps_in_sqrt": False}),
    "adam": ("adam", {}),
    "adagrad": ("adagrad", {}),
    "adadelta": ("adadelta", {}),
}
# The same with a rate that falls to zero along a half cosine (Loshchilov and Hutter 2017, without restarts), as
# practitioners use them: only where the number of steps is known.
COSINE = {"adam_cosine": "adam", "nag_cosine": "nag"}
# The same after gradients longer than 1 are cut to that length (Pascanu et al. 2013): the norm is that of all coordinates.
CLIPPED = {"clipped_sgd": "sgd", "clipped_momentum": "momentum", "clipped_adam": "adam"}
CLIP = 1.0


def check(name: str, horizon: int | None = None) -> None:
    """Raise ValueError, with the reason in one line, unless `name` is an optimizer that `hand` can build."""
    if name in COSINE and horizon is None:
        raise ValueError(f"{name} needs to know the last step, where its learning rate is zero; only a baseline does")
    if name not in COMMON | COSINE | CLIPPED:
        _constructor(name)


def hand(name: str, learning_rate: float = 1e-3, horizon: int | None = None) -> LearnedOptimizer:
    """The family of one hand-made optimizer; phi = {"log_learning_rate": ()}.

    Args:
      name: one of COMMON, COSINE or CLIPPED, or a constructor of `optax` or `optax.contrib`.
      learning_rate: where phi starts.
      horizon: T, the step at which the rate of those in COSINE is zero; the others do not read it.

    Raises ValueError for a name that is none, for one that needs more than a learning rate, or for a missing horizon.
    """
    import jax.numpy as jnp
    import optax

    check(name, horizon)
    constructor = _constructor((COSINE | CLIPPED).get(name, name))

    def scheduled(rate: Any) -> Any:
        return optax.cosine_decay_schedule(rate, horizon) if name in COSINE and horizon is not None else rate

    def init(key, theta):
        del key, theta
        return {"log_learning_rate": jnp.asarray(math.log(learning_rate), jnp.float32)}

    def bind(phi):
        # In the precision of phi: a float64 phi gives a float64 rate.
        tx = constructor(scheduled(jnp.exp(phi["log_learning_rate"])))
        return optax.with_extra_args_support(optax.chain(optax.clip_by_global_norm(CLIP), tx) if name in CLIPPED else tx)

    elementwise = name in COMMON or name in COSINE
    return LearnedOptimizer(init, bind, replay=Replay() if elementwise else None)


@functools.cache
def _constructor(name: str) -> Callable[[Any], Any]:
    import jax
    import jax.numpy as jnp
    import optax
    import optax.contrib

    if name in COMMON:
        attribute, fixed = COMMON[name]
        return functools.partial(getattr(optax, attribute), **fixed)
    # contrib first: Optax itself still has some of its names, deprecated.
    candidate = getattr(optax.contrib, name, None) or getattr(optax, name, None)
    if not inspect.isfunction(candidate) or name.startswith("_"):
        known = ", ".join([*COMMON, *COSINE, *CLIPPED])
        raise ValueError(f"no optimizer named {name!r}; known: {known}, and those of optax and optax.contrib")
    parameters = inspect.signature(candidate).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    more = ", ".join(n for n in needed if n != "learning_rate")
    if more:
        raise ValueError(f"optax's {name} cannot serve here: it needs {more}, and only a learning rate is tuned")
    if "learning_rate" not in [p.name for p in parameters]:
        raise ValueError(f"optax's {name} cannot serve here: it takes no learning rate")

    def trial(learning_rate, theta):
        tx = optax.with_extra_args_support(candidate(learning_rate=learning_rate))
        return tx.update(theta, tx.init(theta), theta, value=jnp.float32(0))[0]

    # A scalar too: phi has one, and these are meta-optimizers as well.
    theta = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((3, 2), (2,), ())]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            step = jax.eval_shape(trial, jax.ShapeDtypeStruct((), jnp.float32), theta)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"optax's {name} cannot serve here: its update does not run from gradients, state, parameters and the loss "
            f"alone ({reason})"
        ) from None
    if jax.tree.structure(step) != jax.tree.structure(theta):
        raise ValueError(f"optax's {name} cannot serve here: it is no optimizer")
    return lambda learning_rate: candidate(learning_rate=learning_rate)


class HandSpec(KindSpec):
    """A hand-made optimizer as a family whose one meta-parameter is its learning rate."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Where the learning rate starts."""
    learned: bool = True
    """Meta-train the learning rate; else it stays, and phi is empty."""


def _register(name: str) -> None:
    kind: Any = Literal[name]  # pyright: ignore[reportInvalidTypeForm]  of each name in COMMON
    doc = f"{name} as a family whose one meta-parameter is its learning rate."
    spec = create_model(f"{name.capitalize()}Spec", __base__=HandSpec, __doc__=doc, kind=(kind, name))
    registry.optimizer.register(name, spec)(_build)


def _build(spec: HandSpec) -> LearnedOptimizer:
    import jax.numpy as jnp

    family = hand(spec.kind, spec.learning_rate)
    if spec.learned:
        return family
    rate = lambda: jnp.asarray(math.log(spec.learning_rate), jnp.float32)  # made when it is used: JAX starts then
    return family._replace(init=lambda key, theta: {}, bind=lambda phi: family.bind({"log_learning_rate": rate()}))


for _name in COMMON:
    _register(_name)
