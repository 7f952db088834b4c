"""Few-shot classification: each task is an episode, a few classes with a few images of each to learn from.

An episode draws `ways` classes of a split, numbers them in random order, and draws of each `shots` images as its support
set, the evidence of the inner loss, and `queries` others, on which the trained learner is judged: `Problem.query` (Vinyals et
al. 2016; Ravi and Larochelle 2017, Section 2).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, model_validator

from l2lcli.base import Joint, Problem, ProblemSpec
from l2lcli.data.source import DataError, Splits
from l2lcli.problems._learners import ConvLearner, Learner, features, network, trunk

JOINT_BATCH = 64  # images per step of training on all classes together


class EpisodeSpec(ProblemSpec):
    """What every few-shot problem says of its episodes."""

    few_shot: ClassVar[bool] = True
    ways: int = Field(default=5, ge=2, le=1000)
    """Classes in an episode."""
    shots: int = Field(default=1, ge=1, le=1000)
    """Support images of each class."""
    queries: int = Field(default=15, ge=1, le=1000)
    """Query images of each class."""
    batch_size: int | None = Field(default=None, ge=1, le=1_000_000)
    """Support images per step, drawn without replacement; null for all of them at every step."""
    learner: Learner = ConvLearner()
    """The network that an episode trains."""

    @model_validator(mode="after")
    def _enough(self):
        support = self.ways * self.shots
        if self.batch_size is not None and self.batch_size > support:
            raise ValueError(f"batch_size {self.batch_size} is more than the support set's {support} images")
        return self


def enough(spec: EpisodeSpec, name: str, split: str, counts: Mapping[str, int]) -> None:
    """Raise DataError unless a split has the classes, and each class the images, that an episode needs.

    Args:
      spec: of the episodes.
      name: of the data set.
      split: its name.
      counts: class -> number of images.
    """
    if len(counts) < spec.ways:
        raise DataError(f"{name}: {split} has {len(counts)} classes, and problem.ways is {spec.ways}")
    fewest = min(counts, key=counts.__getitem__)
    if counts[fewest] < spec.shots + spec.queries:
        raise DataError(
            f"{name}: class {fewest} of {split} has {counts[fewest]} images: too few for problem.shots {spec.shots} "
            f"and problem.queries {spec.queries}"
        )


def episodes(spec: EpisodeSpec, name: str, splits: Splits, scale: float, provenance: Mapping[str, str]) -> Problem:
    """Build the distribution of episodes.

    theta: the learner's parameters (`_learners.network`); task: rows of the split's images, {"support": [ways · shots],
    "query": [ways · queries]}, ordered by class; data of a split: {"image": [n, ...] uint8, ordered by class, "start" and
    "count": [classes], each class's first row and its number of rows}; batch and query: {"image": [B, ...] uint8, "label":
    [B] in 0 … ways - 1}. f is in nats per image. Metric: accuracy, a fraction. `init`, `batch` and `query` of a task need the
    same split. Batch norm sees a batch, or all the query images, at once (the transductive protocol of both papers).

    Args:
      spec: of the episodes and the learner.
      name: of the data set, for messages.
      splits: "train", "validation" and "test" -> {"image": uint8 [n, ...], "label": [n]}.
      scale: images are divided by it.
      provenance: as of `Problem`.

    Raises DataError if a split has too few classes or images, or if the images are too small for the learner.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    learner = network(spec.learner, spec.ways)
    shape = splits["train"]["image"].shape[1:]
    if isinstance(spec.learner, ConvLearner) and min(shape[:2]) < 2**spec.learner.blocks:
        raise DataError(
            f"{name}: images of {shape[0]}x{shape[1]} are too small for problem.learner.blocks {spec.learner.blocks}, "
            f"which halve them {spec.learner.blocks} times"
        )
    data, most = {}, 0
    for split, arrays in splits.items():
        order = np.argsort(arrays["label"], kind="stable")
        names, start, count = np.unique(arrays["label"][order], return_index=True, return_counts=True)
        enough(spec, name, split, dict(zip(names.astype(str).tolist(), count.tolist(), strict=True)))
        data[split] = {
            "image": jnp.asarray(arrays["image"][order]),
            "start": jnp.asarray(start, jnp.int32),
            "count": jnp.asarray(count, jnp.int32),
        }
        most = max(most, count.max().item())
    support = spec.ways * spec.shots
    batch_size = spec.batch_size or support
    minibatch = batch_size < support

    def init(key, data):
        class_key, image_key, theta_key = jax.random.split(key, 3)
        classes = jax.random.choice(class_key, data["start"].shape[0], (spec.ways,), replace=False)

        def draw(key, start, count):
            # Without replacement: the places of the largest random numbers among the class's own.
            numbers = jnp.where(jnp.arange(most) < count, jax.random.uniform(key, (most,)), -1)
            return start + jax.lax.top_k(numbers, spec.shots + spec.queries)[1]

        keys = jax.random.split(image_key, spec.ways)
        rows = jax.vmap(draw)(keys, data["start"][classes], data["count"][classes])
        task = {"support": rows[:, : spec.shots].reshape(-1), "query": rows[:, spec.shots :].reshape(-1)}
        return learner.init(theta_key, jnp.zeros((1, *shape)))["params"], task

    def labels(each):
        return jnp.repeat(jnp.arange(spec.ways), each)

    def batch(key, task, data):
        rows, label = task["support"], labels(spec.shots)
        if minibatch:
            chosen = jax.random.choice(key, support, (batch_size,), replace=False)
            rows, label = rows[chosen], label[chosen]
        return {"image": data["image"][rows], "label": label}

    def query(key, task, data):
        return {"image": data["image"][task["query"]], "label": labels(spec.queries)}

    def pixels(batch, dtype=jnp.float32):
        # Pixels stay uint8 until here: the whole data set in memory is a quarter of what floats would take.
        return batch["image"].astype(dtype) / scale

    def objective(learner):
        def logits(theta, batch):
            return learner.apply({"params": theta}, pixels(batch, jax.tree.leaves(theta)[0].dtype))

        def loss(theta, batch):
            return optax.softmax_cross_entropy_with_integer_labels(logits(theta, batch), batch["label"]).mean()

        def metrics(theta, batch):
            return {"accuracy": jnp.mean(jnp.argmax(logits(theta, batch), -1) == batch["label"])}

        return loss, metrics

    everyone = network(spec.learner, len(data["train"]["start"]))

    def any_batch(key, task, data):
        rows = jax.random.randint(key, (JOINT_BATCH,), 0, len(data["image"]))
        return {"image": data["image"][rows], "label": jnp.searchsorted(data["start"], rows, side="right") - 1}

    def shown(theta, batch):
        if theta is None:
            return pixels(batch).reshape(len(batch["label"]), -1)
        return features(functools.partial(network, spec.learner), theta, pixels(batch))

    joint = Joint(
        Problem(
            lambda key, data: (everyone.init(key, jnp.zeros((1, *shape)))["params"], ()),
            any_batch,
            objective(everyone)[0],
            {"train": data["train"]},
            minibatch=True,
        ),
        trunk,
        shown,
        lambda support, query, nearest: {"accuracy": jnp.mean(support["label"][nearest] == query["label"])},
    )
    loss, metrics = objective(learner)
    return Problem(init, batch, loss, data, minibatch, query, metrics, joint, provenance=provenance)
