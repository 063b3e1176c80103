"""The report of a run: a JSON file, a self-contained HTML page and a picture."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edakari.core.optional import require_packages

if TYPE_CHECKING:
    from edakari.report.collecting import collect
    from edakari.report.page import render
    from edakari.report.picture import draw
    from edakari.report.write import write_report

__all__ = ["collect", "draw", "render", "write_report"]

_HOMES = {"collect": "collecting", "draw": "picture", "render": "page", "write_report": "write"}


def __getattr__(name: str) -> Any:
    # the figures of a run in memory are gathered by this package too, and need none of its extra's packages
    if name not in _HOMES:
        raise AttributeError(f"module 'edakari.report' has no attribute {name!r}")
    require_packages("report", "a report")
    return getattr(importlib.import_module(f"edakari.report.{_HOMES[name]}"), name)
