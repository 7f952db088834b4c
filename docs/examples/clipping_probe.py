"""Does a learned optimizer clip by the norm of all gradients? One coordinate's update, its own gradient fixed, over that norm.

    python docs/examples/clipping_probe.py RUN...

Twenty coordinates see 40 steps of ordinary gradients, N(0, 0.3²). Then the gradient of one is 3, and those of the others have
the norm of the column. Printed is minus the update of that one, the mean over 200 draws, over what it is at a norm of 0.3; then
the slope of its logarithm over that of the norm, between 3 and 10. A clip tends to -1, and what is coordinatewise has 0.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import l2lcli
from l2lcli.optimizers.hand import hand

N, WARM, DRAWS = 20, 40, 200
ORDINARY, OWN = 0.3, 3.0
NORMS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


def response(tx):
    """Updates of the first coordinate, [norms], each a mean over draws."""

    def one(key, norm):
        warm_key, other_key = jax.random.split(key)
        grads = ORDINARY * jax.random.normal(warm_key, (WARM, N))
        others = jax.random.normal(other_key, (N - 1,))
        last = jnp.concatenate([jnp.array([OWN]), norm * others / jnp.linalg.norm(others)])
        theta = jnp.zeros(N)
        feed = lambda state, grad: tx.update(grad, state, theta, value=jnp.float32(1))
        state, _ = jax.lax.scan(lambda state, grad: (feed(state, grad)[1], None), tx.init(theta), grads)
        return feed(state, last)[0][0]

    keys = jax.random.split(jax.random.key(0), DRAWS)
    over = jax.vmap(jax.vmap(one, (0, None)), (None, 0))
    return np.asarray(jax.jit(over)(keys, jnp.array(NORMS)).mean(1), np.float64)


def main(runs):
    """Print a row for each run, below that of SGD after a clip at 1."""
    clipped = hand("clipped_sgd").bind({"log_learning_rate": jnp.float32(0)})
    named = {"clipped_sgd": clipped} | {run: l2lcli.load(run) for run in runs}
    print(f"{'norm of the others':24}" + "".join(f"{norm:9g}" for norm in NORMS) + "    slope")
    for name, tx in named.items():
        found = -response(tx)
        shown = found / found[0]
        slope = np.log(abs(shown[3] / shown[2])) / np.log(NORMS[3] / NORMS[2])
        print(f"{name[-24:]:24}" + "".join(f"{value:9.3f}" for value in shown) + f"{slope:9.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
