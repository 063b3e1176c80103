"""From a plan to a smaller network, to its masked twin, and to a folder."""

from edakari.apply.attributes import attributes
from edakari.apply.simulate import simulate
from edakari.apply.store import load, load_plan, save
from edakari.apply.surgery import apply

__all__ = ["apply", "attributes", "load", "load_plan", "save", "simulate"]
