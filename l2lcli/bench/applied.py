"""`l2l bench --apply`: what an update alone costs, and how much it remembers, over the number of parameters.

The network is 784-H-10 with H from 1 to 1,887; its gradient is the same array at every step, and left out of the time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from l2lcli.reports.tables import aligned, number

WIDTHS = (1, 12, 20, 126, 1258, 1887)  # 784-H-10: 805 to 1.5 million parameters
SHIPPED = ("general", "general-small")
COORDINATES = 1_000_000  # by steps, in one run: what a large network takes a second for is not done a hundred times
LSTMS = {"lstm 2x20": (2, 20), "lstm 1x8": (1, 8)}  # layers, units
ADAM = "optax.adam"


def measure(check: Callable[[], None]) -> dict[str, Any]:
    """Time them; the object that --json prints. `check` is called between measurements; what it raises goes through.

    Returns:
      {"device", "rows": [{"coordinates", "seconds": {optimizer: per step}}], "bytes": {optimizer: per parameter}}.
    """
    import jax

    from l2lcli import registry, tree
    from l2lcli.bench.measure import Work, apply_seconds, build
    from l2lcli.optimizers.lstm import LstmSpec
    from l2lcli.runs import trained

    families: dict[str, Any] = {}
    for name in SHIPPED:
        found = trained.read(name)
        families[name] = registry.optimizer.build(found.optimizer), tree.nest(found.phi)
    for name, (layers, hidden) in LSTMS.items():
        family = registry.optimizer.build(LstmSpec(layers=layers, hidden=hidden))
        families[name] = family, family.init(jax.random.key(0), {"w": jax.numpy.zeros(1)})
    rows: list[dict[str, Any]] = []
    kept: dict[str, float] = {}
    for width in WIDTHS:
        check()
        problem = build(Work("mnist", 1, 1, 1, 1, width, 1))[0]
        theta = jax.eval_shape(problem.init, jax.random.key(0), problem.data["train"])[0]
        size = sum(leaf.size for leaf in jax.tree.leaves(theta))
        steps = max(1, min(100, COORDINATES // size))
        rows.append({"coordinates": size, "seconds": apply_seconds(problem, families, steps)})
        for name, (family, phi) in families.items():
            state = jax.eval_shape(family.bind(phi).init, theta)
            kept[name] = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / size
        print(f"{size:,} parameters: Adam {1e3 * rows[-1]['seconds'][ADAM]:.3g} ms", file=sys.stderr, flush=True)
    return {"device": jax.devices()[0].device_kind, "rows": rows, "bytes": {ADAM: 8.0, **kept}}


def table(found: dict[str, Any]) -> str:
    """What was measured, as text."""
    names = list(found["bytes"])
    lines = [["parameters", *names], ["bytes per parameter", *(number(found["bytes"][name], 3) for name in names)]]
    for row in found["rows"]:
        cells = [f"{number(1e3 * row['seconds'][name], 3)} ms" for name in names]
        lines.append([f"{row['coordinates']:,}", *cells])
    return "\n".join([*aligned(lines), "", f"An update alone, the gradient left out; {found['device']}."])
