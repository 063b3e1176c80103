"""From a plan to a smaller network, and to its masked twin."""

from edakari.apply.attributes import attributes
from edakari.apply.simulate import simulate
from edakari.apply.surgery import apply

__all__ = ["apply", "attributes", "simulate"]
