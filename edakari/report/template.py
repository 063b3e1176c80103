"""Templates of the pages that edakari writes."""

from __future__ import annotations

from edakari.core.optional import needs
from edakari.report import formatting as figures

with needs("report", "a report"):
    import jinja2

__all__ = ["template"]


def template(name: str) -> jinja2.Template:
    """Load a template by its file name; values are escaped, and a missing value is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("edakari.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"seconds": figures.seconds, "size": figures.size, "capitalize_first": _capitalized}
    return environment.get_template(name)


def _capitalized(text: str) -> str:
    """The text with a capital first letter; other letters stay."""
    return text[:1].upper() + text[1:]
