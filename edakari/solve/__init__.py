"""Allocators, which turn values and a budget into the size of each group, and a greedy search by steps."""

from edakari.core.protocols import Allocator
from edakari.core.registry import Registry
from edakari.solve.binarization import otsu
from edakari.solve.choices import solve_choices
from edakari.solve.greedy import GreedyDescent
from edakari.solve.knapsack import Knapsack
from edakari.solve.spend import fill
from edakari.solve.threshold import Threshold
from edakari.solve.uniform import Uniform
from edakari.solve.values import keep_best, scarce, values_of

__all__ = [
    "ALLOCATORS",
    "GreedyDescent",
    "Knapsack",
    "Threshold",
    "Uniform",
    "fill",
    "keep_best",
    "otsu",
    "scarce",
    "solve_choices",
    "values_of",
]

ALLOCATORS: Registry[type[Allocator]] = Registry(
    "allocator",
    "edakari.allocators",
    {
        "knapsack": "edakari.solve.knapsack:Knapsack",
        "threshold": "edakari.solve.threshold:Threshold",
        "uniform": "edakari.solve.uniform:Uniform",
    },
    members=("allocate",),
)
"""Allocators by their name in recipes."""
