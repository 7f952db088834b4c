"""Reports are made of files alone: synthetic folders, checked against computations made here by other means."""

import csv
import json
import math
import random
import re
import statistics
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from l2lcli import figures, report, tables
from l2lcli.artefact import RunError

FALL = {"adam": (0.030, 0.01), "nag": (0.034, 0.1), "sgd": (0.012, 0.316), "rmsprop": (0.026, 0.00316), "lstm": (0.060, None)}


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


def run(folder, learned="lstm", variants=("relu",), **rest):
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "digits" / "20260101-120000-abcd"
    path.mkdir(parents=True)
    run(path)
    report.write(path)
    return path


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


def test_band_is_the_median_and_quartiles_of_the_csv(folder):
    with (folder / "curves" / "digits.csv").open() as file:
        rows = list(csv.DictReader(file))
    low, middle, high = figures.band(tables.read_curves(folder / "curves" / "digits.csv")["adam"])
    for step in (0, 17, 100):
        losses = [float(r["loss"]) for r in rows if r["optimizer"] == "adam" and r["step"] == str(step)]
        assert len(losses) == 20
        quartiles = statistics.quantiles(losses, n=4, method="inclusive")
        np.testing.assert_allclose([low[step], middle[step], high[step]], quartiles, rtol=1e-12)


def test_figures_plot_what_band_computes(folder):
    summary, curves = tables.read_summary(folder), tables.read_curves(folder / "curves" / "digits.csv")
    drawn = figures.loss_figure("x", "digits", summary, curves).draw().axes[0]
    plotted = {line.get_color(): line.get_ydata() for line in drawn.lines if line.get_linestyle() == "-"}
    for name, colour in (("lstm", figures.LEARNED), ("adam", figures.NAMED["adam"])):
        np.testing.assert_array_equal(plotted[colour], np.median(curves[name], axis=0))
    assert {text.get_text() for text in drawn.texts} == set(summary["optimizers"])
    slow = figures.loss_figure("x", "digits", summary, curves, seconds=True).draw().axes[0]
    lstm = next(line for line in slow.lines if line.get_color() == figures.LEARNED)
    assert lstm.get_xdata()[-1] == pytest.approx(100 * 0.21)  # milliseconds
    assert slow.get_xlabel() == "wall-clock time (ms)"


def test_a_diverged_seed_counts_as_the_worst():
    losses = np.array([[1.0, 1, 1], [2, np.nan, np.inf], [3, 3, np.nan], [4, 4, 4], [5, 5, np.inf]])
    low, middle, high = figures.band(losses)
    np.testing.assert_array_equal(middle, [3, 4, np.nan])
    np.testing.assert_array_equal(low, [2, 3, 4])
    np.testing.assert_array_equal(high, [4, 5, np.nan])


@pytest.mark.parametrize(("wanted", "gap"), [([0.5, 0.5, 0.5], 0.1), ([0.9, 0.1, 0.12, 0.5], 0.05), ([0.3], 0.1)])
def test_labels_are_spread_and_keep_their_order_and_their_centre(wanted, gap):
    places = figures.spread(wanted, gap)
    assert np.argsort(places, kind="stable").tolist() == np.argsort(wanted, kind="stable").tolist()
    assert np.diff(np.sort(places)).min(initial=1) >= gap - 1e-12
    assert np.mean(places) == pytest.approx(np.mean(wanted))


def test_table_shows_the_numbers(folder):
    summary = tables.read_summary(folder)
    lines = tables.table(summary).splitlines()
    order = sorted(summary["optimizers"], key=lambda n: summary["optimizers"][n]["sum"])
    assert [line[2:].split()[0] for line in lines[3:8]] == order
    assert [line[0] for line in lines[3:8]] == [">" if n == "lstm" else " " for n in order]
    for name, line in zip(order, lines[3:8], strict=True):
        for key in ("final", "sum"):
            found = summary["optimizers"][name]
            for x in (found[key], *found[f"{key}_ci"]):
                assert any(math.isclose(float(n), x, rel_tol=6e-3) for n in re.findall(r"[\d.]+", line)), (name, x, line)
    assert "0.412 [0.380, 0.452] (nag)" in tables.table(summary)
    assert "0.553 [0.510, 0.594] (adam)" in tables.table(summary)
    assert re.search(r"lstm .* 31 +0\.931 +0\.210 +0/20$", lines[3])


@pytest.mark.parametrize("seed", range(20))
def test_table_is_never_wider_than_110_columns(seed):
    draw = random.Random(seed)
    summary = {
        "problem": "p" * 30,
        "learned": "l" * 40,
        "steps": 10**6,
        "seeds": 1000,
        "best_baseline": {"final": "b", "sum": "b"},
    }
    values = [draw.choice([-1, 1]) * draw.uniform(1, 10) * 10 ** draw.randint(-12, 12) for _ in range(3)]
    fields = {"final": values[0], "final_ci": values[1:], "sum": values[2], "sum_ci": values[:2], "seconds_per_step": 1.234e-7}
    rates = {"phi_final": {"learning_rate": 1.23e-5}, "phi_sum": {"learning_rate": 4.56e-5}}
    summary["optimizers"] = {"l" * 40: fields | {"diverged": 1000, "test": {"accuracy": 0.98765}}, "b": fields | rates}
    assert max(map(len, tables.table(summary).splitlines())) <= 110


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.195466, "0.1955"),
        (27, "27.00"),
        (123456, "123456"),
        (1.5e-7, "1.500e-7"),
        (2.5e12, "2.500e12"),
        (None, "lost"),
        (0, "0.000"),
    ],
)
def test_number(x, text):
    assert tables.number(x) == text


def test_verdict_is_honest():
    base = {"learned": "lstm", "best_baseline": {"final": "nag", "sum": "adam"}}
    worse = {"ratio_sum": 1.4, "ratio_sum_ci": [1.2, 1.6], "ratio_final": 0.9, "ratio_final_ci": [0.7, 1.1]}
    said = tables.verdict(base | worse)
    assert "1.40 [1.20, 1.60] × the summed loss of the best tuned baseline (adam): worse" in said
    assert "(nag): no clear difference" in said
    assert "a seed diverged" in tables.verdict(base | worse | {"ratio_sum": None, "ratio_sum_ci": None})
    assert "Best tuned baseline: nag" in tables.verdict(base | {"learned": None})


def test_report_is_one_page_that_needs_no_other(folder):
    html = (folder / "report.html").read_text()
    page = Page(html)
    page.check()
    assert "http:" not in html
    assert "https:" not in html
    first = page.text[page.text.index("The learned optimizer (lstm) reaches") :]
    assert first.startswith("The learned optimizer (lstm) reaches 0.553 [0.510, 0.594] × the summed loss")
    assert "l2l train configs/digits.yaml --set 'train.horizon=[100]'" in page.text
    for part in (
        "dataset: digits",
        "updates skipped for a non-finite gradient, 3",
        "chosen on a grid",
        "variant relu",
        "backend",
    ):
        assert part in page.text, part
    names = {p.name for p in (folder / "figures").iterdir()}
    stems = ("loss_steps", "loss_seconds", "meta_training", "loss_steps-relu")
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}


def test_svg_is_the_same_every_time(folder):
    curves = tables.read_curves(folder / "curves" / "digits.csv")
    again = figures.save(figures.loss_figure("loss_steps", "digits", tables.read_summary(folder), curves))
    assert again == (folder / "figures" / "loss_steps.svg").read_text()
    assert "dc:date" not in again


def test_figures_names_what_it_wrote(tmp_path):
    run(tmp_path, variants=(), seeds=2, steps=4)
    stems = ("meta_training", "loss_steps", "loss_seconds")
    assert report.figures(tmp_path) == [tmp_path / "figures" / f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")]


def test_names_are_escaped(tmp_path):
    summary = run(tmp_path, learned="<script>$x$&", variants=(), seeds=2, steps=5)
    (tmp_path / "summary.json").write_text(json.dumps(summary | {"label": '<b>"digits"</b> $\\frac'}))
    page = Page(report.write(tmp_path).read_text())
    page.check()
    assert "b" not in page.tags
    assert "<script>$x$&" in page.text


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", ["diverged", "zeros", "all lost", "negative"])
def test_strange_losses_are_drawn(tmp_path, case):
    summary = evaluation(tmp_path, "quadratic", steps=10, seeds=4)
    curves = tables.read_curves(tmp_path / "curves" / "quadratic.csv")
    curves["adam"][2, 4:] = {"diverged": np.inf, "zeros": 0, "all lost": np.nan, "negative": -1}[case]
    if case == "all lost":
        curves = {name: np.full_like(losses, np.nan) for name, losses in curves.items()}
    figure = figures.loss_figure("x", "quadratic", summary, curves)
    svg = figures.save(figure, tmp_path)
    assert ("adam (diverged 1/4)" in svg) == (case == "diverged")
    assert ("(diverged 4/4" in svg) == (case == "all lost")
    assert (tmp_path / "x.png").stat().st_size > 5000


@pytest.mark.filterwarnings("error")
def test_baselines_alone_one_seed_no_run_directory(tmp_path):
    summary = evaluation(tmp_path, "digits", seeds=1, steps=8, learned=None)
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    page = Page(report.write(tmp_path).read_text())
    page.check()
    assert "No learned optimizer" in page.text
    assert "Meta-training" not in page.text
    assert "Environment" not in page.text
    assert "No learned optimizer" in tables.table(summary)


def test_a_run_without_evaluation_says_so(tmp_path):
    run(tmp_path)
    (tmp_path / "summary.json").unlink()
    (tmp_path / "status.json").write_text('{"state": "stopped", "step": 40, "reason": "SIGTERM"}')
    page = Page(report.write(tmp_path).read_text())
    assert "has not been evaluated" in page.text
    assert "not complete: state stopped, step 40, reason SIGTERM" in page.text
    assert "Meta-training" in page.text


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"problem": "p", "steps": 1, "seeds": 1, "optimizers": {}, "learned": "x"}']
)
def test_a_damaged_summary_is_one_line(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(tables.ReportError, match=r"summary.json: damaged: [^\n]+$"):
        report.write(tmp_path)


def test_nothing_to_report_on_and_damaged_curves(tmp_path):
    with pytest.raises(tables.ReportError, match="nothing to report on"):
        report.write(tmp_path)
    with pytest.raises(tables.ReportError, match="nothing to draw"):
        report.figures(tmp_path)
    with pytest.raises(tables.ReportError, match="nothing to compare"):
        report.compare([tmp_path], tmp_path / "out.html")
    run(tmp_path, seeds=1, steps=3)
    with (tmp_path / "curves" / "digits.csv").open("a") as file:
        file.write("adam,0,x,1.0\n")
    with pytest.raises(tables.ReportError, match=r"digits.csv:\d+: damaged"):
        report.write(tmp_path)


def test_compare(tmp_path, folder):
    folders = [folder, tmp_path / "a" / "eval" / "x", tmp_path / "b" / "eval" / "x", tmp_path / "unfinished"]
    for i, path in enumerate(folders[1:3]):
        run(path, variants=(), draw=i + 5)
    folders[3].mkdir()
    page = Page(report.compare(folders, tmp_path / "out" / "compare.html").read_text())
    page.check()
    for part in ("a/eval/x", "b/eval/x", "unfinished has not been evaluated", "digits, the learned optimizers"):
        assert part in page.text, part


def test_jax_is_never_imported(tmp_path):
    run(tmp_path, variants=(), seeds=2, steps=4)
    code = (
        f"import sys; from l2lcli import report; report.write({str(tmp_path)!r}); print([m for m in sys.modules if 'jax' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def places(value, path=()):
    """The path of everything inside a JSON value."""
    for key, entry in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(entry, (*path, key))


def test_no_damage_to_a_summary_is_a_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "save", lambda *_: "<svg ></svg>")
    text, outcomes = json.dumps(run(tmp_path, seeds=2, steps=4)), []
    for path in places(json.loads(text)):
        for wrong in (None, [], {}, "x", 3, True, [None, None], [1]):
            summary = json.loads(text)
            part = summary
            for key in path[:-1]:
                part = part[key]
            part[path[-1]] = wrong
            (tmp_path / "summary.json").write_text(json.dumps(summary))
            try:
                tables.table(tables.read_summary(tmp_path))
                report.write(tmp_path)
                outcomes.append("reported")
            except tables.ReportError as error:
                assert re.search(r"^[^\n]+summary.json: damaged: [^\n]+$", str(error))
                outcomes.append("refused")
    assert outcomes.count("reported") > 100
    assert outcomes.count("refused") > 300


def test_what_the_disk_refuses_is_one_line(tmp_path):
    run(tmp_path, variants=(), seeds=2, steps=4)
    (tmp_path / "figures").write_text("")
    for draw in (report.figures, report.write):
        with pytest.raises(RunError, match=r"figures: (File exists|Not a directory)$"):
            draw(tmp_path)
    (tmp_path / "figures").unlink()
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunError, match=r"/report.html: Is a directory$"):
        report.write(tmp_path)
    (tmp_path / "x").write_text("")
    with pytest.raises(RunError, match=r"/x: (File exists|Not a directory)$"):
        report.compare([tmp_path], tmp_path / "x" / "out.html")
    (tmp_path / "config.yaml").write_bytes(b"\xff")
    with pytest.raises(RunError, match=r"config.yaml: damaged: not UTF-8$"):
        report.write(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/proc/self/mem")  # cannot be read, not even by root
    with pytest.raises(RunError, match=r"metrics.jsonl: Input/output error$"):
        report.write(tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_metrics_are_the_rows_that_the_run_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "note": "a\u2028b\x85c"}\n{"step": 2}\n{"ste\n[3]\n{"step": 4}', encoding="utf-8")
    assert [row["step"] for row in tables.read_metrics(path)] == [1, 2]
    assert tables.read_metrics(tmp_path / "none") == []
