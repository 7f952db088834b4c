"""Distributions over optimizees: one file per family, found by the registry."""
