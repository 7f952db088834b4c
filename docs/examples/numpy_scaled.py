"""One step of the `scaled` optimizers (general, general-small) with NumPy alone: to read, check and port.

    init, step = load("optimizer.npz")                           # as `l2l export RUN` writes it
    state = init(params)                                         # params, grads, updates: lists of arrays
    updates, state = step(grads, state, params, loss, horizon)   # horizon: steps in all; 0 if nobody knows
    params = [p + u for p, u in zip(params, updates)]

Everything is float64. `numpy_tensors.py`, which lies beside it, is what it knows of the tensors.
"""

import json

import numpy as np
from numpy_tensors import TINY, mean, roles, see, unseen


def load(path):
    """(init, step) of an optimizer file."""
    with np.load(path) as file:
        phi = {key: file[key].astype(np.float64) for key in file.files if key != "__meta__"}
        spec = json.loads(str(file["__meta__"]))["config"]["optimizer"]
    rule = spec["rule"]
    assert (spec["kind"], rule["kind"], spec["normalise"]) == ("scaled", "mlp", "orthogonal"), spec
    assert all(spec.get(key, True) for key in ("anneal", "clock", "control")), spec
    decays, square_decay = np.array(rule["averages"]["decays"])[:, None], rule["averages"]["square_decay"]

    def init(params):
        averages = [(np.zeros((len(decays), np.size(p))), np.zeros((1, np.size(p)))) for p in params]
        return {"tensors": unseen(params), "averages": averages}

    def step(grads, state, params, loss, horizon=0):
        grads = [np.asarray(g, np.float64) for g in grads]
        x, nominal, live, fans, features, tensors = see(spec, state["tensors"], grads, params, float(loss), horizon)
        done, whole = tensors["t"], horizon or 2 * tensors["t"]
        # How far each tensor goes: what a small network decides, falling to 0 along a line at the end of the horizon.
        hidden = np.tanh(features @ phi["output/kernel"].T + phi["output/bias"])
        logs = features @ phi["output/linear"] + hidden @ phi["output/readout"]
        role = roles(grads)
        sizes = np.exp(phi["output/step"][role] + 4 * np.tanh(logs / 4)) * (1 - min((done - 1) / whole, 1))
        # In which direction: what the rule says, less the average gradient.
        updates, averages = [], []
        for k, g in enumerate(x):
            said, remembered = says(g.reshape(1, -1), *state["averages"][k], done, whole)
            direction = said.reshape(g.shape) - np.exp(phi["output/nominal"][role[k]]) * nominal[k]
            updates.append(sizes[k] * sized(role[k], np.where(live[k], direction, 0), live[k], fans[k]))
            averages.append(remembered)
        return updates, {"tensors": tensors, "averages": averages}

    def says(g, averages, square, t, whole):
        """The rule: a perceptron of running averages of one tensor's gradient [1, N]; and these, to be remembered."""
        averages = decays * averages + (1 - decays) * g
        square = square_decay * square + (1 - square_decay) * g**2
        root = np.sqrt(np.maximum(square / (1 - square_decay**t), TINY**2)) + TINY
        ratios, size = np.concatenate([averages / (1 - decays**t), g]) / root, np.maximum(root, np.exp(-10))
        odd = np.concatenate([ratios, ratios * size])  # changes its sign with the gradient, and so does what is said
        said = phi["rule/skip"] @ odd
        if rule["hidden"]:
            one = np.ones_like(size)
            even = [one, np.log(size) / 10, np.abs(ratios[:-1])]
            even += [one * min(t / whole, 1), one * np.log(whole / 100)] if rule["clock"] else []
            hidden = np.tanh(phi["rule/hidden/odd"] @ odd) * (1 + phi["rule/hidden/even"] @ np.concatenate(even))
            said = said + phi["rule/hidden/readout"] @ hidden
        return rule["output_scale"] * said, (averages, square)

    return init, step


def sized(role, direction, live, fans):
    """In a size of its own: a matrix with singular values near √(outputs / inputs), a vector of root mean square 1."""
    if role > 0:
        return direction if role == 2 else direction / np.sqrt(mean(direction**2, live) + TINY)
    matrix = direction.reshape(-1, direction.shape[-1])
    matrix = matrix / np.sqrt((matrix**2).sum() + TINY)
    for _ in range(5):  # Newton-Schulz (Jordan et al. 2024)
        gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix  # the smaller one
        factor = -4.7750 * gram + 2.0315 * gram @ gram + 3.4445 * np.eye(len(gram))
        matrix = factor @ matrix if len(matrix) <= matrix.shape[1] else matrix @ factor
    return np.sqrt(fans[1] / fans[0]) * matrix.reshape(direction.shape)
