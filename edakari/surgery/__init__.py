"""Application of plans: smaller networks, masked networks, and folders of saved networks."""

from edakari.surgery.applying import apply
from edakari.surgery.carrying import carry
from edakari.surgery.networks import build, is_saved
from edakari.surgery.reconstruction import reconstruct
from edakari.surgery.shrinking import shrink
from edakari.surgery.simulation import simulate
from edakari.surgery.store import load, load_plan, save

__all__ = ["apply", "build", "carry", "is_saved", "load", "load_plan", "reconstruct", "save", "shrink", "simulate"]
