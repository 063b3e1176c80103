"""Searches and masks while a network trains: the parts of SuperTickets."""

from edakari.methods.tickets.baselines import one_shot, rewind
from edakari.methods.tickets.fixed_masks import FixedMasks
from edakari.methods.tickets.mask_schedule import ProgressiveMaskSettings
from edakari.methods.tickets.progressive_mask import ProgressiveMask

__all__ = ["FixedMasks", "ProgressiveMask", "ProgressiveMaskSettings", "one_shot", "rewind"]
