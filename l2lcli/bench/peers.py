"""What `l2l bench` compares with: the same LSTM the plain way in JAX, and in other frameworks where these are installed."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from l2lcli.base import LearnedOptimizer
from l2lcli.bench.shapes import PIXELS
from l2lcli.inner.transformation import transformation
from l2lcli.optimizers._preprocess import Identity, preprocess
from l2lcli.optimizers.lstm import LstmSpec, lstm
from l2lcli.runs.files import RunError, one_line

PEERS = Path(__file__).parent.parent.parent / "tests" / "peers"
TORCH, DEEPMIND = PEERS / "torch_l2l.py", PEERS / "deepmind_l2l.py"
LEARNED_OPTIMIZATION = PEERS / "learned_optimization_l2l.py"


def plain_lstm(spec: LstmSpec) -> LearnedOptimizer:
    """`lstm` as one would write it first: coordinates are the leading axis, [N, H], and each gate its own sigmoid or tanh."""
    show = preprocess(spec.preprocess)

    def bind(phi):
        def init(theta):
            flat, _ = ravel_pytree(theta)
            zeros = tuple(jnp.zeros((flat.size, spec.hidden), flat.dtype) for _ in range(spec.layers))
            return zeros, zeros

        def update(grad, state, theta=None, **extra):
            flat, unravel = ravel_pytree(grad)
            x, new_h, new_c = jax.vmap(show)(flat), [], []
            for i, (h, c) in enumerate(zip(*state, strict=True)):
                weights = phi[f"lstm_{i}"]
                gates = x @ weights["input"].T + h @ weights["recurrent"].T + weights["bias"][None]
                a, f, z, o = jnp.split(gates, 4, axis=1)
                c = jax.nn.sigmoid(f + spec.forget_bias) * c + jax.nn.sigmoid(a) * jnp.tanh(z)
                x = jax.nn.sigmoid(o) * jnp.tanh(c)
                new_h.append(x)
                new_c.append(c)
            step = spec.output_scale * (x @ phi["readout"]["kernel"] + phi["readout"]["bias"])
            return unravel(step), (tuple(new_h), tuple(new_c))

        return transformation(init, update)

    return LearnedOptimizer(lstm(spec).init, bind)


def torch_window(work: Any) -> Callable[[], Any] | None:
    """One window's meta-gradient in PyTorch as a function of nothing; None where PyTorch or the peer's file is missing.

    On a GPU where JAX computes on one and PyTorch can.
    """
    if not TORCH.is_file() or importlib.util.find_spec("torch") is None:
        return None
    torch: Any = importlib.import_module("torch")  # not a dependency: measured where it is installed

    spec = importlib.util.spec_from_file_location("torch_l2l", TORCH)
    assert spec is not None
    assert spec.loader is not None  # it is a .py file, which is there
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    shown = Identity() if work.problem == "quadratic" else None
    with torch.device("cuda" if on_gpu else "cpu") as device:
        torch.manual_seed(0)
        optimizer = peer.Optimizer(work.layers, work.hidden, 10.0 if shown is None else None, 0.1)
        if work.problem == "quadratic":
            tasks = [peer.quadratics(work.tasks, 10)]
        else:
            images, labels = torch.rand(10_000, PIXELS[work.problem]), torch.randint(10, (10_000,))
            tasks = [peer.network(images, labels, work.width, 10, 128) for _ in range(work.tasks)]

    def run() -> None:
        with device:
            for task in tasks:
                peer.window(task, optimizer, work.window)
            if on_gpu:
                torch.cuda.synchronize()

    return run


@contextmanager
def deepmind_window(work: Any) -> Iterator[Callable[[], Any] | None]:
    """One meta-step of DeepMind's own graph, in a process of its own, as a function of nothing.

    $L2L_DEEPMIND is a checkout of github.com/google-deepmind/learning-to-learn, $L2L_DEEPMIND_PYTHON a Python that has
    TensorFlow 2 (this one, if it is not set). None where the checkout is not named, or for work that it has no problem for.
    Raises RunError where it is named and does not run.
    """
    known = work.problem == "quadratic" or (work.problem, work.tasks, work.width) == ("mnist", 1, 20)
    words = work.problem, work.window, work.hidden, work.tasks
    with _process("L2L_DEEPMIND", "DeepMind's graph", DEEPMIND, words, known and work.layers == 2) as run:
        yield run


@contextmanager
def learned_optimization_window(work: Any) -> Iterator[Callable[[], Any] | None]:
    """One meta-gradient of learned_optimization, likewise.

    $L2L_LEARNED_OPTIMIZATION is a checkout of github.com/google/learned_optimization, $L2L_LEARNED_OPTIMIZATION_PYTHON a
    Python that has what it needs.
    """
    words = work.problem, work.window, work.layers, work.hidden, work.tasks, work.width
    fits = work.problem in ("mnist", "quadratic")
    with _process("L2L_LEARNED_OPTIMIZATION", "learned_optimization", LEARNED_OPTIMIZATION, words, fits) as run:
        yield run


@contextmanager
def _process(variable: str, name: str, peer: Path, words: tuple[Any, ...], fits: bool) -> Iterator[Callable[[], Any] | None]:
    """A peer in a process of its own: its checkout and its words are told it, and it answers each line with one."""
    checkout = os.environ.get(variable)
    if not checkout or not fits or not peer.is_file():
        yield None
        return
    python = os.environ.get(f"{variable}_PYTHON", sys.executable)
    command = [python, str(peer), checkout, *map(str, words)]
    with tempfile.TemporaryFile("w+") as said:
        try:
            child = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said)
        except OSError as error:
            raise RunError(f"{variable}_PYTHON: {one_line(error)}") from None

        def ask(line: str = "") -> str:
            assert child.stdin is not None
            assert child.stdout is not None
            if line:
                child.stdin.write(line)
                child.stdin.flush()
            if not (answer := child.stdout.readline()):
                child.wait()
                said.seek(0)
                last = [text for text in said.read().splitlines() if text.strip()][-1:]
                raise RunError(f"{name} in {checkout} does not run: {(last or ['it ended'])[0].strip()}")
            return answer

        with child:
            try:
                ask()  # its versions, once it is built
                yield lambda: ask("run\n") and None
            finally:
                child.kill()
