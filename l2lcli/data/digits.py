"""Digits: the 8x8 handwritten digits that ship inside scikit-learn. No network, no raw file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from l2lcli.data.source import Splits, register

TEST = 360  # a fifth of the 1,797


@register("digits", "handwritten digits, 8x8 grey, 10 classes, 1,437 + 360; ships with scikit-learn", classes=10, scale=16.0)
def digits(files: Mapping[str, Path]) -> Splits:
    """uint8 images [1437, 8, 8] and [360, 8, 8] with values 0 … 16; Alpaydin and Kaynak 1998, the test set at UCI.

    The split is that of scikit-learn's `train_test_split(…, test_size=0.2, random_state=0)`.
    """
    import numpy as np

    del files  # they lie in the package
    from sklearn.datasets import load_digits  # 1 to 2 s, and needed only once: later loads read the cache

    image, label = load_digits(return_X_y=True)
    image = image.reshape(-1, 8, 8).astype(np.uint8)
    label = label.astype(np.uint8)
    # RandomState, not Generator: its stream is frozen, so the split stays the same under every NumPy.
    order = np.random.RandomState(0).permutation(len(label))
    test, train = order[:TEST], order[TEST:]
    return {"train": {"image": image[train], "label": label[train]}, "test": {"image": image[test], "label": label[test]}}
