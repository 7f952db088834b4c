"""What an optimizer can know of a tensor of parameters, and how an update of it is brought to a size that it can be given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import jax

ROLES = 3  # matrices (convolutions among them), vectors, single numbers
FEATURES = 19  # of a tensor, as `Tensors.features`
DEPTH, HORIZON = 3, 4  # which of them are the logarithms of the number of matrices, and of T / 100
CLOCK = 4, 5, 6, 7  # what says how long the run is, and which part of it is over
CONTROLS = AGREED, OWN, ELAPSED = 16, 17, 18  # and the sums over steps that control the step size: `see`
CONTROL = 0.3  # part of the horizon in which it is controlled
FADING = 30.0  # steps after which control is halved where no horizon is known
PERIOD = 8.0, 40.0  # steps that agreement and time are counted in
SIZE = 0.9  # decay of the averages of squared gradients and of losses, and of how gradients agree with their average
SLOW = 0.98  # decay of the slower average of losses
TINY = 1e-12
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024, "Muon": singular values end between .7 and 1.2


class Seen(NamedTuple):
    """State: of N coordinates and K tensors."""

    mean: Any  # like theta: the average of normalised gradients, not corrected for its start at 0
    square: jax.Array  # [K] average of the mean squared gradient of each tensor
    first: jax.Array  # [K] the logarithm of its root at the first step
    agree: jax.Array  # [K] average of the cosine between a gradient and the average before it
    losses: jax.Array  # [3] fast and slow average of the loss, and the first one
    control: jax.Array  # [K, 3] sums over steps: of the network's agreement, of the tensor's own beside it, of time
    rest: jax.Array  # () weight of the start at 0 in `mean`
    t: jax.Array  # () steps taken


class Tensors(NamedTuple):
    """What is known of K tensors at one step."""

    nominal: Any  # like theta: the average of normalised gradients, with a look ahead
    live: Any  # like theta: whether a coordinate ever had a gradient
    fans: jax.Array  # [K, 2] live inputs and outputs of a matrix; of a vector 1 and its length
    features: jax.Array  # [K, FEATURES]
    schedule: jax.Array  # () what is left of the step at this part of the horizon, 1 … 0


def role(leaf: Any) -> int:
    """Which role a tensor has: 0, 1 or 2."""
    return 2 if leaf.size == 1 else 1 if leaf.ndim < 2 else 0


def unseen(theta: Any) -> Seen:
    """The state before the first gradient."""
    import jax
    import jax.numpy as jnp

    leaves = jax.tree.leaves(theta)
    dtype = leaves[0].dtype
    zeros = lambda: jnp.zeros(len(leaves), dtype)  # a buffer each
    mean, control = jax.tree.map(jnp.zeros_like, theta), jnp.zeros((len(leaves), 3), dtype)
    return Seen(mean, zeros(), zeros(), zeros(), jnp.zeros(3, dtype), control, jnp.ones((), dtype), jnp.zeros((), dtype))


def see(memory: tuple[float, float], state: Seen, grad: Any, theta: Any, value: Any, horizon: Any) -> tuple[Any, Tensors, Seen]:
    """Take gradients in.

    Args:
      memory: steps over which normalised gradients are averaged at the start, and how many more with each step.
      state: before.
      grad: like theta.
      theta: the parameters.
      value: the loss, ().
      horizon: T, (); 0 if nobody says, and then T is always taken to be twice the steps done: an optimizer for any time.

    Returns:
      Gradients divided by their tensor's root mean square, like theta; what is known of the tensors; the new state. The
      features are constant in what is differentiated, second derivatives flow through the rest.

    How large a step a network bears shows in the cosine between a gradient and the average before it: far above 0 where steps
    could be longer, below where they overshoot. At the step that ends lowest it comes down to about -.1 within the first
    quarter of a run, whatever the network (measured on six; the idea is that of hypergradients: Baydin et al. 2018). So its
    sum over the first steps is a feature, with a weight that fades to 0 at `CONTROL` of the horizon: what its logarithm is
    multiplied by is the gain of a controller of the step size.
    """
    import jax
    import jax.numpy as jnp

    leaves, structure = jax.tree.flatten(grad)
    dtype, t = leaves[0].dtype, state.t + 1
    squares = jnp.stack([_mean(jnp.square(g), g != 0) for g in leaves])
    square = SIZE * state.square + (1 - SIZE) * squares
    root = jnp.sqrt(square / (1 - SIZE**t)) + TINY
    x = [g / r for g, r in zip(leaves, root, strict=True)]
    before = jax.tree.leaves(state.mean)
    decay = 1 - 1 / (memory[0] + memory[1] * state.t)
    rest = decay * state.rest
    mean = [decay * m + (1 - decay) * g for m, g in zip(before, x, strict=True)]
    live = [m != 0 for m in mean]
    nominal = [(decay * m + (1 - decay) * g) / (1 - decay * rest) for m, g in zip(mean, x, strict=True)]

    cosine = jnp.stack([_cosine(g, m) for g, m in zip(x, before, strict=True)])
    agree = SIZE * state.agree + (1 - SIZE) * cosine
    started = state.t > 0
    first = jnp.where(started, state.first, jnp.log(root))
    value = jnp.asarray(value, dtype)
    losses = jnp.where(started, state.losses, value)
    losses = losses.at[:2].multiply(jnp.array([SIZE, SLOW])).at[:2].add(jnp.array([1 - SIZE, 1 - SLOW]) * value)
    fans = jnp.stack([_fans(of_leaf, dtype) for of_leaf in live])

    whole = jnp.where(jnp.asarray(horizon) > 0, horizon, 2 * t).astype(dtype)
    part = jnp.minimum(state.t / whole, 1)
    logs = jnp.log(jnp.maximum(jnp.abs(losses), TINY))
    roles = jnp.array([role(g) for g in leaves])
    matrix = (roles == 0).astype(dtype)
    active = matrix * (squares > 0)
    depth = jnp.sum(active)
    counted = jnp.where(depth > 0, active, squares > 0)
    common = jnp.sum(counted * cosine) / jnp.maximum(jnp.sum(counted), 1)
    weight = jnp.where(jnp.asarray(horizon) > 0, jnp.maximum(1 - part / CONTROL, 0), FADING / (FADING + state.t))
    signals = [jnp.full_like(cosine, common), counted * (cosine - common), jnp.full_like(cosine, (whole / 100) ** -0.5)]
    control = state.control + jnp.where(started, weight, 0) * jnp.stack(signals, 1)
    sizes = [jnp.sqrt(jnp.mean(jnp.square(p)) * fan) for p, fan in zip(jax.tree.leaves(theta), fans[:, 0], strict=True)]
    spread = jnp.log(jnp.stack(sizes) + TINY)
    noise = jnp.stack([jnp.sqrt(_mean(jnp.square(n), of_leaf)) for n, of_leaf in zip(nominal, live, strict=True)])
    everywhere = lambda number: jnp.full(len(leaves), number, dtype)
    agreement = agree / (1 - SIZE**t)
    features = jnp.stack(
        [
            (roles == 1).astype(dtype),
            matrix * jnp.log(fans[:, 0]) / 4,
            matrix * jnp.log(fans[:, 1]) / 4,
            everywhere(jnp.log(jnp.maximum(depth, 1))),
            everywhere(jnp.log(whole / 100)),
            everywhere(part),
            everywhere(jnp.exp(-state.t / 5)),
            everywhere(jnp.exp(-state.t / 30)),
            jnp.log(noise + 1e-3) / 2,
            agreement,
            everywhere(agreement.mean()),
            everywhere(2 * jnp.clip(logs[0] - logs[1], -1, 1)),
            everywhere(jnp.clip(logs[0] - logs[2], -6, 3) / 3),
            jnp.clip(jnp.log(root) - first, -6, 6) / 3,
            matrix * jnp.clip(spread, -3, 3) / 2,
            everywhere(1.0),
            control[:, 0] / PERIOD[0],
            control[:, 1] / PERIOD[0],
            control[:, 2] / PERIOD[1],
        ],
        1,
    )
    schedule = 1 - part
    features = jax.lax.stop_gradient(features)
    known = Tensors(structure.unflatten(nominal), structure.unflatten(live), fans, features, schedule)
    state = Seen(structure.unflatten(mean), square, first, agree, losses, control, rest, t)
    return structure.unflatten(x), known, state


def sized(normalise: str, direction: Any, live: Any, fans: Any) -> Any:
    """A tensor's update in the size that moves its layer's output by about one unit for inputs of about one.

    orthogonal: a matrix with its singular values brought to 1, times √(outputs / inputs) (Bernstein and Newhouse 2024; Jordan
    et al. 2024). rms: divided by the root mean square over its live coordinates, with the same Frobenius norm as the former's.
    none: as it is, times that norm. A vector is divided by its root mean square but for none. A single number stays as it is:
    divided by its own size it would be ±1, and have no gradient.
    """
    import jax.numpy as jnp

    direction = jnp.where(live, direction, 0)
    kind = role(direction)
    if kind == 0:
        inputs, outputs = fans[0], fans[1]
        if normalise == "orthogonal":
            flat = direction.reshape(-1, direction.shape[-1])
            return jnp.sqrt(outputs / inputs) * orthogonalised(flat).reshape(direction.shape)
        size = jnp.sqrt(outputs / inputs / jnp.maximum(inputs, outputs))
        return size * (direction if normalise == "none" else direction / _root(direction, live))
    return direction if kind == 2 or normalise == "none" else direction / _root(direction, live)


def orthogonalised(matrix: jax.Array, steps: int = 5) -> jax.Array:
    """[n, m] with its singular values brought near 1, by a Newton-Schulz iteration of fifth order (Jordan et al. 2024).

    Each of its steps is x ↦ q(x xᵀ) x with a polynomial q of the Gram matrix, and these commute. So all of them are taken on
    the Gram matrix of the shorter side, and what they come to is multiplied by x once: two products with the longer side in
    place of ten. In float32 that is as good where singular values are within a factor of 10 of each other; where they are far
    below the largest one, it is off by at most .004 in spectral norm, beside values that end between .7 and 1.2 anyway.
    """
    import jax
    import jax.numpy as jnp

    a, b, c = NEWTON_SCHULZ
    times = lambda x, y: jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)  # the iteration amplifies errors 500 times
    long = int(matrix.shape[0] < matrix.shape[1])  # the axis that the Gram matrix sums over
    x = matrix * jax.lax.rsqrt(_product(matrix, matrix) + TINY)
    gram = jax.lax.dot_general(x, x, (((long,), (long,)), ((), ())), precision=jax.lax.Precision.HIGHEST)
    eye = jnp.eye(len(gram), dtype=gram.dtype)
    whole = eye
    for step in range(steps):
        factor = a * eye + b * gram + c * times(gram, gram)
        whole = times(factor, whole) if step else factor
        gram = times(times(factor, gram), factor)
    return times(whole, x) if long else times(x, whole)


def _root(values, live):
    import jax.numpy as jnp

    return jnp.sqrt(_mean(jnp.square(values), live) + TINY)


def _mean(values, counted):
    """Over the counted ones; 0 where there are none. As products of vectors: XLA's sums take twice as long on a CPU."""
    import jax.numpy as jnp

    counted = counted.astype(values.dtype)
    return _product(values, counted) / jnp.maximum(_product(counted, counted), 1)


def _cosine(a, b):
    import jax.numpy as jnp

    return _product(a, b) / jnp.sqrt(_product(a, a) * _product(b, b) + TINY)


def _product(a, b):
    import jax
    import jax.numpy as jnp

    return jnp.vdot(a.ravel(), b.ravel(), precision=jax.lax.Precision.HIGHEST)


def _fans(live, dtype):
    """Live inputs and outputs of a matrix or convolution [..., inputs, outputs], at least 1; of a vector 1 and its length."""
    import jax.numpy as jnp

    if live.ndim < 2:
        return jnp.array([1, live.size], dtype)
    flat = live.reshape(-1, live.shape[-1]).astype(dtype)
    counts = flat @ jnp.ones(flat.shape[1], dtype), jnp.ones(flat.shape[0], dtype) @ flat
    return jnp.maximum(jnp.stack([(count > 0).sum(dtype=dtype) for count in counts]), 1)
