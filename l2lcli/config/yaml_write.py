"""YAML text of plain values, which `yaml_read.parse`, and every other YAML reader, reads back as the same values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_PLAIN = re.compile(r"[A-Za-z/_][\w./+-]*( [\w./+-]+)*", re.ASCII)  # text that needs no quotes, in flow style neither
_WORDS = re.compile(r"(?i)y|n|yes|no|on|off|true|false|null")  # but these do: to some reader they are no text
_BREAKS = re.compile("[\x85\u2028\u2029\ufeff]")  # JSON's strings are YAML's but for these, which end a line in YAML


def _flow(value: Any) -> str:
    """YAML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, float):  # a mantissa with a point: other readers take 1e-05 for text
        text = repr(value)
        return text if "e" not in text or "." in text else text.replace("e", ".0e")
    if not isinstance(value, str):
        return json.dumps(value)
    if _PLAIN.fullmatch(value) and not _WORDS.fullmatch(value):
        return value
    return _BREAKS.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))


def emit(mapping: Mapping[str, Any], *, width: int = 128, indent: int = 0) -> str:
    """YAML text of a mapping: what fits on a line in flow style, the rest in blocks. `yaml_read.parse` reads it back."""
    lines = []
    for key, value in mapping.items():
        line = f"{' ' * indent}{_flow(key)}: {_flow(value)}"
        if len(line) <= width or not (value and isinstance(value, Mapping | list)):
            lines.append(line + "\n")
        elif isinstance(value, Mapping):
            lines += [f"{' ' * indent}{_flow(key)}:\n", emit(value, width=width, indent=indent + 2)]
        else:
            lines += [f"{' ' * indent}{_flow(key)}:\n", *(f"{' ' * indent}- {_flow(item)}\n" for item in value)]
    return "".join(lines) or "{}\n"
