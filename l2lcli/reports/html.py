"""Static HTML pages that need no other file: their style, tables and figures."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from l2lcli.reports.figures.drawing import FAINT, INK, PAPER, Figure
from l2lcli.runs.files import faults, replacing

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


def html_table(rows: list[list[str]], marked: str | None = None, kind: str = "") -> str:
    """Rows under a header; the row that begins with `marked` stands out. kind: a class of CSS."""
    head = "".join(f"<th>{escape(c)}</th>" for c in rows[0])
    body = ((' class="learned"' if r[0] == marked else "", "".join(f"<td>{escape(c)}</td>" for c in r)) for r in rows[1:])
    lines = "".join(f"<tr{c}>{r}</tr>" for c, r in body)
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'


def html_figure(figure: Figure, svg: str) -> str:
    """The SVG inline: no outside name in it, ids that no other figure on the page has, colours that follow the theme."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href=", "href=")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>f{figure.name.encode().hex()}-", svg)
    for colour, variable in THEME.items():
        svg = svg.replace(colour, variable)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(figure.title)}" ', 1)
    return f"<figure>{svg}<figcaption>{escape(figure.caption)}</figcaption></figure>"


def page(path: Path, title: str, body: list[str]) -> Path:
    """Write a page of pieces of HTML; its path. Raises RunError."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    html = [f'<!doctype html><html lang="en"><head>{head}<style>{CSS}</style></head><body>', *body, "</body></html>"]
    with faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write("\n".join(html).encode("utf-8", "replace"))  # JSON may hold halves of surrogate pairs
    return path
