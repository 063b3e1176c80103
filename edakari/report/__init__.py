"""The report of a run: figures, one self-contained page, a picture."""

from edakari.report.collect import collect
from edakari.report.page import render
from edakari.report.picture import draw
from edakari.report.write import write_report

__all__ = ["collect", "draw", "render", "write_report"]
