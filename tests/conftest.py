"""Settings every test runs under: CPU, no silent rank promotion, and caches that are the test session's own."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")  # as a command takes them on a machine with two cores
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
# The tests compile more than they compute: no optimization, no emitters of fused loops (MLIR; three times as long), one module.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)

import jax
import pytest

from tests.support import empty_cache, little_mnist


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """The user's cache folder is neither read nor written: data sets and compiled programs go to one of the session's."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"  # the workers share it
    before = os.environ.get("L2L_CACHE")
    os.environ["L2L_CACHE"] = str(folder)
    jax.config.update("jax_compilation_cache_dir", str(base / "compiled"))  # what one test compiles, the next one reads
    yield folder
    if before is None:
        del os.environ["L2L_CACHE"]
    else:
        os.environ["L2L_CACHE"] = before


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache folder of the test's own, empty."""
    return empty_cache(tmp_path, monkeypatch)


@pytest.fixture
def tiny(home, tmp_path, monkeypatch):
    """A little MNIST in a folder of raw files: (arrays, file contents, folder)."""
    return little_mnist(tmp_path, monkeypatch)
