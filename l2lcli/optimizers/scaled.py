"""A coordinatewise rule that says in which direction, and a small network for each tensor that says how far.

What a step is measured in decides whether an optimizer holds on networks that it never saw: a layer of 784 inputs wants other
steps than one of 10. Here a rule, shared by all coordinates, is fed gradients that are divided by their tensor's root mean
square; what it says is added to the average gradient (a nominal term: Harrison, Metz and Sohl-Dickstein 2022, "STAR"),
brought to a size that does not depend on a layer's fans (Yang et al. 2022; Bernstein and Newhouse 2024), and multiplied by a
step size that a second network decides from what is known of the tensor and of the run.
"""

from __future__ import annotations

from typing import Generic, Literal, TypeVar

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Composed, ComposedState, KindSpec, LearnedOptimizer, Replay

Member = TypeVar("Member", bound=KindSpec)
STEP = (0.35, 0.025, 0.025)  # of a matrix, a vector, a single number, at the start of meta-training
DEPTH, HORIZON = -1.0, -0.2  # and the powers of the number of matrices and of the horizon that they are multiplied by
AGREED, ELAPSED = 1.0, 1.0  # gain of the controller of the step size, in `_tensors.PERIOD`: it settles where a cosine is -.2
LIMIT = 4.0  # of the logarithm of a step size


class ScaledSpec(KindSpec, Generic[Member]):
    """A coordinatewise rule whose updates are brought to a size of their own, tensor by tensor."""

    kind: Literal["scaled"] = "scaled"
    rule: Member | None = Field({"kind": "mlp"}, validate_default=True)
    """Says in which direction each coordinate should move, beside the average gradient; null: that alone."""
    memory: float = Field(default=3.0, ge=1)
    """Steps over which gradients are averaged at the start of a run; what the rule says is added to the negative average."""
    growth: float = Field(default=0.05, ge=0)
    """How many steps more with each step."""
    normalise: Literal["orthogonal", "rms", "none"] = "orthogonal"
    """How the sum is brought to a size of its own: a matrix with singular values of 1, or entries of root mean square 1."""
    hidden: int = Field(default=16, ge=0, le=1024)
    """Units of the network that decides the step size of a tensor; 0: a linear map of what it is shown."""
    anneal: bool = True
    """Steps fall to zero along a line at the end of the horizon."""
    clock: bool = True
    """That network is shown how long the run is, and which part of it is over."""
    control: bool = True
    """And the sums over steps that control the step size, of how gradients agree with the average before them."""


@registry.optimizer.register("scaled", ScaledSpec)
def scaled(spec: ScaledSpec) -> LearnedOptimizer:
    """Build the family.

    phi: `rule`, that of the rule, and `output/{step [3], nominal [3], linear [F], kernel [H, F], bias [H], readout [H]}`: the
    logarithms of step size and of the nominal term's share for matrices, vectors and single numbers, and the network over the F
    features of `_tensors.see`. Raises ValueError for a rule that is not coordinatewise, or reads parameters.
    """
    import jax
    import jax.numpy as jnp

    from l2lcli.inner.flat import flat
    from l2lcli.inner.transformation import called, transformation
    from l2lcli.optimizers import _tensors

    family = _built(spec.rule)
    rule = flat(family)
    begun = _tensors.DEPTH, _tensors.HORIZON, _tensors.AGREED, _tensors.ELAPSED
    unseen = [] if spec.clock else list(_tensors.CLOCK)
    unseen += [] if spec.control else list(_tensors.CONTROLS)

    def init(key, theta):
        rule_key, kernel_key = jax.random.split(key)
        dtype = jax.tree.leaves(theta)[0].dtype
        output = {
            "step": jnp.log(jnp.array(STEP, dtype)),
            "nominal": jnp.zeros(_tensors.ROLES, dtype),
            "linear": jnp.zeros(_tensors.FEATURES, dtype)
            .at[jnp.array(begun)]
            .set(jnp.array([DEPTH, HORIZON, AGREED, ELAPSED])),
        }
        if spec.hidden:
            shape = spec.hidden, _tensors.FEATURES
            output["kernel"] = jax.random.normal(kernel_key, shape, dtype) * _tensors.FEATURES**-0.5
            output["bias"] = jnp.zeros(spec.hidden, dtype)
            output["readout"] = jnp.zeros(spec.hidden, dtype)
        return {"rule": rule.init(rule_key, theta), "output": output}

    @jax.named_scope("features")
    def feed(grad, state, theta, value, horizon):
        return _tensors.see((spec.memory, spec.growth), state, grad, theta, value, horizon)

    @jax.named_scope("size")
    def output(phi, said, known):
        features = known.features.at[:, jnp.array(unseen)].set(0) if unseen else known.features
        logs = features @ phi["linear"]
        if spec.hidden:
            logs = logs + jnp.tanh(features @ phi["kernel"].T + phi["bias"][None]) @ phi["readout"]
        directions, structure = jax.tree.flatten(said)
        roles = jnp.array([_tensors.role(d) for d in directions])
        steps = jnp.exp(phi["step"][roles] + LIMIT * jnp.tanh(logs / LIMIT))
        steps = steps * known.schedule if spec.anneal else steps
        share = jnp.exp(phi["nominal"])[roles]
        updates = [
            step * _tensors.sized(spec.normalise, d - part * nominal, live, fans)
            for step, d, part, nominal, live, fans in zip(
                steps, directions, share, jax.tree.leaves(known.nominal), jax.tree.leaves(known.live), known.fans, strict=True
            )
        ]
        return structure.unflatten(updates)

    def bind(phi):
        tx = called("rule", rule.bind(phi.get("rule", {})))  # an artefact has no names without numbers

        def start(theta):
            return ComposedState(tx.init(theta), _tensors.unseen(theta))

        def update(grad, state, theta=None, *, value=None, horizon=0, **extra):
            if theta is None or value is None:
                raise ValueError("this optimizer reads the parameters and the loss: call update with params and value=loss")
            x, known, fed = feed(grad, state.fed, theta, value, horizon)
            said, of_rule = tx.update(x, state.rule, value=value, horizon=horizon)
            return output(phi["output"], said, known), ComposedState(of_rule, fed)

        return transformation(start, update)

    composed = Composed(family, _tensors.unseen, feed, output)
    return LearnedOptimizer(init, bind, replay=Replay(composed=composed))


def _built(rule: KindSpec | None) -> LearnedOptimizer:
    """A rule; None is the one that says nothing, remembers nothing and has nothing to be learned."""
    import jax
    import jax.numpy as jnp

    from l2lcli.inner.transformation import transformation

    if rule is None:
        silent = lambda grad, state, theta=None, **extra: (jax.tree.map(jnp.zeros_like, grad), state)
        return LearnedOptimizer(lambda key, theta: {}, lambda phi: transformation(lambda theta: (), silent), replay=Replay())
    family = registry.optimizer.build(rule)
    if family.replay is None or family.start is not None or family.replay.members or family.replay.composed:
        raise ValueError(f"optimizer.rule: {rule.kind!r} is not a rule for single coordinates")
    return family
