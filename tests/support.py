"""What several tests share: run directories made by hand, a browser's view of a page, a little MNIST."""

import csv
import gzip
import hashlib
import json
import math
import random
import re
import struct
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from l2lcli.data import loader, source
from l2lcli.data.loader import DataError, load
from l2lcli.evaluation.summary import Summary

ROOT = Path(__file__).parent.parent  # of the repository
DTYPES = ["float32", "float64", "int64", "uint32", "bool"]


def leaves(step):
    """Arrays in which every dtype, an empty one and a scalar occur, and which differ from step to step."""
    rng = np.random.default_rng(step)
    out = {f"layer_{i}/{dtype}": (rng.standard_normal((5, i + 1)) * 3).astype(dtype) for i, dtype in enumerate(DTYPES)}
    nan = np.array([0x7FC00001, 0xFFC12345, 0x80000000], np.uint32).view(np.float32)  # NaNs with a payload, and -0.0
    return out | {"scalar": np.float32(step), "empty": np.zeros((0, 3), np.float32), "nan": nan}


def assert_same(got, want):
    assert got.keys() == want.keys()
    for key, leaf in want.items():
        assert (got[key].dtype, got[key].shape) == (leaf.dtype, leaf.shape), key
        assert got[key].tobytes() == leaf.tobytes(), key


def hidden(path):
    return [str(entry) for entry in path.rglob(".*") if entry.name != ".lock"]


def steps(run):
    return sorted(int(entry.name) for entry in (run.path / "checkpoints").iterdir() if entry.name.isdigit())


def python(code, *args, **kwargs):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, text=True, **kwargs)


FALL = {"adam": (0.030, 0.01), "nag": (0.034, 0.1), "sgd": (0.012, 0.316), "rmsprop": (0.026, 0.00316), "lstm": (0.060, None)}


def a_part(**said):
    """A `Summary` of which only some things are said."""
    given = {"problem": "p", "steps": 1, "seeds": 2, "optimizers": {name: {} for name in [said.get("learned")] if name}} | said
    return Summary.of(given)


def entry(curves, rate, seconds):
    """A summary's entry; a mean that is not finite is null, as in the contract."""
    final, total = curves[:, -1].mean(), curves[:, :-1].sum(1).mean()
    phi = None if rate is None else {"learning_rate": rate}
    twice = None if rate is None else {"learning_rate": rate * 2}
    return {"phi_final": phi, "phi_sum": twice, "final": final, "final_ci": [final * 0.95, final * 1.06],
            "sum": total, "sum_ci": [total * 0.97, total * 1.02], "steps_to_best_baseline": None, "seconds_per_step": seconds,
            "diverged": int((~np.isfinite(curves)).any(1).sum())}  # fmt: skip


def evaluation(folder, name, steps=100, seeds=20, learned="lstm", draw=0):
    """Write curves/<name>.csv; return the summary's object for it."""
    draw = np.random.default_rng(draw)
    t, optimizers = np.arange(steps + 1), {}
    (folder / "curves").mkdir(parents=True, exist_ok=True)
    with (folder / "curves" / f"{name}.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["optimizer", "seed", "step", "loss"])
        for optimizer, (fall, rate) in FALL.items():
            if optimizer == "lstm" and learned is None:
                continue
            shown = learned if optimizer == "lstm" else optimizer
            for row, speed in ((shown, fall), (f"{shown}@sum", fall * 1.1)):
                if row == f"{learned}@sum" or row == "nag@sum":
                    continue
                noise = np.exp(0.12 * draw.normal(size=(seeds, steps + 1)) + 0.25 * draw.normal(size=(seeds, 1)))
                losses = 2.3 * (0.08 + 0.92 * np.exp(-speed * t)) * noise
                if row == shown:
                    optimizers[row] = entry(losses, rate, 2.1e-4 if rate is None else 1.9e-5)
                out.writerows((row, s, k, repr(float(losses[s, k]))) for s in range(seeds) for k in range(steps + 1))
    summary = {"problem": name, "learned": learned, "steps": steps, "seeds": seeds, "optimizers": optimizers,
               "best_baseline": {"final": "nag", "sum": "adam"}}  # fmt: skip
    if learned:
        optimizers[learned] |= {"steps_to_best_baseline": 31, "test": {"accuracy": 0.9312, "accuracy_ci": [0.925, 0.937]}}
        optimizers["adam"] |= {"test": {"accuracy": 0.8954, "accuracy_ci": [0.881, 0.907]}}
        summary |= {"ratio_final": 0.4123, "ratio_final_ci": [0.38, 0.452], "ratio_sum": 0.553, "ratio_sum_ci": [0.51, 0.594]}
    return summary


def finished(folder, learned="lstm", variants=("relu",), **rest):
    """A whole run directory."""
    summary = evaluation(folder, "digits", learned=learned, **rest)
    summary["variants"] = {
        v: evaluation(folder, v, **rest | {"learned": learned, "draw": i + 1}) for i, v in enumerate(variants)
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    rows, best, draw = [], math.inf, random.Random(0)
    for step in range(5, 1001, 5):
        level = 6 + 30 * math.exp(-step / 200)
        rows.append(
            {"step": step, "episode": step // 5, "loss": level * draw.uniform(0.8, 1.3), "skipped": int(step in (35, 40, 610))}
        )
        if step % 100 == 0:
            value = 4.6 * level * draw.uniform(0.95, 1.1)
            rows.append({"step": step, "episode": step // 5, "validation_loss": value, "best": value < best})
            best = min(best, value)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 1005, "lo')
    (folder / "config.yaml").write_text("name: digits\nseed: 0\nproblem: {kind: classification, dataset: digits}\n")
    argv = ["/opt/.venv/bin/l2l", "train", "configs/digits.yaml", "--set", "train.horizon=[100]"]
    (folder / "env.json").write_text(json.dumps({"argv": argv, "versions": {"jax": "0.7"}, "backend": "cpu", "git": None}))
    (folder / "status.json").write_text('{"state": "done"}')
    return summary


class Page(HTMLParser):
    """What a browser would see: tags closed in order, ids, outside addresses, scripts, text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.ids, self.links, self.tags, self.text = [], [], [], set(), ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.ids += [v for k, v in attrs if k == "id"]
        self.links += [v for k, v in attrs if k in ("href", "src", "xlink:href", "clip-path", "style") and v]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def check(self):
        assert len(self.ids) == len(set(self.ids)) > 50
        pointed = {m for link in self.links for m in re.findall(r"^#(.+)|url\(#(.+?)\)", link)}
        assert pointed
        assert {a or b for a, b in pointed} <= set(self.ids)
        assert not [link for link in self.links if "//" in link or "@import" in link]
        assert not self.tags & {"script", "link", "img", "iframe", "image"}


NAMES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


def idx(array):
    header = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + bytes(array.ravel().tolist()), mtime=0)


def publish(monkeypatch, contents, addresses=(), subsets=None, name="mnist"):
    """Make these bytes the published files of a data set."""
    loader.names()
    files = tuple(
        source.RawFile(
            file,
            len(content),
            hashlib.sha256(content).hexdigest(),
            tuple(address + file for address in addresses),
            {hashlib.sha256(value).hexdigest(): mark for value, mark in (subsets or {}).get(file, ())},
        )
        for file, content in contents.items()
    )
    monkeypatch.setitem(source.sources, name, source.sources[name]._replace(files=files))


def empty_cache(tmp_path, monkeypatch):
    """An empty cache, and no raw files but those a test names."""
    monkeypatch.setenv("L2L_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("L2L_RAW_DIR", raising=False)
    return tmp_path / "cache"


def little_mnist(tmp_path, monkeypatch):
    """A little MNIST of 2,500 + 7 images of 3 x 2, in three blocks: (arrays, file contents, raw_dir holding them)."""
    draw = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 2500), ("test", 7)):
        image = draw.integers(0, 256, (n, 3, 2), dtype=np.uint8)
        arrays[split] = {"image": image, "label": draw.integers(0, 10, n, dtype=np.uint8)}
    values = [arrays[split][key] for split in ("train", "test") for key in ("image", "label")]
    contents = {name: idx(value) for name, value in zip(NAMES, values, strict=True)}
    folder = tmp_path / "raw" / "mnist"
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    publish(monkeypatch, contents)
    return arrays, contents, tmp_path / "raw"


def same(dataset, arrays):
    for split in ("train", "test"):
        for key in ("image", "label"):
            np.testing.assert_array_equal(dataset.splits[split][key], arrays[split][key], strict=True)
    assert set(dataset.splits) == {"train", "test"}
    return True


def message(name="mnist", raw_dir=None):
    with pytest.raises(DataError) as caught:
        load(name, raw_dir)
    assert "\n" not in str(caught.value)
    return str(caught.value)
