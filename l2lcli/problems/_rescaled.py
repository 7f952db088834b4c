"""The same problem in other units: what an optimizer whose steps have a fixed size in theta cannot take in its stride."""

from __future__ import annotations

from l2lcli.base import Problem


def rescaled(problem: Problem, deviation: float) -> Problem:
    """Each task computes with every array of theta times a number of its own, e^N(0, deviation²).

    It starts as the same network: theta_0 is the problem's divided by these. task: (the problem's, the numbers, like theta);
    a batch has them, too. deviation 0: the problem itself.
    """
    if deviation == 0:
        return problem

    import jax
    import jax.numpy as jnp

    times = lambda theta, scales: jax.tree.map(lambda leaf, scale: leaf * scale.astype(leaf.dtype), theta, scales)

    def init(key, data):
        init_key, scale_key = jax.random.split(key)
        theta, task = problem.init(init_key, data)
        leaves, structure = jax.tree.flatten(theta)
        scales = structure.unflatten(list(jnp.exp(deviation * jax.random.normal(scale_key, (len(leaves),)))))
        return jax.tree.map(lambda leaf, scale: leaf / scale, theta, scales), (task, scales)

    def batch(key, task, data):
        return problem.batch(key, task[0], data), task[1]

    def loss(theta, batch):
        return problem.loss(times(theta, batch[1]), batch[0])

    return problem._replace(init=init, batch=batch, loss=loss, units=lambda theta, task: times(theta, task[1]))
