"""Few-shot classification of handwritten characters."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from l2lcli import registry
from l2lcli.base import Problem
from l2lcli.data.source import Splits
from l2lcli.problems._episodes import EpisodeSpec, episodes

TRAIN, VALIDATION = 1100, 100  # characters, of 1,623, where the split is by character


class OmniglotSpec(EpisodeSpec):
    """Episodes of Omniglot's characters, each in four rotations that count as classes of their own."""

    kind: Literal["omniglot"] = "omniglot"
    dataset: Literal["omniglot_small", "omniglot"] = "omniglot_small"
    """The 8 alphabets of the two minimal sets, or all 50."""
    split: Literal["alphabet", "character"] = "alphabet"
    """No alphabet in two splits; or, of all 50 alphabets, no character: 1,100 for training, 100 and 423 for the others."""

    @model_validator(mode="after")
    def _whole(self):
        if self.split == "character" and self.dataset != "omniglot":
            raise ValueError("split: character needs dataset: omniglot")
        return self


@registry.problem.register("omniglot", OmniglotSpec)
def omniglot(spec: OmniglotSpec, raw_dir: str | None = None) -> Problem:
    """Build the distribution: `episodes` of images [28, 28], strokes 255 on 0, each character in four rotations.

    Split by alphabet, test classes are those of Sanskrit and Tagalog, or with all 50 alphabets those of the publisher's
    evaluation set. The split by character is that of most published results (Santoro et al. 2016; Vinyals et al. 2016; Finn
    et al. 2017, whose code keeps 100 of the 1,200 for validation): easier, since test characters have relatives in training.
    Which characters were drawn was not published. Raises DataError if the data set cannot be loaded.
    """
    from l2lcli.data import loader

    dataset = loader.load(spec.dataset, raw_dir)
    splits = dataset.splits if spec.split == "alphabet" else by_character(dataset.splits)
    whole = spec.dataset == "omniglot"
    label = dataset.label if whole else "omniglot[8 of 50 alphabets]"
    turned = {split: rotated(arrays) for split, arrays in splits.items()}
    return episodes(spec, spec.dataset, turned, dataset.scale, {label: dataset.fingerprint})


def by_character(splits: Splits) -> Splits:
    """Another split of the same images, by a fixed random order of the characters."""
    import numpy as np

    image, label = (np.concatenate([arrays[key] for arrays in splits.values()]) for key in ("image", "label"))
    # RandomState, not Generator: its stream is frozen, so the split stays the same under every NumPy.
    order = np.random.RandomState(0).permutation(np.unique(label))
    parts = np.split(order, [TRAIN, TRAIN + VALIDATION])
    found = {}
    for split, characters in zip(("train", "validation", "test"), parts, strict=True):
        own = np.isin(label, characters)
        found[split] = {"image": image[own], "label": label[own]}
    return found


def rotated(arrays):
    """Images [n, H, H] with their classes -> [4 n, H, H], by 0, 90, 180 and 270 degrees; class c becomes 4 c … 4 c + 3."""
    import numpy as np

    image = np.concatenate([np.rot90(arrays["image"], quarters, axes=(1, 2)) for quarters in range(4)])
    label = np.concatenate([4 * arrays["label"] + quarters for quarters in range(4)])
    return {"image": image, "label": label}
