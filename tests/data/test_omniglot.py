"""Omniglot from archives made by hand, in the publisher's layout: splits by alphabet and character, rotations, damage."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from l2lcli import registry
from l2lcli.data.loader import load
from l2lcli.data.omniglot import SMALL
from tests.support import empty_cache, message, publish

SMALL1 = {"Balinese": 2, "Early_Aramaic": 3, "Greek": 2, "Korean": 2, "Latin": 3}
SMALL2 = {"Greek": 2, "Japanese_(katakana)": 2, "Latin": 3, "Sanskrit": 2, "Tagalog": 1}
DRAWINGS = 3
RAW = os.environ.get("L2L_RAW_DIR")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    return empty_cache(tmp_path, monkeypatch)


def drawing(seed):
    """A published drawing: one bit a pixel, black (0) strokes on white, 105 x 105; here the upper left quarter is black."""
    pixels = np.ones((105, 105), bool)
    pixels[:45, :45] = False
    pixels[60, seed % 100] = False
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def archive(top, alphabets, extra=()):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.mkdir(f"{top}/")
        for alphabet, characters in alphabets.items():
            for c in range(characters):
                for n in range(DRAWINGS):
                    content = drawing(100 * len(alphabet) + 10 * c + n)  # the same in every archive that has this alphabet
                    out.writestr(f"{top}/{alphabet}/character{c + 1:02}/{c:04}_{n:02}.png", content)
        for name, content in extra:
            out.writestr(name, content)
    return file.getvalue()


def put(monkeypatch, raw_dir, name, contents):
    (raw_dir / "omniglot").mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        (raw_dir / "omniglot" / file).write_bytes(content)
    publish(monkeypatch, contents, name=name)
    return raw_dir


@pytest.fixture
def small(tmp_path, monkeypatch):
    parts = {
        f"images_background_small{i}.zip": archive(f"images_background_small{i}", a) for i, a in ((1, SMALL1), (2, SMALL2))
    }
    return put(monkeypatch, tmp_path / "raw", "omniglot_small", parts)


def alphabets(splits):
    return {split: set(arrays["alphabet"].tolist()) for split, arrays in splits.items()}


def assert_disjoint(splits, key):
    sets = [set(arrays[key].tolist()) for arrays in splits.values()]
    assert sum(map(len, sets)) == len(set.union(*sets))


def test_the_small_sets_split_by_alphabet_and_count_greek_and_latin_once(small):
    splits = load("omniglot_small", small).splits
    together = SMALL1 | SMALL2
    names = sorted(together)
    for split in ("validation", "test"):
        assert {names[i] for i in alphabets(splits)[split]} == set(SMALL[split])
    assert_disjoint(splits, "alphabet")
    assert_disjoint(splits, "label")
    labels = np.concatenate([arrays["label"] for arrays in splits.values()])
    assert np.bincount(labels).tolist() == [DRAWINGS] * sum(together.values())
    for arrays in splits.values():
        for label in set(arrays["label"].tolist()):
            assert len(set(arrays["alphabet"][arrays["label"] == label].tolist())) == 1


def test_strokes_are_255_on_0(small):
    image = load("omniglot_small", small).splits["test"]["image"]
    assert (image.dtype, image.shape[1:]) == (np.uint8, (28, 28))
    assert (image[:, :11, :11] >= 250).all()  # 45 of 105 pixels are 12 of 28
    assert (image[:, :11, 14:] <= 5).all() and (image[:, 20:] <= 5).all()
    assert 0 < image[:, 14:18].max() < 255  # a stroke of one pixel has become a grey one


def test_the_whole_set_is_tested_on_the_evaluation_set_and_validated_on_five_alphabets(tmp_path, monkeypatch):
    background = dict.fromkeys("GABCDEF", 1)
    contents = {
        "images_background.zip": archive("images_background", background),
        "images_evaluation.zip": archive("images_evaluation", {"Angelic": 2, "Zeta": 1}),
    }
    splits = load("omniglot", put(monkeypatch, tmp_path / "raw", "omniglot", contents)).splits
    names = sorted([*background, "Angelic", "Zeta"])
    found = {split: {names[i] for i in those} for split, those in alphabets(splits).items()}
    assert found == {"train": {"A", "B"}, "validation": set("CDEFG"), "test": {"Angelic", "Zeta"}}
    assert_disjoint(splits, "label")


def test_the_split_by_character():
    from l2lcli.problems.omniglot import by_character

    label = np.repeat(np.arange(1623), 2)
    arrays = {"image": label.astype(np.uint16).reshape(-1, 1, 1), "label": label}
    splits = by_character({"train": {k: v[:2000] for k, v in arrays.items()}, "test": {k: v[2000:] for k, v in arrays.items()}})
    assert [len(set(splits[split]["label"].tolist())) for split in ("train", "validation", "test")] == [1100, 100, 423]
    assert_disjoint(splits, "label")
    assert all((part["image"].ravel() == part["label"]).all() and len(part["label"]) % 2 == 0 for part in splits.values())
    with pytest.raises(ValueError, match="needs dataset: omniglot"):
        registry.problem.specs()["omniglot"](split="character")


def test_classes_are_characters_in_four_rotations(small):
    problem = registry.problem.build(registry.problem.specs()["omniglot"](ways=2, queries=2), small)
    arrays = load("omniglot_small").splits["test"]
    data = {key: np.asarray(value) for key, value in problem.data["test"].items()}
    assert data["count"].tolist() == [DRAWINGS] * 4 * (SMALL2["Sanskrit"] + SMALL2["Tagalog"])
    for c, start in enumerate(data["start"]):
        upright = arrays["image"][arrays["label"] == np.unique(arrays["label"])[c // 4]]
        quarter = [np.rot90(image, c % 4) for image in upright]
        np.testing.assert_array_equal(data["image"][start : start + DRAWINGS], quarter)
    assert list(problem.provenance) == ["omniglot[8 of 50 alphabets]"]


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda top: archive(top, SMALL1)[:-200], "not a whole zip file"),
        (lambda top: b"no zip at all", "not a whole zip file"),
        (
            lambda top: archive(top, SMALL1, [(f"{top}/Korean/character01/broken.png", drawing(0)[:60])]),
            "broken.png: not an image",
        ),
        (lambda top: archive(top, SMALL1, [(f"{top}/Korean/x.png", drawing(0))]), "x.png is not <archive>/<alphabet>/"),
        (lambda top: archive(top, {"Greek": 1}), "no alphabet for validation among Greek"),
    ],
    ids=["cut off", "no zip", "broken image", "wrong place", "alphabets missing"],
)
def test_a_damaged_archive_is_one_line(small, monkeypatch, damage, complaint):
    if "no alphabet" in complaint:
        second = archive("images_background_small2", {"Sanskrit": 1})
    else:
        second = (small / "omniglot" / "images_background_small2.zip").read_bytes()
    contents = {"images_background_small1.zip": damage("images_background_small1"), "images_background_small2.zip": second}
    put(monkeypatch, small, "omniglot_small", contents)
    said = message("omniglot_small", small)
    assert said.startswith("omniglot_small: ")
    assert complaint in said


def test_a_flipped_byte_in_an_archive_is_one_line(small, monkeypatch):
    path = small / "omniglot" / "images_background_small1.zip"
    content = bytearray(path.read_bytes())
    at = content.index(b"IDAT") + 8
    content[at] ^= 255
    second = (small / "omniglot" / "images_background_small2.zip").read_bytes()
    put(monkeypatch, small, "omniglot_small", {path.name: bytes(content), "images_background_small2.zip": second})
    assert "not a whole zip file" in message("omniglot_small", small)


def test_an_unpublished_archive_is_refused(small):
    (small / "omniglot" / "images_background_small1.zip").write_bytes(archive("images_background_small1", {"Greek": 1}))
    assert "not the published file" in message("omniglot_small", small)


def test_the_real_files(monkeypatch):
    if not RAW or not (Path(RAW) / "omniglot").is_dir():
        pytest.skip("needs the raw files: L2L_RAW_DIR is not set, or holds no omniglot")
    dataset = load("omniglot_small", RAW)
    characters = {split: np.unique(arrays["label"], return_counts=True) for split, arrays in dataset.splits.items()}
    assert {split: len(found) for split, (found, _) in characters.items()} == {"train": 161, "validation": 22, "test": 59}
    assert all((counts == 20).all() for _, counts in characters.values())
    assert dataset.classes == 242
