"""Criteria: how much each channel of each group matters."""

from edakari.criteria.batch_norm import BatchNormScale
from edakari.criteria.discrimination import FeatureDiscrimination
from edakari.criteria.geometric_median import GeometricMedian
from edakari.criteria.magnitude import Magnitude
from edakari.criteria.random import Random
from edakari.criteria.reduce import channels
from edakari.criteria.responses import ResponseSettings
from edakari.criteria.taylor import Taylor

__all__ = [
    "BatchNormScale",
    "FeatureDiscrimination",
    "GeometricMedian",
    "Magnitude",
    "Random",
    "ResponseSettings",
    "Taylor",
    "channels",
]
