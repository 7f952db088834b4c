"""Every part imports only what stands below it, and only the parts that may load JAX do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "l2lcli"
# From the top down, as in the design; what stands in one line stands side by side.
ORDER = [
    "__init__ __main__",
    "commands",
    "bench",
    "experiment",
    "reports",
    "torch",
    "runs",
    "evaluation",
    "meta",
    "config",
    "estimators",
    "optimizers problems",
    "inner",
    "register",
    "data sinks",
    "registry",
    "plugins",
    "tree signals processes",
    "base",
]
RANK = {name: rank for rank, line in enumerate(ORDER) for name in line.split()}


def part(module):
    return module.split(".")[1] if "." in module else "__init__"


def imports():
    """(file, part that imports, part that is imported) for every import of this package, at any depth of a file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                whole = node.module == "l2lcli"
                names = [f"l2lcli.{alias.name}" for alias in node.names] if whole else [node.module]
            else:
                continue
            yield from ((path, own, part(name)) for name in names if name.split(".")[0] == "l2lcli")


def test_every_part_has_its_place():
    found = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert found == set(RANK)


def test_nothing_imports_what_stands_above_it():
    # optimizers/hand.py is what the meta-optimizer and a config's names are taken from; a config asks it late.
    upward = [
        f"{path.relative_to(PACKAGE)} imports {there}"
        for path, own, there in imports()
        if there != own and RANK[there] <= RANK[own]
    ]
    assert not upward


def test_no_two_modules_of_a_part_need_each_other():
    """Inside a part, too, imports at the top of a file make no circle."""
    modules = {path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
    names = set(modules.values())
    needs = {}
    for path, own in modules.items():
        found = set()
        for node in ast.parse(path.read_text()).body:  # a function's own imports come later
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        needs[own] = (found & names) - {own}
    rounds = 0
    while needs:
        free = {name for name, wanted in needs.items() if not wanted & needs.keys()}
        assert free, f"a circle among {sorted(needs)}"
        needs = {name: wanted for name, wanted in needs.items() if name not in free}
        rounds += 1
    assert rounds > 5


@pytest.mark.parametrize(
    "module",
    ["l2lcli", "l2lcli.commands.app", "l2lcli.runs.trained", "l2lcli.registry", "l2lcli.reports.page", "l2lcli.bench.report"],
)
def test_importing_loads_no_jax(module):
    heavy = "{'jax', 'optax', 'flax', 'orbax', 'tensorflow', 'torch', 'matplotlib'}"
    code = f"import sys, {module}\nprint({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_without_pytorch_its_part_says_what_is_missing():
    code = "import sys; sys.modules['torch'] = None; import l2lcli.torch"
    error = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr
    assert error.splitlines()[-1] == "ImportError: l2lcli.torch needs PyTorch: pip install 'l2lcli[torch]'"


def test_nothing_needs_tensorflow():
    names = {alias.name for p in PACKAGE.rglob("*.py") for n in ast.walk(ast.parse(p.read_text())) if isinstance(n, ast.Import)
             for alias in n.names}  # fmt: skip
    assert "tensorflow" not in names
    lock = (PACKAGE.parent / "requirements.lock").read_text()
    assert "\ntensorflow==" not in lock and "://" not in lock
