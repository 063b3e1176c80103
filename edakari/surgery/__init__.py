"""Application of plans: smaller networks, masked networks, and folders of saved networks."""

from edakari.surgery.applying import apply
from edakari.surgery.carrying import carry
from edakari.surgery.feature_heads import FeatureHead
from edakari.surgery.networks import build, is_saved
from edakari.surgery.origin import held_masks
from edakari.surgery.reconstruction import reconstruct
from edakari.surgery.saving import save_as_pruned
from edakari.surgery.semi_structured import to_semi_structured
from edakari.surgery.shrinking import shrink
from edakari.surgery.simulation import simulate
from edakari.surgery.store import load, load_plan, save
from edakari.surgery.transferring import transfer
from edakari.surgery.weight_masking import mask_weights

__all__ = [
    "FeatureHead",
    "apply",
    "build",
    "carry",
    "held_masks",
    "is_saved",
    "load",
    "load_plan",
    "mask_weights",
    "reconstruct",
    "save",
    "save_as_pruned",
    "shrink",
    "simulate",
    "to_semi_structured",
    "transfer",
]
