"""Families of Optax transformations indexed by phi: one file per family, found by the registry."""
