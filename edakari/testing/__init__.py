"""Conformance suites, toy networks and random plans, for the tests of edakari and of anyone who extends it."""

from edakari.testing.awkward import AWKWARD
from edakari.testing.costs import ProductCost
from edakari.testing.exact import difference, enlivened, exactness
from edakari.testing.fits import check_fit
from edakari.testing.plans import random_plan
from edakari.testing.suites import check_allocator, check_cost, check_criterion, check_method
from edakari.testing.toys import ToyTask, toy_cnn, toy_fit, toy_job, toy_vit

__all__ = [
    "AWKWARD",
    "ProductCost",
    "ToyTask",
    "check_allocator",
    "check_cost",
    "check_criterion",
    "check_fit",
    "check_method",
    "difference",
    "enlivened",
    "exactness",
    "random_plan",
    "toy_cnn",
    "toy_fit",
    "toy_job",
    "toy_vit",
]
