"""Costs of a network, counted from its graph or measured."""

from edakari.cost.binding import COSTS, bind, counted, dense, require_known
from edakari.cost.counts import Count, activations, flops, macs, params, size, uncounted

__all__ = [
    "COSTS",
    "Count",
    "activations",
    "bind",
    "counted",
    "dense",
    "flops",
    "macs",
    "params",
    "require_known",
    "size",
    "uncounted",
]
