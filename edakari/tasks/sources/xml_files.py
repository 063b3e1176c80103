"""Small XML files, read without document types and entities, which could expand to billions of bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from edakari.core.reading import DEPTH, Unreadable, read_bytes, too_deep

__all__ = ["read_xml"]

XML_BYTES = 16 * 2**20
"""Annotations of an image have some kilobytes."""


def read_xml(path: Path) -> Element:
    """Read the root element of an XML file.

    Raises:
        OSError: the file does not exist, or is not readable.
        Unreadable: it is no XML, too large, nested too deep, or has a document type.
    """
    content = read_bytes(path, XML_BYTES)
    builder, depth = TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEPTH:
            raise too_deep()
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: Any) -> None:
        raise Unreadable("it has a document type (<!DOCTYPE>), which annotations do not need")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(content, True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"it is no XML: {error}") from error
