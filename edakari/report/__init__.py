"""The report of a run: a JSON file, a self-contained HTML page and a picture."""

from edakari.core.optional import needs

with needs("report", "a report"):
    # imports of this package's modules, checked here once
    import jinja2  # noqa: F401
    import markupsafe  # noqa: F401
    import pydantic  # noqa: F401
    import yaml  # noqa: F401

from edakari.report.collecting import collect
from edakari.report.page import render
from edakari.report.picture import draw
from edakari.report.write import write_report

__all__ = ["collect", "draw", "render", "write_report"]
