"""Evaluation on few-shot problems: the metric on the query by number of inner updates, for every family on the same episodes.

Choices (learning rates, the number of updates to report) are made on episodes of the validation split; what is reported comes
from those of the test split (Ravi and Larochelle 2017, Section 5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2lcli import processes
from l2lcli.base import Batch, Data, Inner, Joint, Key, LearnedOptimizer, Phi, Problem, Scalar, Task, Theta
from l2lcli.evaluation import statistics
from l2lcli.evaluation.compare import Comparison
from l2lcli.evaluation.curves import Curves
from l2lcli.evaluation.grid import Grid
from l2lcli.evaluation.rows import by_row
from l2lcli.evaluation.summary import HIGHER, BestBaseline, Entry, FewShot, Part, Rate
from l2lcli.evaluation.timing import seconds_per_step
from l2lcli.inner.query import query_batch
from l2lcli.inner.unroll import fresh, namespace, unroll
from l2lcli.optimizers.hand import hand
from l2lcli.signals import UNWATCHED, Progress

GRID = Grid(per_decade=2, first=range(-6, 3), stride=1, furthest=12)  # 1e-3 … 10 at first
SIDE_BY_SIDE = 8  # episodes
DISPATCH = 40  # episodes
JOINT_RATE = 1e-3  # of Adam, for the network trained on all tasks together
JOINT_DISPATCH = 20  # its steps


class Episodic(NamedTuple):
    """What a few-shot problem has, and others have not."""

    query: Callable[[Key, Task, Data], Batch]
    metrics: Callable[[Theta, Batch], dict[str, Scalar]]
    joint: Joint


def episodic(problem: Problem) -> Episodic:
    """These parts of a problem. Raises ValueError where one is missing."""
    if problem.query is None or problem.metrics is None or problem.joint is None:
        raise ValueError("a few-shot problem needs query, metrics and joint")
    return Episodic(problem.query, problem.metrics, problem.joint)


Judge = Callable[[Phi, Key, str], tuple[np.ndarray, dict[str, np.ndarray]]]


def judge(problem: Problem, optimizer: LearnedOptimizer, updates: int, progress: Progress) -> Judge:
    """(phi, [S] keys, split) -> the loss on the query and the metrics after 0 … `updates` updates, [S, updates + 1] each."""

    metrics = episodic(problem).metrics

    @jax.jit
    def run(phi, keys, data):
        def look(inner: Inner):
            batch = query_batch(problem, inner, data)
            return problem.loss(inner.theta, batch), metrics(inner.theta, batch)

        def one(key):
            inner = fresh(problem, optimizer, phi, key, data)
            found = unroll(problem, optimizer, phi, inner, data, updates, score=look).scores
            return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), look(inner), found)

        return jax.lax.map(one, keys, batch_size=SIDE_BY_SIDE)

    def judged(phi, keys, split):
        return _dispatched(run, phi, keys, problem.data[split], progress)

    return judged


def _dispatched(run: Callable[..., Any], phi: Any, keys: Key, data: Data, progress: Progress) -> Any:
    """`run` over [S] keys, some at a time; the last ones are filled up, so that one program serves all."""
    size, count, found = min(DISPATCH, len(keys)), len(keys), []
    for start in range(0, count, size):
        progress.check()
        rows = np.minimum(np.arange(start, start + size), count - 1)
        found.append(by_row(run, phi, keys[rows], data))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:count].astype(np.float64), *found)


def joint_theta(problem: Problem, key: Key, steps: int, progress: Progress) -> Theta:
    """The network of `problem.joint` after `steps` steps of Adam, rounded up to a dispatch. The key is consumed."""
    together, adam = episodic(problem).joint.problem, hand("adam")
    phi, data = {"log_learning_rate": jnp.float32(math.log(JOINT_RATE))}, together.data["train"]
    inner = jax.jit(lambda key, data: fresh(together, adam, phi, key, data))(key, data)
    run = jax.jit(lambda inner, data: unroll(together, adam, phi, inner, data, JOINT_DISPATCH).end)
    for _ in range(-(-steps // JOINT_DISPATCH)):
        progress.check()
        inner = jax.block_until_ready(run(inner, data))
    return inner.theta


def finetune(problem: Problem) -> LearnedOptimizer:
    """Gradient descent from the jointly trained network; phi: {"log_learning_rate": (), "joint": its theta}."""
    joint = episodic(problem).joint
    return hand("sgd")._replace(start=lambda phi, theta: joint.start(phi["joint"], theta), replay=None)


def nearest(problem: Problem, split: str, progress: Progress) -> Callable[[Theta | None, Key], dict[str, np.ndarray]]:
    """(jointly trained theta, or None for the inputs as they are, [S] keys) -> metrics [S, 1] of the nearest neighbour.

    Each query is answered as the support that is nearest to it by Euclidean distance.
    """

    joint = episodic(problem).joint

    @jax.jit
    def run(theta, keys, data):
        def one(key):
            # The same task as `fresh` gives the optimizers.
            inner = fresh(problem, hand("sgd"), {"log_learning_rate": jnp.float32(0)}, key, data)
            support, asked = problem.batch(inner.key, inner.task, data), query_batch(problem, inner, data)
            near, far = (joint.features(theta, batch) for batch in (support, asked))
            distance = jnp.square(far[:, None] - near[None]).sum(-1)
            return jax.tree.map(lambda x: x[None], joint.copied(support, asked, jnp.argmin(distance, 1)))

        return jax.lax.map(one, keys, batch_size=SIDE_BY_SIDE)

    return lambda theta, keys: _dispatched(run, theta, keys, problem.data[split], progress)


def metric_of(problem: Problem) -> str:
    """The name of what the problem is judged by."""

    parts = episodic(problem)

    def measured(key, data):
        theta, task = problem.init(key, data)
        return parts.metrics(theta, parts.query(key, task, data))

    return next(iter(jax.eval_shape(measured, jax.random.key(0), problem.data["test"])))


def best(metric: str, means: np.ndarray) -> int:
    """Where means of a metric are best, the first of equals; one that is not finite is worst."""
    return int(np.argmin(cost(metric, means)))


def cost(metric: str, means: np.ndarray) -> np.ndarray:
    """Means of a metric as what is to be small; infinite where one is not finite."""
    return np.where(np.isfinite(means), -means if metric in HIGHER else means, np.inf)


def tune(metric: str, measure: Callable[[float], np.ndarray]) -> tuple[float, int]:
    """The learning rate and the number of updates that are best together.

    Args:
      metric: its name.
      measure: learning rate -> the metric's means over validation episodes by number of updates.
    """
    means: dict[int, np.ndarray] = {}

    def costs(exponents: list[int]) -> dict[int, dict[str, float]]:
        for exponent in exponents:
            means[exponent] = measure(GRID.rate(exponent))
        return {exponent: {metric: cost(metric, means[exponent]).min().item()} for exponent in exponents}

    chosen = GRID.search(costs)[metric]
    return GRID.rate(chosen), best(metric, means[chosen])


def compare(
    problem: Problem,
    name: str,
    learned: tuple[str, LearnedOptimizer, Phi] | None,
    baselines: list[str],
    root: Key,
    *,
    updates: int,
    episodes: int,
    tuning_seeds: int,
    joint_steps: int,
    kept: Mapping[str, Phi] = {},
    progress: Progress = UNWATCHED,
) -> Comparison:
    """Judge a learned optimizer and baselines; the summary has "few_shot", and losses on the query in "optimizers".

    Args:
      problem: f, with `query`, `metrics`, `joint` and the splits "train", "validation" and "test".
      name: what the summary calls it.
      learned: the name, family and phi of the learned optimizer; None judges the baselines alone.
      baselines: "finetune", "nearest_neighbour", and names that `hand` knows, which begin at the problem's own theta_0.
      root: the run's key.
      updates: inner updates.
      episodes: of the test split.
      tuning_seeds: episodes of the validation split.
      joint_steps: of training the network that finetune and nearest_neighbour need.
      kept: other phi of the learned optimizer's family, by name.
      progress: told what is being done, and asked between dispatches.
    """
    tuning = jax.random.split(namespace(root, "tuning"), tuning_seeds)
    keys = jax.random.split(namespace(root, "evaluation"), episodes)
    found: dict[str, Curves] = {}
    entries: dict[str, Entry] = {}
    members: dict[str, tuple[LearnedOptimizer, Phi]] = {}
    table: dict[str, FewShot] = {}
    steps, metric = np.arange(updates + 1), metric_of(problem)
    trained: list[Theta] = []

    def together() -> Theta:
        if not trained:
            progress.say("training one network on all training tasks")
            trained.append(joint_theta(problem, namespace(root, "joint"), joint_steps, progress))
        return trained[0]

    def enter(label: str, at: np.ndarray, losses: np.ndarray, metrics: dict[str, np.ndarray], chosen: int, **more: Any) -> None:
        found[label] = Curves(losses, at, metrics)
        values = metrics[metric]
        half = 1.96 * values.std(0, ddof=1) / math.sqrt(len(values))
        mean, ci = ([x if math.isfinite(x) else None for x in row.tolist()] for row in (values.mean(0), half))
        table[label] = FewShot(
            metric=metric, updates=at.tolist(), mean=mean, ci=ci, episodes=episodes, chosen=chosen, **more
        )  # fmt: skip

    def add(label: str, family: LearnedOptimizer, phi: Callable[[float | None], Phi], tuned: bool) -> None:
        progress.say(f"{'tuning' if tuned else 'judging'} {label}")
        judged = judge(problem, family, updates, progress)
        measure = lambda rate: judged(phi(rate), tuning, "validation")[1][metric].mean(0)
        rate, chosen = tune(metric, measure) if tuned else (None, best(metric, measure(None)))
        losses, metrics = judged(phi(rate), keys, "test")
        enter(label, steps, losses, metrics, chosen, learning_rate=rate)
        tuned_rate = None if rate is None else Rate(learning_rate=rate)
        described = statistics.describe(losses, losses, minibatch=False)
        entries[label] = Entry(
            phi_final=tuned_rate, phi_sum=tuned_rate, **described, steps_to_best_baseline=None, seconds_per_step=None
        )
        members[label] = family, phi(rate)

    for baseline in baselines:
        if baseline == "nearest_neighbour":
            answer = nearest(problem, "test", progress)
            for label, theta in ((baseline, None), (f"{baseline}_features", together())):
                progress.say(f"judging {label}")
                enter(label, np.zeros(1, int), np.zeros((episodes, 0)), answer(theta, keys), 0)
            continue
        start = {"joint": together()} if baseline == "finetune" else {}
        family = finetune(problem) if start else hand(baseline, horizon=updates)

        def at_rate(rate: float | None, start: dict[str, Any] = start) -> Phi:
            return {"log_learning_rate": jnp.float32(math.log(rate or math.nan)), **start}

        add(baseline, family, at_rate, tuned=True)
    if learned is not None:
        label, family, phi = learned
        for each, fixed in {label: phi, **kept}.items():
            add(each, family, lambda rate, fixed=fixed: fixed, tuned=False)
    timed = lambda: seconds_per_step(problem, members, keys[0], updates, progress)
    for label, seconds in processes.shared(timed, slow=True).items():
        entries[label] = entries[label].model_copy(update={"seconds_per_step": seconds})
    nothing = dict.fromkeys(("ratio_final", "ratio_final_ci", "ratio_sum", "ratio_sum_ci"))
    summary = Part(
        problem=name, learned=learned and learned[0], steps=updates, seeds=episodes, optimizers=entries,
        best_baseline=BestBaseline(final=None, sum=None), **nothing, few_shot=table,
    )  # fmt: skip
    return Comparison(summary, found)
