"""Figures, tables and pages, from the files of a run directory alone; JAX is never imported."""
