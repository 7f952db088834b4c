"""Image folders made by hand, in both forms in which people have miniImageNet: arrays, cache, faults."""

import os
import shutil

import pytest
from PIL import Image

from l2lcli import registry
from l2lcli.data import image_folder
from l2lcli.data.loader import DataError
from tests.support import empty_cache

CLASSES = {"train": ["cat", "dog", "emu"], "val": ["fox", "gnu"], "test": ["hen", "ibis"]}
COUNTS = {"cat": 4, "dog": 7, "emu": 5, "fox": 4, "gnu": 4, "hen": 4, "ibis": 6}
SPEC = {"ways": 2, "shots": 1, "queries": 3, "size": 6, "learner": {"kind": "mlp", "hidden": [3]}}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    return empty_cache(tmp_path, monkeypatch)


def colour(name, n):
    return 20 * list(COUNTS).index(name), 10 * n, 200


def save(path, name, n):
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = "L" if name == "ibis" else "RGB"  # photographs without colour occur
    Image.new("RGB", (9 + n, 12), colour(name, n)).convert(mode).save(path)


def folders(root):
    for split, names in CLASSES.items():
        for name in names:
            for n in range(COUNTS[name]):
                save(root / split / name / f"{name}{n}.png", name, n)
        (root / split / ".cache").mkdir()
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    return root


def tables(root):
    for split, names in CLASSES.items():
        rows = ["filename,label"]
        for name in names:
            for n in range(COUNTS[name]):
                save(root / "images" / f"{name}{n}.png", name, n)
                rows.append(f"{name}{n}.png,{name}")
        (root / f"{split}.csv").write_text("\n".join([*rows, ""]))
    return root


def load(root, size=6):
    return image_folder.load(image_folder.listing(str(root)), size)


@pytest.mark.parametrize("form", [folders, tables])
def test_both_forms_give_the_same_arrays(tmp_path, form):
    dataset = load(form(tmp_path / "mini"))
    assert (dataset.label, dataset.classes, dataset.scale) == ("mini", 7, 255.0)
    names = list(COUNTS)
    for split, of in {"train": "train", "validation": "val", "test": "test"}.items():
        image, label = dataset.splits[split]["image"], dataset.splits[split]["label"]
        assert image.shape == (sum(COUNTS[name] for name in CLASSES[of]), 6, 6, 3)
        assert [names[i] for i in label] == [name for name in CLASSES[of] for _ in range(COUNTS[name])]
        for name in set(CLASSES[of]) - {"ibis"}:
            for n, one in enumerate(image[label == names.index(name)]):
                assert (one == colour(name, n)).all()
    grey = dataset.splits["test"]["image"][-1]
    assert (grey == grey[..., :1]).all()


def test_images_are_read_once_and_again_when_they_change(tmp_path, monkeypatch):
    root = folders(tmp_path / "mini")
    first = load(root)

    def refuse(*arguments):
        raise AssertionError("read again")

    read = image_folder._image
    monkeypatch.setattr(image_folder, "_image", refuse)
    assert load(root).fingerprint == first.fingerprint
    monkeypatch.setattr(image_folder, "_image", read)
    save(root / "test" / "hen" / "hen0.png", "cat", 3)
    changed = load(root)
    assert changed.fingerprint != first.fingerprint
    assert (changed.splits["test"]["image"][0] == colour("cat", 3)).all()
    assert load(root, size=5).splits["test"]["image"].shape[1:] == (5, 5, 3)


def test_the_folder_lies_below_the_raw_data_or_anywhere(tmp_path, monkeypatch):
    folders(tmp_path / "raw" / "mini")
    build = registry.problem.builder("image_folder")
    spec = registry.problem.specs()["image_folder"].model_validate
    below = build(spec(SPEC | {"folder": "mini"}), str(tmp_path / "raw"))
    monkeypatch.setenv("L2L_RAW_DIR", str(tmp_path / "elsewhere"))
    anywhere = build(spec(SPEC | {"folder": str(tmp_path / "raw" / "mini")}), None)
    assert below.provenance == anywhere.provenance
    assert list(below.provenance) == ["mini"]
    assert {split: data["count"].tolist() for split, data in below.data.items()} == {
        "train": [4, 7, 5],
        "validation": [4, 4],
        "test": [4, 6],
    }


def halve(path):
    os.truncate(path, path.stat().st_size // 2)


FAULTS = {
    "no folder": (folders, shutil.rmtree, "no folder"),
    "no split": (folders, lambda root: shutil.rmtree(root / "val"), "neither a folder val"),
    "no classes": (folders, lambda root: (shutil.rmtree(root / "val"), (root / "val").mkdir()), "no classes in val"),
    "no images": (folders, lambda root: (root / "val" / "owl").mkdir(), "class owl of validation has 0 images"),
    "too few": (folders, lambda root: (root / "test" / "hen" / "hen1.png").unlink(), "class hen of test has 3 images: too few"),
    "one class": (folders, lambda root: shutil.rmtree(root / "val" / "fox"), "validation has 1 classes, and problem.ways is 2"),
    "twice": (
        folders,
        lambda root: shutil.copytree(root / "train" / "cat", root / "test" / "cat"),
        "class cat stands in train",
    ),
    "broken": (folders, lambda root: halve(root / "train" / "dog" / "dog2.png"), "dog2.png: not an image"),
    "no image": (folders, lambda root: (root / "train" / "dog" / "dog2.png").write_text("x"), "dog2.png: not an image"),
    "no table": (tables, lambda root: (root / "test.csv").unlink(), "nor test.csv"),
    "empty table": (tables, lambda root: (root / "test.csv").write_text(""), "columns filename and label"),
    "other columns": (tables, lambda root: (root / "test.csv").write_text("file,class\n"), "columns filename and label"),
    "half a row": (tables, lambda root: (root / "test.csv").write_text("filename,label\nhen0.png\n"), "test.csv:2: needs"),
    "no text": (tables, lambda root: (root / "test.csv").write_bytes(b"filename,label\n\xff\xff,a\n"), "not a table of text"),
    "missing": (tables, lambda root: (root / "images" / "hen0.png").unlink(), "hen0.png: No such file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_one_line(tmp_path, fault):
    form, damage, complaint = FAULTS[fault]
    root = form(tmp_path / "mini")
    damage(root)
    spec = registry.problem.specs()["image_folder"].model_validate(SPEC | {"folder": str(root)})
    with pytest.raises(DataError) as caught:
        registry.problem.build(spec, None)
    assert complaint in str(caught.value)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)
