"""Imports every file of rules, which fills the tables of `graph/rules.py`."""

from edakari.graph import (
    rules_compute,
    rules_elementwise,
    rules_flex,
    rules_index,
    rules_quantize,
    rules_recurrent,
    rules_reduce,
    rules_shape,
    rules_spatial,
    rules_vision,
)

__all__ = [
    "rules_compute",
    "rules_elementwise",
    "rules_flex",
    "rules_index",
    "rules_quantize",
    "rules_recurrent",
    "rules_reduce",
    "rules_shape",
    "rules_spatial",
    "rules_vision",
]
