"""The command `l2l inspect`: what an experiment computes, as a picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from l2lcli.commands.options import Set

if TYPE_CHECKING:
    from l2lcli.experiment import Experiment
    from l2lcli.reports.graph import Drawing

STEPS = 3  # of a window that are drawn, at most


def inspect(
    path: Annotated[Path, typer.Argument(metavar="CONFIG", help="Experiment file (YAML).", show_default=False)],
    overrides: Set = [],  # noqa: B006
    graph: Annotated[bool, typer.Option("--graph", help="Draw an optimizer's step, and a window of steps.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Page (.html) or picture (.svg) to write; default <name>-graph.html.")
    ] = None,
) -> None:
    """Draw what an experiment computes: the graph of an optimizer's step, and of the steps between two meta-gradients."""
    from l2lcli import config as configs

    if not graph:
        raise typer.BadParameter("say what to show: --graph")
    if out is not None and out.suffix not in (".html", ".svg"):
        raise typer.BadParameter(f"--out {out}: a name that ends in .html or .svg")
    asked = configs.load(path, overrides)
    os.environ["L2L_NATIVE"] = "off"  # the C++ step is one operation, of which there is nothing to see
    from l2lcli import experiment
    from l2lcli.commands import backend
    from l2lcli.reports import graph as drawn

    backend.start()
    target = out or Path(f"{asked.name.replace('/', '-')}-graph.html")
    drawn.write(target, f"What {asked.name} computes", drawings(experiment.build(asked)))
    print(target)


def drawings(built: Experiment) -> list[Drawing]:
    """An optimizer's step, and a window of at most `STEPS`, as the experiment's estimator has them."""
    import jax

    from l2lcli.evaluation import tracing
    from l2lcli.evaluation.graph import grouped
    from l2lcli.inner.query import averaged
    from l2lcli.meta.estimator import members, of_member
    from l2lcli.reports.graph import Drawing

    config, optimizer = built.config, built.optimizer
    name, member = next(iter(members(built.problem).items()))  # of a mixture the first
    train = of_member(config.train, name, member) if name else config.train
    spec, phi = train.estimator, jax.eval_shape(built.phi)
    steps, kind = min(STEPS, spec.window), config.optimizer.kind
    perturbed = hasattr(spec, "sigma")  # it compares losses of perturbed phi, and derives nothing
    second_order = perturbed or optimizer.second_order or getattr(spec, "second_order", False)
    said = "The meta-gradient is the derivative of the meta-loss by phi."
    if perturbed:
        said = f"{spec.kind} derives nothing: it compares the meta-losses of perturbed phi."
    if train.imitation is not None:
        said += " What the optimizer learns from watching another one (train.imitation) is not in it."
    problem = member.problem
    judged = averaged(problem, getattr(spec, "batches", 1))
    theta = tuple(leaf.shape for leaf in jax.tree.leaves(built.theta()))
    one = tracing.step(problem, optimizer, phi, train.horizon)
    discount = getattr(spec, "discount", 1.0)
    many = tracing.window(problem, judged, optimizer, phi, train.objective, steps, second_order, discount)
    return [
        Drawing(f"One step of the optimizer ({kind})", "From the gradient to the update.", grouped(one, kind), theta),
        Drawing(f"{steps} steps of a window of {spec.window}", said, grouped(many, kind, depth=2), theta),
    ]
