"""The LSTM's step and its window's backward pass in C++, `_lstm_native.cc`, with `L2L_NATIVE=on` and a compiler.

Built at first use into the cache folder, under a name that says of what and by what; where it cannot be, and for anything but
float32 on a CPU, `_lstm_cell` serves, whose numbers it gives but for rounding.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from l2lcli.data import cache
from l2lcli.optimizers import _lstm_cell
from l2lcli.optimizers._lstm_cell import Fused

SOURCE = Path(__file__).with_name("_lstm_native.cc")
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-w"]
# The step is compiled for each of these, and the machine that it runs on decides; a cache folder may be shared by several.
KINDS = {"avx512": ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma"], "avx2": ["-mavx2", "-mfma"]}
WIDE = 65_536  # coordinates; what they are shown in a window is in memory at once
STEP, WINDOW = "l2l_lstm_step", "l2l_lstm_window"


def described() -> str:
    """What serves a float32 step on this machine's CPU, for env.json: "native" with the source's mark, or "XLA" and why."""
    return _loaded()[1]


def serves(weights: Fused, *arrays: jax.Array) -> bool:
    """Whether the native step is there and can be applied: to float32, on a CPU, by at least one layer."""
    alike = all(array.dtype == jnp.float32 for array in (*weights.layers, *arrays))
    return bool(weights.layers) and alike and jax.default_backend() == "cpu" and _loaded()[0]


def block(asked: int) -> int:
    """Coordinates at a time for `window`: the native one has blocks of its own, and shares a large one between threads."""
    return max(asked, WIDE) if jax.default_backend() == "cpu" and _loaded()[0] else asked


def step(weights: Fused, h: tuple[jax.Array, ...], c: tuple[jax.Array, ...], x: jax.Array) -> tuple[Any, ...]:
    """`_lstm_cell.step` but for what its backward pass needs: the new h and c, and the updates [B]. Differentiable."""
    if serves(weights, x, *h, *c):
        return _step(weights, h, c, x)
    return _lstm_cell.step(weights, h, c, x)[:3]


def window(weights: Fused, h: tuple[jax.Array, ...], c: tuple[jax.Array, ...], x: jax.Array) -> jax.Array:
    """`_lstm_cell.window`."""
    if serves(weights, x, *h, *c):
        return _window(weights, h, c, x)
    return _lstm_cell.window(weights, h, c, x)


def _alike(found: jax.Array, like: jax.Array) -> jax.Array:
    """What was found, marked as differing between devices where `like` is: of what XLA calls, `shard_map` does not know it."""
    return jnp.where(False, like, found)


@jax.custom_jvp
def _step(weights, h, c, x):
    alone = jax.tree.map(lambda leaf: leaf[None], weights), *jax.tree.map(lambda leaf: leaf[None, None], (h, c, x))
    return jax.tree.map(_alike, jax.tree.map(lambda leaf: leaf[0, 0], _steps(*alone)), (h, c, x[0]))


@_step.defjvp
def _(primals, tangents):
    return jax.jvp(lambda *given: _lstm_cell.step(*given)[:3], primals, tangents)


@jax.custom_batching.custom_vmap
def _steps(weights, h, c, x):
    """A step of the coordinates of several tasks, by several phis: weights [P, ...], the others [P, tasks, ...]."""
    layers = len(weights.layers)
    like = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (*h, *c, x[:, :, 0])]
    # h and c stay where they are.
    call = jax.ffi.ffi_call(STEP, like, input_output_aliases={layers + 2 + i: i for i in range(2 * layers)})
    found = call(*weights.layers, weights.kernel, weights.bias, *h, *c, x, layers=np.int64(layers))
    return tuple(found[:layers]), tuple(found[layers : 2 * layers]), found[2 * layers]


@_steps.def_vmap
def _(size, batched, weights, *rest):
    """More tasks, or, where the weights are batched, more phis."""
    spread = lambda leaf, there: leaf if there else jnp.broadcast_to(leaf[None], (size, *leaf.shape))
    rest = jax.tree.map(spread, rest, tuple(batched[1:]))
    if any(jax.tree.leaves(batched[0])):
        weights = jax.tree.map(spread, weights, batched[0])
        merged = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), (weights, *rest))
        apart = lambda leaf: leaf.reshape(size, -1, *leaf.shape[1:])
    else:
        turned = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), rest)  # [P, size, tasks, ...]
        merged = weights, *jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0], -1, *leaf.shape[3:]), turned)
        apart = lambda leaf: jnp.moveaxis(leaf.reshape(leaf.shape[0], size, -1, *leaf.shape[2:]), 1, 0)
    found = jax.tree.map(apart, _steps(*merged))
    return found, jax.tree.map(lambda _: True, found)


@jax.custom_vjp
def _window(weights, h, c, x):
    return _lstm_cell.window(weights, h, c, x)


def _keep(weights, h, c, x):
    # Nothing that a forward pass computes is kept: the backward pass runs forward itself, block by block.
    return _window(weights, h, c, x), (weights, h, c, x)


def _backward(kept, d_updates):
    weights, h, c, x = kept
    layers, of_phi = len(weights.layers), (*weights.layers, weights.kernel, weights.bias)
    like = [jax.ShapeDtypeStruct((1, *array.shape), array.dtype) for array in of_phi]
    of_tasks = [array[None, None] for array in (*h, *c, x, d_updates)]
    call = jax.ffi.ffi_call(WINDOW, like, vmap_method="sequential")
    found = [array[0] for array in call(*[array[None] for array in of_phi], *of_tasks, layers=np.int64(layers))]
    return jax.tree.map(_alike, Fused(tuple(found[:layers]), found[layers], found[layers + 1]), weights), None, None, None


_window.defvjp(_keep, _backward)


@functools.cache
def _loaded() -> tuple[bool, str]:
    """Whether XLA knows the native step, and what to say of it. Builds it where nobody did."""
    if os.environ.get("L2L_NATIVE") != "on":
        return False, "XLA"
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))), None)
    if compiler is None:
        return False, "XLA: no C++ compiler"
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
        kinds = KINDS if platform.machine() in ("x86_64", "AMD64") else {}
        told = [
            SOURCE.read_text(),
            version,
            FLAGS,
            kinds,
            platform.system(),
            platform.machine(),
            importlib.metadata.version("jaxlib"),
        ]
        mark = hashlib.sha256(repr(told).encode()).hexdigest()[:16]
        path = cache.folder() / "native" / f"lstm-{mark}.so"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            _build(compiler, kinds, path)
        _register(str(path))
    except subprocess.CalledProcessError as error:
        line = (error.stderr or "").strip().splitlines()
        return False, f"XLA: the native step cannot be compiled: {line[0] if line else error}"
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        return False, f"XLA: the native step cannot be built: {error}"
    return True, f"native {mark}"


@functools.cache
def _register(path: str) -> None:
    """Tell XLA of both. Raises OSError or AttributeError of a library that is not what it should be."""
    library = ctypes.CDLL(path)
    for name in (STEP, WINDOW):
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")


def _build(compiler: str, kinds: dict[str, list[str]], path: Path) -> None:
    """Compile and link, beside the place and then moved there: another process may be doing the same."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        include = ["-DL2L_FFI", f"-I{jax.ffi.include_dir()}"]
        objects = []
        for kind, flags in {"base": include, **kinds}.items():
            objects.append(f"{folder}/{kind}.o")
            command = [compiler, *FLAGS, f"-DL2L_ISA={kind}", *flags, "-c", str(SOURCE), "-o", objects[-1]]
            subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
        linked = f"{folder}/lstm.so"
        subprocess.run([compiler, "-shared", *objects, "-o", linked], capture_output=True, text=True, timeout=600, check=True)
        os.replace(linked, path)
