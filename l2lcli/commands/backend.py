"""JAX as this program uses it: how many devices, where compiled programs are kept, and what all of it was (env.json)."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from l2lcli import processes
from l2lcli.config import ConfigError
from l2lcli.data import cache

PACKAGES = ("l2lcli", "jax", "jaxlib", "optax", "flax", "numpy", "orbax-checkpoint", "tensorflow-datasets")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def divided(count: int, tasks: int) -> int:
    """How many of `count` devices so many tasks are split over: all for one task, whose coordinates can be split."""
    return count if tasks == 1 else max(each for each in range(1, count + 1) if tasks % each == 0)


def start(devices: int | None = 1, tasks: int = 1, warn: Callable[[str], None] = lambda line: None) -> int:
    """Import JAX with `devices` devices and a persistent cache of compiled programs under the user's cache folder.

    Called before anything else touches JAX. On a CPU a device is a core's worth of threads. A cache that cannot be written
    is done without.

    Args:
      devices: how many; None is as many cores as divide the tasks (all of them for a single task, whose coordinates can be
        split), and on anything but a CPU one.
      tasks: what will be split over them.
      warn: called with a line where JAX is in use already with fewer devices than would be chosen.

    Returns:
      How many there are to use. Raises ConfigError if there are fewer than asked for.
    """
    import jax

    several = processes.count() > 1
    wanted = _of_all(devices, tasks) if several else devices or divided(cores(), tasks)
    if wanted > 1 and not several:
        try:
            jax.config.update("jax_num_cpu_devices", wanted)
        except RuntimeError:  # somebody computed something before: a notebook, or a file that is imported
            there = jax.device_count()
            if devices is None and there < wanted:
                warn(f"warning: JAX is in use already, with {there} of the {wanted} devices that this machine has")
                wanted = divided(there, tasks)
    _keep_compiled()
    if jax.default_backend() != "cpu" and jax.config.values["jax_default_matmul_precision"] is None:
        jax.config.update("jax_default_matmul_precision", "float32")  # not TF32, whose products are off by 3e-4
    if devices is None and jax.default_backend() != "cpu" and not several:
        return 1
    if wanted > jax.device_count():
        raise ConfigError([f"--devices {wanted}: there are only {jax.device_count()}"])
    return wanted


def _keep_compiled() -> None:
    """Compiled programs are kept in the user's cache folder, unless JAX was told where, or it cannot be written."""
    import jax

    try:
        folder = cache.folder() / "xla"
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        return
    if writable and jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # All of them: to read one takes .01 s, to compile the smallest .03. The default leaves out those under 1 s.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _of_all(devices: int | None, tasks: int) -> int:
    """How many devices of several processes are used, the same number of each. Raises ConfigError."""
    import jax

    number = processes.count()
    if tasks != 1 and tasks % number:
        raise ConfigError([f"train.tasks: {tasks} tasks cannot be split over {number} processes"])
    each = jax.local_device_count()
    return devices or number * (each if tasks == 1 else max(n for n in range(1, each + 1) if tasks // number % n == 0))


def environment(argv: list[str], datasets: dict[str, str]) -> dict[str, Any]:
    """What env.json says: versions, backend, devices, git commit, command line, fingerprints of the data sets."""
    import jax

    from l2lcli.optimizers import _native

    return {
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "backend": jax.default_backend(),
        "lstm_step": _native.described() if jax.default_backend() == "cpu" else "XLA",
        "processes": processes.count(),
        "devices": [device.device_kind for device in jax.devices()],
        "git": _git(Path(__file__).parent.parent),
        "argv": argv,
        "datasets": datasets,
    }


def _git(folder: Path) -> dict[str, Any] | None:
    """Commit and dirty flag of the source tree; None for an installed package."""

    def ask(*words: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, text=True, timeout=10).stdout

    try:
        if Path(ask("rev-parse", "--show-toplevel").strip()) != folder.parent:
            return None  # a virtual environment inside somebody else's repository
        return {"commit": ask("rev-parse", "HEAD").strip(), "dirty": bool(ask("status", "--porcelain").strip())}
    except (OSError, subprocess.SubprocessError):
        return None
