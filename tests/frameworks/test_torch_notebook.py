"""The PyTorch notebook of the documentation runs, and says what it says there."""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: make frameworks")

from tests.frameworks.notebook import run
from tests.support import ROOT

NOTEBOOK = ROOT / "docs/examples/torch_mlp/torch_mlp.ipynb"


def printed(book):
    """The numbers of its table, a row for each optimizer."""
    texts = ["".join(o["text"]) for cell in book["cells"] for o in cell.get("outputs", ()) if o["output_type"] == "stream"]
    rows = [line.rsplit(maxsplit=3) for line in "".join(texts).splitlines()[1:]]
    return {name: [float(number) for number in numbers] for name, *numbers in rows}


def test_it_runs_and_finds_what_it_shows():
    shown, (book, names) = printed(json.loads(NOTEBOOK.read_text())), run(NOTEBOOK)
    found = printed(book)
    assert found.keys() == shown.keys() == names["results"].keys()
    for name, numbers in found.items():
        np.testing.assert_allclose(numbers[1:], shown[name][1:], rtol=0.1)  # another processor rounds otherwise
    best = min(numbers[0] for name, numbers in found.items() if name != "general")
    assert found["general"][0] < best / 10  # "twenty times"
    kinds = [[o["output_type"] for o in cell["outputs"]] for cell in book["cells"] if cell["cell_type"] == "code"]
    assert kinds == [[], [], ["stream"], ["display_data"]]
