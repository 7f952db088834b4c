"""What `numpy_scaled.py` knows of the tensors that it steps: their gradients in one unit, and features of each."""

import numpy as np

TINY = 1e-12


def unseen(params):
    """The state before the first gradient."""
    numbers = {"t": 0, "rest": 1.0, "square": 0.0, "agree": 0.0, "control": 0.0, "first": 0.0, "losses": 0.0}
    return numbers | {"mean": [np.zeros(np.shape(p)) for p in params]}


def see(spec, state, grads, params, loss, horizon):
    """Take gradients in: (gradients, their average, which coordinates are live, fans, features [tensors, 19], new state).

    spec: its `memory` is steps over which gradients are averaged at the start, its `growth` how many more with each step.
    """
    t, whole = state["t"], horizon or 2 * (state["t"] + 1)  # steps done; steps in all, or twice those that will be done
    role = roles(grads)
    # Gradients in units of their tensor's root mean square; their average, and that with a look ahead.
    squares = np.array([mean(np.square(g), np.not_equal(g, 0)) for g in grads])
    square = 0.9 * state["square"] + 0.1 * squares
    root = np.sqrt(square / (1 - 0.9 ** (t + 1))) + TINY
    x = [g / r for g, r in zip(grads, root, strict=True)]
    decay = 1 - 1 / (spec["memory"] + spec["growth"] * t)
    rest, blend = decay * state["rest"], lambda m, g: decay * m + (1 - decay) * g
    average = [blend(m, g) for m, g in zip(state["mean"], x, strict=True)]
    nominal = [blend(m, g) / (1 - decay * rest) for m, g in zip(average, x, strict=True)]
    live = [m != 0 for m in average]
    fans = np.array([live_fans(of) for of in live])
    # How gradients agree with the average before them: in the network's matrices, and in each beside that. What it sums to over
    # the first steps says how large a step the network bears.
    agrees = np.array([cosine(g, m) for g, m in zip(x, state["mean"], strict=True)])
    agree = 0.9 * state["agree"] + 0.1 * agrees
    counted = (role == 0) & (squares > 0)
    depth, counted = counted.sum(), counted if counted.any() else squares > 0
    common = mean(agrees, counted)
    weight = (max(1 - t / whole / 0.3, 0) if horizon else 30 / (30 + t)) * (t > 0)
    signals = [common + 0 * agrees, counted * (agrees - common), (whole / 100) ** -0.5 + 0 * agrees]
    control = state["control"] + weight * np.stack(signals, 1)
    # Fast and slow average of the loss, and the first one; the first gradient's size.
    old, first = (state["losses"], state["first"]) if t else (np.full(3, loss), np.log(root))
    losses = np.array([0.9 * old[0] + 0.1 * loss, 0.98 * old[1] + 0.02 * loss, old[2]])
    fast, slow, begun = np.log(np.maximum(np.abs(losses), TINY))
    noise = np.sqrt([mean(n**2, of) for n, of in zip(nominal, live, strict=True)])
    spread = np.log(np.sqrt([np.mean(np.square(p)) for p in params] * fans[:, 0]) + TINY)
    part, agreement = min(t / whole, 1), agree / (1 - 0.9 ** (t + 1))
    rows = [role == 1, (role == 0) * np.log(fans[:, 0]) / 4, (role == 0) * np.log(fans[:, 1]) / 4, np.log(max(depth, 1))]
    rows += [np.log(whole / 100), part, np.exp(-t / 5), np.exp(-t / 30), np.log(noise + 1e-3) / 2, agreement]
    rows += [agreement.mean(), 2 * np.clip(fast - slow, -1, 1), np.clip(fast - begun, -6, 3) / 3]
    rows += [np.clip(np.log(root) - first, -6, 6) / 3, (role == 0) * np.clip(spread, -3, 3) / 2, 1.0]
    features = np.stack([np.broadcast_to(row, len(x)) for row in [*rows, *(control / [8, 8, 40]).T]], 1)
    new = {"t": t + 1, "rest": rest, "square": square, "agree": agree, "control": control, "first": first, "losses": losses}
    return x, nominal, live, fans, features, new | {"mean": average}


def roles(grads):
    """Of each tensor: 0 for a matrix or a convolution [..., inputs, outputs], 1 for a vector, 2 for a single number."""
    return np.array([2 if np.size(g) == 1 else int(np.ndim(g) < 2) for g in grads])


def live_fans(live):
    """Inputs and outputs of a matrix that ever had a gradient, at least 1; of a vector 1 and its length."""
    flat = live.reshape(-1, live.shape[-1]) if live.ndim > 1 else np.ones((1, live.size), bool)
    return max(flat.any(1).sum(), 1), max(flat.any(0).sum(), 1)


def mean(values, counted):
    """Over the counted ones; 0 where there are none."""
    return values[counted].mean() if counted.any() else 0.0


def cosine(a, b):
    """Of the angle between two tensors; 0 where one is 0."""
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + TINY)
