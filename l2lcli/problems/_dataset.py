"""The name of a registered data set as a config's value: whatever is registered when the config is read."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, TypeAlias

from pydantic_core import CoreSchema, core_schema


class _Registered:
    """What pydantic is told of such a name."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        """A text that is checked."""
        return core_schema.no_info_after_validator_function(_known, core_schema.str_schema())

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: Any) -> dict[str, Any]:
        """The names there are."""
        from l2lcli.data import loader

        return {"type": "string", "enum": loader.names()}


def _known(name: str) -> str:
    from l2lcli.data import loader

    if name not in (known := loader.names()):
        close = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {close[0]!r}? Known" if close else "; known"
        raise ValueError(f"unknown data set {name!r}{hint}: {', '.join(known)}")
    return name


DatasetName: TypeAlias = Annotated[str, _Registered]
