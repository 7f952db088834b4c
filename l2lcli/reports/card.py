"""The model card of a trained optimizer, as the Hugging Face Hub shows it. Never touches JAX."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from l2lcli.config.yaml_write import emit
from l2lcli.evaluation.summary import Summary
from l2lcli.reports import claims, score
from l2lcli.reports.text import result_table
from l2lcli.runs.trained import Trained

LIBRARY = "l2lcli"
TAGS = ["learned-optimizer", "meta-learning", "learning-to-learn", "optimizer", "jax", "optax"]
COLUMNS = ("problem", "verdict", "final / better", "interval", "better", "test", "speed-up", "ms/step", "equal time")
PORTED = ("lstm", "scaled")  # kinds that have steps in torch and in NumPy
OWN = ("start", "rate")  # leaves of phi that have a number for each parameter of the network

TITLE = """# {name}

A learned optimizer: it reads gradients and writes updates, as Adam does, and what it computes was not thought of but trained
(Andrychowicz et al. 2016, *Learning to learn by gradient descent by gradient descent*). It is of the kind `{kind}`, has
{numbers:,} parameters of its own, and was written here by l2l (`l2lcli` {version})."""

OPTAX = """## Use it in JAX

```python
import l2lcli
import optax

tx = l2lcli.load("{name}-hf")  # this folder, wherever it lies; horizon=T, the steps in all, if they are known
state = tx.init(params)
updates, state = tx.update(grads, state, params, value=loss)
params = optax.apply_updates(params, updates)
```

It has no learning rate. `l2l eval {name}-hf` compares it with tuned baselines on its own problem, with `--config` on one of
yours."""

START = """It has learned where training begins, too: `params = l2lcli.start("{name}-hf", params)` before `tx.init`."""

TORCH = """## Use it in PyTorch

```python
from l2lcli.torch import LearnedOptimizer

optimizer = LearnedOptimizer(model.parameters(), "{name}-hf")
```"""

NUMPY = """## Read it with NumPy

```python
from safetensors.numpy import load_file

phi = load_file("{name}-hf/model.safetensors")  # {{'/'-joined name: array}}
```

`config.json` says what they are parameters of (`optimizer`)."""

STEP = """ In the repository of l2l
`docs/examples/numpy_{kind}.py` is one step of this kind in NumPy alone, as the shipped ones have it; it reads what
`l2l export {name}-hf` writes."""

TRAINED = """## How it was trained

{after}Meta-training ran optimizees of this problem, for {horizon} steps each:

```yaml
{problem}```

The whole config is in `config.json`, under `config`."""


def card(name: str, found: Trained, scores: list[dict[str, Any]], summary: Summary | None) -> str:
    """README.md of its folder: YAML front matter, what it is, how to use it, how it was trained, how good it is, its limits.

    Args:
      name: what it is called.
      found: the optimizer.
      scores: what score.json says, of each suite that it was scored on.
      summary: of its own problem.
    """
    kind = found.optimizer.kind
    about = importlib.metadata.metadata(LIBRARY)
    front = {"library_name": LIBRARY, "license": (about["License-Expression"] or "other").lower(), "tags": TAGS}
    numbers = sum(leaf.size for leaf in found.phi.values())
    parts = [
        f"---\n{emit(front)}---",
        TITLE.format(name=name, kind=kind, numbers=numbers, version=about["Version"]),
        OPTAX.format(name=name),
        *([START.format(name=name)] if "start" in found.phi else []),
        *([TORCH.format(name=name)] if kind in PORTED else []),
        NUMPY.format(name=name) + (STEP.format(name=name, kind=kind) if kind in PORTED else ""),
        _trained(found),
        _results(name, scores, summary),
        "## Limits\n\n" + "\n".join(f"- {line}" for line in _limits(found, scores)),
    ]
    return "\n\n".join(parts) + "\n"


def _trained(found: Trained) -> str:
    """What its file says of its training, as far as it does."""
    training, step, loss = found.record.get("train"), found.about.get("step"), found.about.get("validation_loss")
    if not training or "problem" not in found.record:
        return "## How it was trained\n\nIts file does not say."
    best = "" if loss is None else f"; it is where validation went best, with a meta-loss of {loss:.4g}"
    after = "" if step is None else f"For {step:,} meta-steps (seed {found.record.get('seed', '?')}){best}. "
    problem = emit({"problem": found.record["problem"]}, width=100)
    return TRAINED.format(after=after, horizon=training.get("horizon", "?"), problem=problem)


def _results(name: str, scores: list[dict[str, Any]], summary: Summary | None) -> str:
    """What it was compared with: what it lost stands beside what it won."""
    parts = ["## How good it is"]
    if summary is not None:
        parts += ["On its own problem:", f"```\n{result_table(summary)}\n```"]
    for found in scores:
        head, *rows = score.rows(found)
        shown = [head.index(column) for column in COLUMNS]
        shown = [k for k in shown if any(row[k] for row in rows)]
        rows = [[f"**{cell}**" if row[1] == "lost" and k < 4 else cell for k, cell in enumerate(row)] for row in rows]
        table = claims.markdown([[row[k] for k in shown] for row in [head, *rows]])
        what = "Final training loss over that of the better tuned baseline, with its 95 % interval; below 1 this one is better."
        parts += [f"On the suite {found['suite'][:8]}. {score.verdict(found)}", what, table]
    if len(parts) == 1:
        parts += [f"Not known: no score of it lay where this card was written. `l2l score {name}-hf` makes one."]
    return "\n\n".join(parts)


def _limits(found: Trained, scores: list[dict[str, Any]]) -> list[str]:
    lines = [
        "It is good at what it was trained on, and for about as many steps. Far from there it can do worse than any baseline, "
        "or diverge: test it on your problem, beside a tuned Adam."
    ]
    for tasks in (of["tasks"] for of in scores):
        lost = [f"{task} ({entry['ratio_final'] or float('inf'):.4g})" for task, entry in tasks.items()
                if entry["verdict"] == "lost"]  # fmt: skip
        timed = [task for task, entry in tasks.items() if (entry.get("equal_time") or {}).get("verdict") == "lost"]
        lines += [f"It lost on {', '.join(lost)} (final loss over the better baseline's)."] if lost else []
        lines += [f"With as much time for the baselines it lost on {', '.join(timed)}."] if timed else []
    if set(OWN) & found.phi.keys():
        lines += ["It has numbers for each parameter of the network that it was trained on, and fits no other network."]
    return [
        *lines,
        "A step costs more than Adam's: in equal time a tuned Adam may be ahead.",
        "Intervals are over networks. What another meta-training would have given they do not say.",
    ]
