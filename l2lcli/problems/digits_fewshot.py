"""Few-shot classification of scikit-learn's digits: small enough for a test, and nothing to download."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Problem
from l2lcli.problems._episodes import EpisodeSpec, episodes
from l2lcli.problems._learners import Learner, MlpLearner

SEEN = 5  # digits 0 … 4 are trained on, 5 … 9 tested on


class DigitsFewshotSpec(EpisodeSpec):
    """Episodes of the digits 0 to 4 for training, of 5 to 9 for testing."""

    kind: Literal["digits_fewshot"] = "digits_fewshot"
    ways: int = Field(default=5, ge=2, le=SEEN)
    """Classes in an episode."""
    learner: Learner = MlpLearner()
    """The network that an episode trains."""


@registry.problem.register("digits_fewshot", DigitsFewshotSpec)
def digits_fewshot(spec: DigitsFewshotSpec, raw_dir: str | None = None) -> Problem:
    """Build the distribution: `episodes` of images [8, 8] with values 0 … 16.

    Ten classes do not make three groups of five: validation has the classes of training, in images that training does not see
    (those of the data set's own test split), and nothing of the test classes.
    """
    import numpy as np

    from l2lcli.data import loader

    dataset = loader.load("digits", raw_dir)
    splits = {}
    for split, part in (("train", "train"), ("validation", "test")):
        arrays = dataset.splits[part]
        seen = arrays["label"] < SEEN
        splits[split] = {key: array[seen] for key, array in arrays.items()}
    every = {key: np.concatenate([arrays[key] for arrays in dataset.splits.values()]) for key in ("image", "label")}
    splits["test"] = {key: array[every["label"] >= SEEN] for key, array in every.items()}
    return episodes(spec, "digits", splits, dataset.scale, {dataset.label: dataset.fingerprint})
