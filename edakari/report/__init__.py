"""The report of a run: figures, one self-contained page, a picture."""

from edakari.core.optional import needs

with needs("report", "a report"):
    # what the modules of this package import at their top, so that none of them has to ask for it
    import jinja2  # noqa: F401
    import markupsafe  # noqa: F401
    import pydantic  # noqa: F401
    import yaml  # noqa: F401

from edakari.report.collecting import collect
from edakari.report.page import render
from edakari.report.picture import draw
from edakari.report.write import write_report

__all__ = ["collect", "draw", "render", "write_report"]
