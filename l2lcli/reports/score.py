"""The report of a score: which problems of a suite an optimizer wins, by how much, and how soon. Never touches JAX."""

from __future__ import annotations

import math
import shutil
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from l2lcli.evaluation import statistics
from l2lcli.reports.figures.drawing import INK, LEARNED, NAMED, OTHERS, PAPER, Figure, literal, log_ticks, save
from l2lcli.reports.html import html_figure, html_table, page
from l2lcli.runs.files import RunError, faults, read_json

COLOURS = {"won": "#1a7f4b", "undecided": "#7a7f85", "lost": "#b3302a"}
NOTES = """<p class="soft">Final loss of the optimizer over that of the better of the tuned baselines, on the same seeds [95 %
interval of a paired bootstrap]. Won: the interval is below 1; a seed that diverges is a loss. Each baseline's learning rate was
tuned for each problem on other seeds, sixteen rates and more where the best lay at an edge. Untuned ones are not judged. Equal
time: the same ratio where each baseline has as many steps as fit into the optimizer's time, at a rate tuned for that
many.</p>"""


def verdict(score: dict[str, Any]) -> str:
    """A score in one or two sentences."""
    whole = sum(score[name] for name in ("wins", "undecided", "losses", "missing"))
    said = f"{score['optimizer']} wins {score['wins']} of {whole} problems, {score['undecided']} are undecided, "
    said += f"{score['losses']} lost"
    said += f", {score['missing']} missing." if score["missing"] else "."
    if score["iqm_log_ratio"] is None:
        return said
    low, high = score["iqm_log_ratio_ci"]
    ratios = [f"{math.exp(x):.3f}" for x in (score["iqm_log_ratio"], low, high)]
    said += f" Interquartile mean of the ratios of final losses {ratios[0]} [{ratios[1]}, {ratios[2]}];"
    said += f" {score['speedup']:.2f} times as fast as tuned Adam by steps; by the clock its profile is "
    said += f"{score['clock_profile']:.2f}."
    if timed := score.get("equal_time"):
        said += f" With as much time for the baselines it wins {timed['wins']}, {timed['undecided']} are undecided, "
        said += f"{timed['losses']} lost."
    return said


def rows(score: dict[str, Any]) -> list[list[str]]:
    """A table of all tasks, its header first."""
    head = [
        "problem",
        "verdict",
        "final / better",
        "interval",
        "better",
        "rate",
        "final",
        "test",
        "speed-up",
        "ms/step",
        "equal time",
        "adam 1e-3",
    ]
    out = [head]
    for name, entry in score["tasks"].items():
        if entry["verdict"] == "missing":
            out.append([name, "missing", *[""] * (len(head) - 2)])
            continue
        interval, finals = entry["ratio_final_ci"], entry["finals"]
        test = entry["test"].get("learned", {}), entry["test"].get(entry["baseline"], {})
        metric = "accuracy" if "accuracy" in test[0] else "loss"
        out.append(
            [
                name,
                entry["verdict"],
                _number(entry["ratio_final"]),
                "" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]",
                entry["baseline"],
                _number(entry["learning_rate"]),
                f"{_number(finals['learned'])} / {_number(finals[entry['baseline']])}",
                f"{metric} {_number(test[0].get(metric))} / {_number(test[1].get(metric))}" if test[0] else "",
                f"{entry['speedup']:.2f}",
                " / ".join(f"{1e3 * entry['seconds_per_step'][of]:.3g}" for of in ("learned", entry["baseline"])),
                _timed(entry.get("equal_time")),
                _number(finals.get("adam_1e-3")),
            ]
        )
    return out


def figure(score: dict[str, Any]) -> Figure:
    """Ratios with their intervals, problem by problem, and performance profiles by the clock."""
    tasks = {name: entry for name, entry in score["tasks"].items() if entry["verdict"] != "missing"}

    def draw() -> Any:
        from matplotlib.figure import Figure as Page

        drawn = Page(figsize=(9.5, 0.24 * len(tasks) + 1.6), layout="constrained")
        left, right = drawn.subplots(1, 2, width_ratios=(3, 2))
        for place, entry in enumerate(tasks.values()):
            if entry["ratio_final_ci"] is None:
                left.annotate("diverged", (1, place), color=COLOURS["lost"], va="center", fontsize=8)
                continue
            low, high = (max(end, 1e-3) for end in entry["ratio_final_ci"])
            left.plot([low, high], [place, place], color=COLOURS[entry["verdict"]], linewidth=2)
            left.plot(entry["ratio_final"], place, "o", color=COLOURS[entry["verdict"]], markersize=4)
            if (timed := entry.get("equal_time")) and timed["ratio_ci"]:
                beside, colour = [place + 0.3] * 2, COLOURS[timed["verdict"]]
                left.plot([max(end, 1e-3) for end in timed["ratio_ci"]], beside, color=colour, linewidth=1)
                left.plot(timed["ratio"], beside[0], "o", color=colour, markersize=4, markerfacecolor=PAPER)
        left.axvline(1, color=INK, linewidth=0.8)
        left.set_yticks(range(len(tasks)), [literal(name) for name in tasks])
        left.invert_yaxis()
        left.set_xscale("log")
        low, high = left.get_xlim()
        log_ticks(left.xaxis, low, high)
        left.set_xlabel("final loss / that of the better tuned baseline")
        left.set_title("Ratios, 95 % intervals")
        taus = np.linspace(1, statistics.SLOWEST, 301)
        others = iter(OTHERS)
        for name, of in statistics.profile_taus(tasks).items():
            label, colour = (score["optimizer"], LEARNED) if name == "learned" else (name, NAMED.get(name) or next(others))
            right.plot(taus, [(of <= tau).mean() for tau in taus], label=literal(label), color=colour)
        right.set(xlabel="time to the target / shortest time", ylabel="share of the problems", ylim=(-0.02, 1.02))
        right.set_title("Performance profile by the clock")
        right.legend(frameon=False)
        return drawn

    caption = (
        "Left: green where the interval lies below 1; open: in equal time, if that was asked for. Right: the share of problems "
        "on which an optimizer reaches the better baseline's final loss within so many times the shortest time of all; one "
        "that never reaches it never counts."
    )
    return Figure("score", f"{score['optimizer']} on {len(tasks)} problems", caption, draw, arranged=True)


def write(folder: Path) -> Path:
    """Write a score's `report.html` and `figures/` from its score.json. Raises RunError."""
    score = read_json(folder / "score.json")
    if not score:
        raise RunError(f"{folder}: no score.json")
    table = rows(score)
    body = [f"<h1>{escape(score['optimizer'])}</h1><p class='verdict'>{escape(verdict(score))}</p>"]
    if any(entry["verdict"] != "missing" for entry in score["tasks"].values()):
        drawn = figure(score)
        body.append(html_figure(drawn, save(drawn, folder / "figures")))
    body += [f"<h2>Problems</h2>{html_table(table)}{NOTES}", f"<p class='soft'>Suite {escape(score['suite'])}.</p>"]
    return page(folder / "report.html", f"{score['optimizer']}: score", body)


def redraw(folder: Path) -> list[Path]:
    """Draw a kept score's figure again, from its score.json; its path. Raises RunError."""
    score = read_json(folder / "score.json")
    if not score:
        raise RunError(f"{folder}: no score.json")
    save(figure(score), folder / "figures", kinds=("png",))
    return [folder / "figures" / "score.png"]


def keep(folder: Path, root: Path) -> Path:
    """Keep a score, and the baselines that it was judged by, as a reference result: `<root>/suite-<mark>/`; the score's folder.

    In it: score.json, the optimizer's curves, figures/score.png. Raises RunError.
    """
    score = read_json(folder / "score.json")
    if not score:
        raise RunError(f"{folder}: no score.json: run `l2l score` first")
    mark = score["suite"][:8]
    suite = root / f"suite-{mark}"
    place = suite / "scores" / score["optimizer"]
    with faults(place):
        for source, target, pattern in (
            (folder.parent / f"baselines-{mark}", suite, "*.npz"),
            (folder / "curves", place / "curves", "*.npz"),
            (folder / "figures", place / "figures", "*.png"),
            (folder, place, "score.json"),
        ):
            target.mkdir(parents=True, exist_ok=True)
            for file in source.glob(pattern):
                shutil.copyfile(file, target / file.name)
    return place


def _timed(found: dict[str, Any] | None) -> str:
    if not found or not found["ratio_ci"]:
        return ""
    low, high = found["ratio_ci"]
    return f"{found['ratio']:.3f} [{low:.3f}, {high:.3f}] ({found['best']}, {found['steps'][found['best']]:,} steps)"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
