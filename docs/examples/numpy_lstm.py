"""One step of the `lstm` optimizers (digits, digits-averages, mnist, quadratic) with NumPy alone: to read, check and port.

    init, step = load("optimizer.npz")           # as `l2l export RUN` writes it
    state = init(params)                         # params, grads, updates: lists of arrays
    updates, state = step(grads, state)
    params = [p + u for p, u in zip(params, updates)]

Everything is float64. A parameter's update depends on its own gradients alone: all arrays below have N, the parameters of one
tensor, as their last axis, and K is the number of running averages.
"""

import json
import math

import numpy as np


def load(path):
    """(init, step) of an optimizer file."""
    with np.load(path) as file:
        phi = {key: file[key].astype(np.float64) for key in file.files if key != "__meta__"}
        spec = json.loads(str(file["__meta__"]))["config"]["optimizer"]
    assert (spec["kind"], spec["preprocess"]["kind"]) in (("lstm", "identity"), ("lstm", "log_sign")), spec
    of_averages = spec["averages"] or {"decays": [], "square_decay": 0.0}
    decays, square_decay = np.array(of_averages["decays"])[:, None], of_averages["square_decay"]

    def init(params):
        nothing = lambda rows, p: np.zeros((rows, np.size(p)))
        return [
            {"t": 0, "mean": nothing(len(decays), p), "square": nothing(1, p)}
            | {"h": [nothing(spec["hidden"], p)] * spec["layers"], "c": [nothing(spec["hidden"], p)] * spec["layers"]}
            for p in params
        ]

    def step(grads, state):
        pairs = [one(np.asarray(g, np.float64), of_tensor) for g, of_tensor in zip(grads, state, strict=True)]
        return [update for update, _ in pairs], [of_tensor for _, of_tensor in pairs]

    def one(g, state):
        """The update of one tensor, and its new state."""
        x, new = shown(g.reshape(1, -1), state)
        new |= {"h": [], "c": []}
        for i in range(spec["layers"]):
            x, c = cell(i, x, state["h"][i], state["c"][i])
            new["h"].append(x)
            new["c"].append(c)
        update = spec["output_scale"] * (phi["readout/kernel"] @ x + phi["readout/bias"])
        inputs = math.prod(g.shape[:-1])  # of a matrix; one that has many takes smaller steps
        shrink = min(1, spec["fan_in"] / inputs) if spec["fan_in"] and g.ndim > 1 else 1
        return shrink * update.reshape(g.shape), new

    def shown(g, state):
        """What the LSTM sees of the gradient [1, N], as rows; and what is remembered for that."""
        x, t = g, state["t"] + 1
        if spec["preprocess"]["kind"] == "log_sign":  # Andrychowicz et al. 2016, App. A: both of its branches in one line
            p = spec["preprocess"]["p"]
            x = np.concatenate([np.log(np.maximum(np.abs(g), np.exp(-p))) / p, np.clip(g * np.exp(p), -1, 1)])
        mean = decays * state["mean"] + (1 - decays) * g
        square = square_decay * state["square"] + (1 - square_decay) * g**2
        if spec["averages"]:  # corrected for their start at 0, over the root of the average square, as Adam's are
            root = np.sqrt(np.maximum(square / (1 - square_decay**t), 1e-24)) + 1e-12
            log_root = np.log(np.maximum(root, np.exp(-10))) / 10
            x = np.concatenate([x, mean / (1 - decays**t) / root, g / root, log_root])
        return x, {"t": t, "mean": mean, "square": square}

    def cell(i, x, h, c):
        """The new h and c of layer i (Hochreiter and Schmidhuber 1997, with a forget gate)."""
        rows = phi[f"lstm_{i}/input"] @ x + phi[f"lstm_{i}/recurrent"] @ h + phi[f"lstm_{i}/bias"][:, None]
        take_in, forget, new, out = np.split(rows, 4)
        c = sigmoid(forget + spec["forget_bias"]) * c + sigmoid(take_in) * np.tanh(new)
        return sigmoid(out) * np.tanh(c), c

    return init, step


def sigmoid(x):
    """1 / (1 + e^-x), which does not overflow."""
    return 0.5 * np.tanh(0.5 * x) + 0.5
