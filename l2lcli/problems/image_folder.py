"""Few-shot classification of images from a folder, such as miniImageNet."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from l2lcli import registry
from l2lcli.base import Problem
from l2lcli.problems._episodes import EpisodeSpec, enough, episodes


class ImageFolderSpec(EpisodeSpec):
    """Episodes of the images in a folder, whose splits have classes of their own."""

    kind: Literal["image_folder"] = "image_folder"
    folder: str = Field(default="miniimagenet", min_length=1, max_length=4096)
    """With {train,val,test}/<class>/<image>, or {train,val,test}.csv and images/; absolute, or below data.raw_dir."""
    size: int = Field(default=84, ge=1, le=512)
    """Height and width that images are resized to."""


@registry.problem.register("image_folder", ImageFolderSpec)
def image_folder(spec: ImageFolderSpec, raw_dir: str | None = None) -> Problem:
    """Build the distribution: `episodes` of images [size, size, 3].

    Raises DataError for a folder that lacks something (`data.image_folder`), and before any image is read if a split has too
    few classes or images.
    """
    from l2lcli.data import image_folder

    found = image_folder.listing(spec.folder, raw_dir)
    for split, classes in found.classes.items():
        enough(spec, str(found.root), split, {name: len(paths) for name, paths in classes.items()})
    dataset = image_folder.load(found, spec.size)
    return episodes(spec, str(found.root), dataset.splits, dataset.scale, {dataset.label: dataset.fingerprint})
