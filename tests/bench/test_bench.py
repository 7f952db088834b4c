"""The benchmark measures what it says: its plain LSTM is the LSTM, its peer's work is the same, its object is complete."""

import importlib.util
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2lcli.bench import measure, peers
from l2lcli.bench.peers import TORCH, plain_lstm
from l2lcli.commands import bench
from l2lcli.optimizers.lstm import LstmSpec, lstm
from l2lcli.runs.files import RunError
from tests.command_line import l2l


def test_the_plain_lstm_gives_the_same_updates():
    spec = LstmSpec(layers=2, hidden=3)
    ours, plain = lstm(spec), plain_lstm(spec)
    theta = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4)}
    phi = ours.init(jax.random.key(0), theta)
    states = [family.bind(phi).init(theta) for family in (ours, plain)]
    for step in range(3):
        grad = jax.tree.map(lambda x, step=step: jax.random.normal(jax.random.key(step), x.shape), theta)
        found = [family.bind(phi).update(grad, state) for family, state in zip((ours, plain), states, strict=True)]
        states = [state for _, state in found]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found[0][0], found[1][0])


def test_the_object_has_every_key_and_a_row_is_kept(tmp_path):
    arguments = ["--problem", "quadratic", "--tasks", "2", "--window", "2", "--hidden", "3", "--devices", "1"]
    out, _ = l2l(tmp_path, "bench", *arguments, "--json", "--append", "rows.jsonl")
    found = json.loads(out)
    assert json.loads((tmp_path / "rows.jsonl").read_text()) == found
    ways = {"replay", "autodiff_checkpoint", "autodiff", "torch", "deepmind", "learned_optimization"}
    assert set(found["seconds_per_100_steps"]) == set(found["temp_bytes"]) == set(found["compile_seconds"]) == ways
    assert found["work"]["coordinates"] == 10
    assert found["ratio_to_floor"] == pytest.approx(
        found["seconds_per_100_steps"]["replay"] / found["floor_seconds_per_100_steps"]
    )
    assert set(found["apply_seconds_per_step"]) == {"learned", "plain", "optax.adam"}
    assert min(found["apply_seconds_per_step"].values()) > 0
    assert found["repeats"] == 7
    assert found["peak_rss_bytes"] > 1e8


def work(problem="mnist", **given):
    sizes = {"tasks": 1, "window": 4, "layers": 2, "hidden": 3, "width": 20, "devices": 1}
    return measure.Work(problem, **(sizes | given))


def test_the_peers_are_where_they_are_looked_for():
    assert TORCH.is_file() and peers.DEEPMIND.is_file() and peers.LEARNED_OPTIMIZATION.is_file()


def test_deepminds_graph_is_asked_for_one_meta_step_at_a_time(tmp_path, monkeypatch):
    """By the protocol alone: a program that says what it was asked takes the graph's place."""
    script = tmp_path / "peer.py"
    script.write_text("import sys\nprint(sys.argv[1:], flush=True)\nfor line in sys.stdin: print(1, flush=True)\n")
    monkeypatch.setattr(peers, "DEEPMIND", script)
    monkeypatch.delenv("L2L_DEEPMIND", raising=False)
    with peers.deepmind_window(work()) as run:
        assert run is None
    monkeypatch.setenv("L2L_DEEPMIND", str(tmp_path))
    for other in (work("digits"), work(tasks=2), work(layers=1), work(width=30)):
        with peers.deepmind_window(other) as run:
            assert run is None
    for fitting in (work(), work("quadratic", tasks=5)):
        with peers.deepmind_window(fitting) as run:
            assert run is not None
            for _ in range(3):
                run()


def test_learned_optimization_is_told_all_sizes(tmp_path, monkeypatch):
    """It ends at anything else, and says what it was."""
    script = tmp_path / "peer.py"
    wanted = [str(tmp_path), *["mnist", "4", "1", "3", "2", "30"]]
    script.write_text(f"import sys\nassert sys.argv[1:] == {wanted}, sys.argv\nprint('here', flush=True)\ninput()\nprint(1)\n")
    monkeypatch.setattr(peers, "LEARNED_OPTIMIZATION", script)
    monkeypatch.setenv("L2L_LEARNED_OPTIMIZATION", str(tmp_path))
    with peers.learned_optimization_window(work(layers=1, tasks=2, width=30)) as run:
        run()
    said = r"learned_optimization in .* does not run: AssertionError"
    with pytest.raises(RunError, match=said), peers.learned_optimization_window(work()):
        pass


def test_deepminds_graph_that_does_not_run_is_said_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("L2L_DEEPMIND", str(tmp_path))
    said = "does not run: ModuleNotFoundError: No module named 'tensorflow'"
    with pytest.raises(RunError, match=said), peers.deepmind_window(work()):
        pass
    monkeypatch.setenv("L2L_DEEPMIND_PYTHON", str(tmp_path / "nowhere"))
    with pytest.raises(RunError, match="L2L_DEEPMIND_PYTHON: "), peers.deepmind_window(work()):
        pass


def test_the_torch_peer_does_the_same_work():
    """Its meta-gradient against its own finite difference, with what the LSTM is fed held fixed by a linear loss."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    spec = importlib.util.spec_from_file_location("torch_l2l", TORCH)
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    optimizer = peer.Optimizer(2, 3, 10.0, 0.1).double()
    torch.set_default_dtype(torch.float64)
    try:
        theta, slope = torch.zeros(5, requires_grad=True), torch.randn(5)
        work = theta, lambda: None, lambda theta, batch: theta @ slope
        grads, total = peer.window(work, optimizer, 4)
        bias = optimizer.readout.bias
        with torch.no_grad():
            bias += 1e-6
        after = peer.window(work, optimizer, 4)[1]
        assert float((after - total) / 1e-6) == pytest.approx(float(grads[-1]), rel=1e-4)
    finally:
        torch.set_default_dtype(torch.float32)


def test_quick_compiles_but_does_not_run_what_would_need_too_much(monkeypatch):
    monkeypatch.setattr(measure, "QUICK_BYTES", 10)
    work = measure.Work("quadratic", tasks=2, window=2, layers=1, hidden=2, width=20, devices=1)
    found = measure.bench(work, ways=("autodiff_checkpoint",), quick=True)
    assert set(found["seconds_per_100_steps"].values()) == set(found["apply_seconds_per_step"].values()) == {None}
    assert found["temp_bytes"]["autodiff_checkpoint"] > 10
    assert found["ratio_to_floor"] is None and found["repeats"] == 0
    assert "applied, a step: n/a" in bench.table(found)


def test_fewer_repeats_where_they_take_long_and_runs_before_each_that_do_not_count(monkeypatch):
    monkeypatch.setattr(measure, "WARM", 0.0)

    def counted(seconds, most):
        calls = []
        medians, repeats = measure._medians({"a": lambda: (calls.append(0), time.sleep(seconds))[1]}, most)
        assert len(calls) == repeats + 1  # the first of all
        assert medians["a"] == pytest.approx(seconds, rel=0.5)
        return repeats

    assert counted(0.01, 10) == 7
    assert counted(0.05, 0.01) == 2
    assert counted(0.02, np.inf) == 7
    monkeypatch.setattr(measure, "WARM", 0.05)
    seconds = iter([0.0, *[0.04, 0.03, 0.0] * 7])  # the first of all; then each turn is slow until it is warm
    medians, _ = measure._medians({"a": lambda: time.sleep(next(seconds))})
    assert medians["a"] < 0.02
