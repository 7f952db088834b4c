"""Configurations: strict YAML, defaults, overrides, provenance; one model for each section. Loads no JAX."""

from l2lcli.config.loading import (
    ABSENT,
    ConfigError,
    alone,
    diff,
    dump,
    from_record,
    load,
    name_of,
    override,
    provenance,
    schema,
    values,
    variant,
)
from l2lcli.config.specs import Config, config_class

__all__ = [
    "ABSENT",
    "Config",
    "ConfigError",
    "alone",
    "config_class",
    "diff",
    "dump",
    "from_record",
    "load",
    "name_of",
    "override",
    "provenance",
    "schema",
    "values",
    "variant",
]
