"""Settings every test runs under: warnings are errors, no silent rank promotion, and a cache of compiled programs."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
