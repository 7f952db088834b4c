"""Runs the cells of a notebook, with what the tests need and no Jupyter; `python -m tests.frameworks.notebook FILE` keeps what
they give in the file, as the documentation shows it.
"""

import ast
import base64
import contextlib
import io
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot


def run(path):
    """(the notebook, its names after the last cell): each code cell with what it printed and drew as its outputs."""
    book, names = json.loads(Path(path).read_text()), {"__name__": "__main__"}
    count = 0
    for cell in book["cells"]:
        if cell["cell_type"] != "code":
            continue
        count += 1
        said, body = io.StringIO(), ast.parse("".join(cell["source"]))
        with contextlib.redirect_stdout(said):
            exec(compile(body, f"{path}[{count}]", "exec"), names)
        outputs = []
        if text := said.getvalue():
            outputs.append({"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)})
        for number in pyplot.get_fignums():
            drawn = io.BytesIO()
            pyplot.figure(number).savefig(drawn, format="png", dpi=80, metadata={"Software": None})
            data = {"image/png": base64.b64encode(drawn.getvalue()).decode(), "text/plain": ["<Figure>"]}
            outputs.append({"data": data, "metadata": {}, "output_type": "display_data"})
            pyplot.close(number)
        cell["execution_count"], cell["outputs"] = count, outputs
    return book, names


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(json.dumps(run(name)[0], indent=1, ensure_ascii=False) + "\n")
