"""Photographs that ship with scikit-learn and matplotlib, parts of them, and image files of one's own, as arrays."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2lcli.data.source import DataError

if TYPE_CHECKING:
    import numpy as np

# Two by daniel_buechele and vultilion, CC BY 2.0; Grace Hopper by the United States Navy, public domain.
PHOTOGRAPHS = {
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
}
BANDS = {"train": (0.0, 0.5), "validation": (0.5, 0.75), "test": (0.75, 1.0)}  # of a photograph's width, from the left
SIDES = 64, 128  # pixels of a part that is cut out: at least, at most


def photograph(name: str) -> Path:
    """The file of one of `PHOTOGRAPHS`. Raises DataError where its package is not installed, or has it no longer."""
    package, place = PHOTOGRAPHS[name]
    found = importlib.util.find_spec(package)  # importing scikit-learn would take a second
    if found is None or found.origin is None:
        raise DataError(f"the photograph {name!r} ships with {package}, which is not installed")
    path = Path(found.origin).parent / place
    if not path.is_file():
        raise DataError(f"the photograph {name!r} is not where {package} used to have it: {path}")
    return path


def square(path: Path, size: int) -> np.ndarray:
    """The largest square in the middle of an image, [size, size, 3] uint8. Raises DataError where it cannot be read."""
    image = _read(path)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return _resized(image.crop((left, top, left + side, top + side)), size)


def parts(split: str, count: int, size: int) -> np.ndarray:
    """Random squares of the three photographs in turn, [count, size, size, 3] uint8, always the same ones.

    Each split has a band of every photograph of its own (`BANDS`), so that no pixel of one occurs in another. Raises DataError.
    """
    import numpy as np

    images = [_read(photograph(name)) for name in PHOTOGRAPHS]
    # RandomState, not Generator: its stream is frozen, so the parts stay the same under every NumPy.
    draw = np.random.RandomState([*BANDS].index(split))
    found = []
    for i in range(count):
        image = images[i % len(images)]
        begin, end = (round(at * image.width) for at in BANDS[split])
        side = draw.randint(SIDES[0], min(SIDES[1], end - begin, image.height) + 1)
        left, top = draw.randint(begin, end - side + 1), draw.randint(0, image.height - side + 1)
        found.append(_resized(image.crop((left, top, left + side, top + side)), size))
    return np.stack(found)


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """Images [n, h, w, 3] uint8 -> [n, size, size, 3]."""
    import numpy as np
    from PIL import Image

    return np.stack([_resized(Image.fromarray(image), size) for image in images])


def _read(path: Path) -> Any:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")  # as a camera that was held upright says
    except MemoryError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # whatever a damaged file makes Pillow's many readers raise
        raise DataError(f"{path}: not an image that can be read: {' '.join(str(error).split())}") from error


def _resized(image: Any, size: int) -> np.ndarray:
    import numpy as np
    from PIL import Image

    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
