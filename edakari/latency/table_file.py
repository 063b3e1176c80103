"""The structure of the file of a latency table."""

from __future__ import annotations

from typing import Any, Literal

from edakari.core.optional import needs
from edakari.latency.table import Count, Fit, Milliseconds

with needs("train", "reading a latency table"):
    import pydantic

__all__ = ["TableFile", "first_fault"]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Entry(_Strict):
    layer: tuple[str, dict[str, Any], list[str]]
    points: list[tuple[list[Count], Milliseconds, Milliseconds, Milliseconds, Count]]


class _Key(_Strict):
    hardware: dict[str, str]
    runtime: str
    versions: dict[str, str]
    settings: dict[str, Any]


class TableFile(_Strict):
    """A table as JSON."""

    format: Literal["edakari latency table"]
    version: Literal[1]
    key: _Key
    fits: dict[str, Fit]
    layers: list[_Entry]


def first_fault(error: ValueError) -> str:
    """Say where a file departs from this structure, and why."""
    if not isinstance(error, pydantic.ValidationError):
        return str(error)
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the file"
    return f"at {where}: {first['msg']}"
