"""Traces a network to its graph in one forward pass, with one rule per operator for its dimensions."""

from edakari.graph.cutting import cut, indices_of, taken
from edakari.graph.inputs import example_for, example_of, spec_of_inputs
from edakari.graph.maskable import maskable_weights
from edakari.graph.meta import quick_meta
from edakari.graph.module_attributes import attributes
from edakari.graph.outputs import outputs_of, selected, tensors_in
from edakari.graph.prediction import prediction_layers
from edakari.graph.rules import rule
from edakari.graph.shadow import as_written, call, shadow_of, stored_tensors
from edakari.graph.tracing import fixed_graph, trace
from edakari.graph.verify import Fault, fault_of

__all__ = [
    "Fault",
    "as_written",
    "attributes",
    "call",
    "cut",
    "example_for",
    "example_of",
    "fault_of",
    "fixed_graph",
    "indices_of",
    "maskable_weights",
    "outputs_of",
    "prediction_layers",
    "quick_meta",
    "rule",
    "selected",
    "shadow_of",
    "spec_of_inputs",
    "stored_tensors",
    "taken",
    "tensors_in",
    "trace",
]
