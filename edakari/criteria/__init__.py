"""Criteria: scores of how important each channel of each group is."""

from edakari.core.protocols import Criterion
from edakari.core.registry import Registry
from edakari.criteria.batch_norm import BatchNormScale
from edakari.criteria.discrimination import FeatureDiscrimination
from edakari.criteria.geometric_median import GeometricMedian
from edakari.criteria.magnitude import Magnitude
from edakari.criteria.random import Random
from edakari.criteria.reduce import channels
from edakari.criteria.responses import ResponseSettings
from edakari.criteria.taylor import Taylor

__all__ = [
    "CRITERIA",
    "BatchNormScale",
    "FeatureDiscrimination",
    "GeometricMedian",
    "Magnitude",
    "Random",
    "ResponseSettings",
    "Taylor",
    "channels",
]

CRITERIA: Registry[type[Criterion]] = Registry(
    "criterion",
    "edakari.criteria",
    {
        "bn_scale": "edakari.criteria.batch_norm:BatchNormScale",
        "fpgm": "edakari.criteria.geometric_median:GeometricMedian",
        "magnitude": "edakari.criteria.magnitude:Magnitude",
        "random": "edakari.criteria.random:Random",
        "rfc": "edakari.criteria.discrimination:FeatureDiscrimination",
        "sensitivity": "edakari.methods.sensitivity:Sensitivity",
        "taylor": "edakari.criteria.taylor:Taylor",
    },
    members=("score",),
)
"""Criteria by the name that a recipe gives them."""
