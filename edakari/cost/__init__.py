"""What a network costs, counted from its graph or measured."""

from edakari.cost.binding import COSTS, bind, dense
from edakari.cost.counts import Count, activations, flops, macs, params, size, uncounted

__all__ = ["COSTS", "Count", "activations", "bind", "dense", "flops", "macs", "params", "size", "uncounted"]
