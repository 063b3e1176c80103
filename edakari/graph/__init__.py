"""From a network to its graph: one forward pass in which every operator says how axes flow."""

from edakari.graph.copying import copied
from edakari.graph.meta import quick_meta
from edakari.graph.rules import rule
from edakari.graph.trace import (
    call,
    example_for,
    example_of,
    graph_of,
    shadow_of,
    spec_of_inputs,
    stored_tensors,
    trace,
)

__all__ = [
    "call",
    "copied",
    "example_for",
    "example_of",
    "graph_of",
    "quick_meta",
    "rule",
    "shadow_of",
    "spec_of_inputs",
    "stored_tensors",
    "trace",
]
