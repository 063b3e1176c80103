"""Criteria: how much each coordinate of each group matters."""

from edakari.criteria.batch_norm import BatchNormScale
from edakari.criteria.discrimination import FeatureDiscrimination
from edakari.criteria.geometric_median import GeometricMedian
from edakari.criteria.magnitude import Magnitude
from edakari.criteria.random import Random
from edakari.criteria.reduce import coordinates
from edakari.criteria.responses import Listening
from edakari.criteria.taylor import Taylor

__all__ = [
    "BatchNormScale",
    "FeatureDiscrimination",
    "GeometricMedian",
    "Listening",
    "Magnitude",
    "Random",
    "Taylor",
    "coordinates",
]
