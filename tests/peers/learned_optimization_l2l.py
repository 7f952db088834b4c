"""google/learned_optimization as `l2l bench`'s peer: its truncated back-propagation of the same LSTM, on random images.

    python learned_optimization_l2l.py CHECKOUT PROBLEM WINDOW LAYERS HIDDEN TASKS WIDTH

The library has no coordinatewise LSTM, so one is written here against its interfaces; `TruncatedGrad`, which unrolls W steps
and differentiates them, is its own, compiled as a whole. Needs JAX below 0.5, Flax, Haiku, gin, TensorFlow and TFDS. It says
its versions in a line of JSON; from then on a line on stdin is one meta-gradient, answered by a line with its seconds.
Minibatches are drawn beforehand, and are not part of the time.
"""

import json
import math
import sys
import time


def main(checkout, problem, window, layers, hidden, tasks, width):
    """Compile a meta-gradient, then take one for each line of stdin."""
    sys.path.insert(0, checkout)
    out, sys.stdout = sys.stdout, sys.stderr
    import flax
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree
    from learned_optimization.learned_optimizers import base as lopt_base
    from learned_optimization.optimizers import base as opt_base
    from learned_optimization.outer_trainers import gradient_learner, lopt_truncated_step, truncated_grad
    from learned_optimization.tasks import base as tasks_base

    log_sign, inputs = (True, 2) if problem == "mnist" else (False, 1)

    @flax.struct.dataclass
    class State:
        params: object
        h: object
        c: object
        iteration: object

    class Optimizer(opt_base.Optimizer):
        def __init__(self, theta):
            self.theta = theta

        def init(self, params, model_state=None, num_steps=None, key=None):
            size = ravel_pytree(params)[0].size
            zeros = tuple(jnp.zeros((size, hidden)) for _ in range(layers))
            return State(params, zeros, zeros, jnp.asarray(0, jnp.int32))

        def get_params(self, state):
            return state.params

        def get_state(self, state):
            return None

        def update(self, state, grad, loss=None, model_state=None, key=None, **kwargs):
            flat, unravel = ravel_pytree(jax.lax.stop_gradient(grad))
            x = flat[:, None]
            if log_sign:
                log = jnp.log(jnp.maximum(jnp.abs(x), math.exp(-10.0))) / 10
                x = jnp.concatenate([log, jnp.clip(x * math.exp(10.0), -1, 1)], 1)
            new_h, new_c = [], []
            for cell, h, c in zip(self.theta["cells"], state.h, state.c, strict=True):
                i, f, z, o = jnp.split(jnp.concatenate([x, h], 1) @ cell["w"] + cell["b"], 4, 1)
                c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(z)
                x = jax.nn.sigmoid(o) * jnp.tanh(c)
                new_h.append(x)
                new_c.append(c)
            step = unravel(0.1 * (x @ self.theta["kernel"]))
            params = jax.tree_util.tree_map(jnp.add, state.params, step)
            return State(params, tuple(new_h), tuple(new_c), state.iteration + 1)

    class Lstm(lopt_base.LearnedOptimizer):
        def init(self, key):
            normal = lambda i, *shape: jax.random.normal(jax.random.fold_in(key, i), shape) * hidden**-0.5
            sizes = [inputs, *[hidden] * (layers - 1)]
            cells = [{"w": normal(i, s + hidden, 4 * hidden), "b": jnp.zeros(4 * hidden)} for i, s in enumerate(sizes)]
            return {"cells": cells, "kernel": normal(layers, hidden)}

        def opt_fn(self, theta, is_training=False):
            return Optimizer(theta)

    class Network(tasks_base.Task):
        def init(self, key):
            shapes = {"w1": (784, width), "b1": (width,), "w2": (width, 10), "b2": (10,)}
            keys = jax.random.split(key, len(shapes))
            return {name: 0.1 * jax.random.normal(k, shape) for k, (name, shape) in zip(keys, shapes.items(), strict=True)}

        def loss(self, params, key, data):
            images, labels = data
            logits = jax.nn.sigmoid(images @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

    class Quadratic(tasks_base.Task):
        def init(self, key):
            return {"theta": jnp.zeros(10)}

        def loss(self, params, key, data):
            w, y = data
            return jnp.square(w @ params["theta"] - y).sum()

    key = jax.random.PRNGKey(0)
    if problem == "mnist":
        task, of_step = Network(), (window, tasks, 128)
        data = jax.random.uniform(key, (*of_step, 784)), jax.random.randint(key, of_step, 0, 10)
    else:
        task = Quadratic()
        drawn = jax.random.normal(key, (tasks, 10, 10)), jax.random.normal(key, (tasks, 10))
        data = jax.tree_util.tree_map(lambda x: jnp.broadcast_to(x[None], (window, *x.shape)), drawn)
    truncated = lopt_truncated_step.SimpleVecLOptTruncatedStep(task, Lstm(), tasks, unroll_length=1_000_000)
    estimator = truncated_grad.TruncatedGrad(truncated, unroll_length=window, steps_per_jit=window)
    weights = gradient_learner.WorkerWeights(truncated.outer_init(key), None, gradient_learner.OuterState(jnp.asarray(0)))

    @jax.jit
    def gradient(weights, key, state, data):
        found, _ = estimator.compute_gradient_estimate(weights, key, state, datas_list=[data])
        return found.grad, found.unroll_state

    state = estimator.init_worker_state(weights, key)
    jax.block_until_ready(gradient(weights, key, state, data))
    out.write(json.dumps({"jax": jax.__version__, "flax": flax.__version__}) + "\n")
    out.flush()
    for _ in sys.stdin:
        began = time.perf_counter()
        _, state = jax.block_until_ready(gradient(weights, key, state, data))
        out.write(f"{time.perf_counter() - began}\n")
        out.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
