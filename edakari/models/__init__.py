"""Construction of networks by name."""

from edakari.models.trust import check_code, check_trusted
from edakari.models.weights import check_fit, load_weights, read_weights
from edakari.models.zoo import EMBEDDED, ModelSpec, build, default_example, spec_of

__all__ = [
    "EMBEDDED",
    "ModelSpec",
    "build",
    "check_code",
    "check_fit",
    "check_trusted",
    "default_example",
    "load_weights",
    "read_weights",
    "spec_of",
]
