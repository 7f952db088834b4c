"""Figures and the HTML report from a run directory's files alone; JAX is never imported."""

from __future__ import annotations

import json
import os
import re
import shlex
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from l2lcli import tables
from l2lcli.artefact import faults, replacing
from l2lcli.figures import FAINT, INK, PAPER, Figure, loss_figure, save, training_figure

THEME = {INK: "var(--ink)", FAINT: "var(--line)", PAPER: "var(--paper)"}
CSS = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1f2328;--soft:#59636e;--line:#d9dcdf;--mark:#fff4e5}
@media(prefers-color-scheme:dark){:root{--paper:#16191d;--ink:#e6e8ea;--soft:#9aa4af;--line:#3a4048;--mark:#33261a}}
body{background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,sans-serif;max-width:68rem;margin:2rem auto;padding:1rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .5rem}p.soft,figcaption{color:var(--soft);font-size:.875rem}
p.verdict{font-size:1.15rem;border-left:4px solid #d55e00;padding-left:.9rem;margin:1.2rem 0}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums;display:block;overflow-x:auto}
th,td{text-align:left;padding:.3rem .9rem .3rem 0;border-bottom:1px solid var(--line);white-space:nowrap;vertical-align:top}
table.wrap td{white-space:normal;overflow-wrap:anywhere}tr.learned{background:var(--mark);font-weight:600}
figure{margin:1rem 0 2rem}svg{width:100%;height:auto;max-width:48rem}
pre{overflow-x:auto;border:1px solid var(--line);border-radius:6px;padding:.7rem .9rem;font-size:.8rem;line-height:1.45}
"""
NOTES = """<p class="soft">Loss at step {steps} (mean of the last 5 steps where minibatches are drawn), and summed over
steps 0 to {last}; mean over {seeds} seeds [95 % interval]. Rate: the tuned learning rate, for the final / for the summed loss.
To best: first step at which the mean is at or below the best baseline's final loss. Lost: a seed diverged, so there is no mean.
ms/step: one optimizee alone, compiled, median.</p>"""
TUNING = """<p>Each baseline's learning rate was chosen on a grid, anew for each problem and variant, once for the final and
once for the summed loss; where the best value lay at the grid's edge, the grid was extended. Tuning used seeds of its own:
every number here is from other seeds, on which all optimizers started from the same parameters and saw the same minibatches
(paired comparison; the ratios' intervals are paired bootstrap).</p>"""


def _html_table(rows: list[list[str]], marked: str | None = None, kind: str = "") -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in rows[0])
    body = ((' class="learned"' if r[0] == marked else "", "".join(f"<td>{escape(c)}</td>" for c in r)) for r in rows[1:])
    lines = "".join(f"<tr{c}>{r}</tr>" for c, r in body)
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'


def _html_figure(figure: Figure, svg: str) -> str:
    """The SVG inline: no outside name in it, ids that no other figure on the page has, colours that follow the theme."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href=", "href=")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>f{figure.name.encode().hex()}-", svg)
    for colour, variable in THEME.items():
        svg = svg.replace(colour, variable)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(figure.title)}" ', 1)
    return f"<figure>{svg}<figcaption>{escape(figure.caption)}</figcaption></figure>"


def _page(path: Path, title: str, body: list[str]) -> Path:
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    html = [f'<!doctype html><html lang="en"><head>{head}<style>{CSS}</style></head><body>', *body, "</body></html>"]
    with faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write("\n".join(html).encode("utf-8", "replace"))  # JSON may hold halves of surrogate pairs
    return path


def _curves(folder: Path, name: str) -> dict[str, np.ndarray]:
    path = folder / "curves" / f"{name}.csv"
    inside = Path(name).name == name  # a name with a slash in it leads nowhere
    return tables.read_curves(path) if inside and path.is_file() else {}


def _planned(folder: Path, summary: dict[str, Any] | None) -> list[Figure]:
    """Every figure that the folder has the data for; a variant's name has a hyphen in it, no other has."""
    drawn = [training_figure(tables.read_metrics(folder / "metrics.jsonl"))]
    if summary:
        label, curves = summary.get("label") or summary["problem"], _curves(folder, summary["problem"])
        names = {"loss_steps": False, "loss_seconds": True}
        drawn += [loss_figure(name, label, summary, curves, seconds) for name, seconds in names.items()]
        for name, part in (summary.get("variants") or {}).items():
            drawn.append(loss_figure(f"loss_steps-{name}", f"{label}, variant {name}", part, _curves(folder, name)))
    return [figure for figure in drawn if figure]


def figures(folder: Path) -> list[Path]:
    """Draw what the folder has the data for into `figures/`, each as PNG (150 dpi) and SVG. Raises ReportError."""
    folder = Path(folder)
    if not (planned := _planned(folder, tables.read_summary(folder))):
        raise tables.ReportError(f"{folder}: nothing to draw: no curves of an evaluation and no rows in metrics.jsonl")
    for figure in planned:
        save(figure, folder / "figures")
    return [folder / "figures" / f"{figure.name}.{kind}" for figure in planned for kind in ("png", "svg")]


def write(folder: Path) -> Path:
    """Write the folder's `report.html`, one static file that needs no other, and `figures/`. Raises ReportError."""
    folder = Path(folder)
    summary = tables.read_summary(folder)
    env, status = (tables.read_json(folder / f"{name}.json") or {} for name in ("env", "status"))
    config = tables.read_text(folder / "config.yaml") or ""
    planned = _planned(folder, summary)
    if summary is None and not planned and not config:
        raise tables.ReportError(f"{folder}: nothing to report on: no summary.json, metrics.jsonl or config.yaml")
    shown = {figure.name: _html_figure(figure, save(figure, folder / "figures")) for figure in planned}
    sections = {"Meta-training": shown.pop("meta_training", "")}
    title = f"{(summary.get('label') or summary['problem']) if summary else 'Run'}, {'/'.join(folder.absolute().parts[-2:])}"
    unknown = "This run has not been evaluated: nothing can be said yet against the baselines."
    said = tables.verdict(summary) if summary else unknown
    body = [f'<h1>{escape(title)}</h1><p class="verdict">{escape(said)}</p>']
    if not summary and status.get("state", "done") != "done":
        told = ", ".join(f"{key} {status[key]}" for key in ("state", "step", "reason") if status.get(key) is not None)
        body.append(f"<p>This run is not complete: {escape(told)}.</p>")
    if summary:
        results = _html_table(tables.optimizer_rows(summary), summary["learned"])
        results += NOTES.format(last=summary["steps"] - 1, **summary)
        variants = _html_table(tables.ratio_rows(summary["variants"], "variant")) if summary["variants"] else ""
        variants += "".join(html for name, html in shown.items() if "-" in name)
        loss = "".join(html for name, html in shown.items() if "-" not in name)
        sections = {"Results": results, "Loss": loss, "Variants": variants, "How the baselines were tuned": TUNING, **sections}
    if isinstance(argv := env.get("argv"), list) and argv:
        program, *arguments = map(str, argv)
        sections["Command"] = f"<pre>{escape(shlex.join([Path(program).name, *arguments]))}</pre>"
    if config:
        sections["Configuration"] = f"<p>Complete, defaults included.</p><pre>{escape(config)}</pre>"
    facts = [[k, v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)] for k, v in env.items()]
    sections["Environment"] = _html_table([["what", "value"], *facts], kind="wrap") if facts else ""
    body += [f"<h2>{name}</h2>{html}" for name, html in sections.items() if html]
    return _page(folder / "report.html", title, body)


def compare(folders: list[Path], out: Path) -> Path:
    """Write one page on several runs: ratios, losses, learned curves over each other. Raises ReportError."""
    paths = [Path(folder).absolute() for folder in folders]
    base = os.path.commonpath([path.parent for path in paths])
    runs = {path.relative_to(base).as_posix(): (path, tables.read_summary(path)) for path in paths}
    evaluated = {name: summary for name, (_, summary) in runs.items() if summary}
    if not evaluated:
        raise tables.ReportError("nothing to compare: none of these runs has been evaluated (no summary.json)")
    body = ["<h1>Runs compared</h1>", _html_table(tables.ratio_rows(evaluated, "run"))]
    body += [f"<p>{escape(name)} has not been evaluated.</p>" for name in runs if name not in evaluated]
    alike: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for name, summary in evaluated.items():
        learned = _curves(runs[name][0], summary["problem"]).get(summary["learned"] or "")
        if learned is not None:
            alike.setdefault((summary.get("label") or summary["problem"], summary["steps"]), {})[name] = learned
    for (label, steps), curves in alike.items():
        if len(curves) > 1:
            seeds = max(map(len, curves.values()))
            together = {"learned": None, "steps": steps, "seeds": seeds, "optimizers": {name: {} for name in curves}}
            figure = loss_figure(f"compare{len(body)}", f"{label}, the learned optimizers", together, curves)
            body += [_html_figure(figure, save(figure))] if figure else []
    return _page(Path(out), "Runs compared", body)
