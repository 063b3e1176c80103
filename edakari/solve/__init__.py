"""Allocators, which turn values and a budget into the size of each group, and a step-by-step greedy search."""

from edakari.solve.binarization import otsu
from edakari.solve.choices import solve_choices
from edakari.solve.greedy import GreedyDescent
from edakari.solve.knapsack import Knapsack
from edakari.solve.spend import fill
from edakari.solve.threshold import Threshold
from edakari.solve.uniform import Uniform
from edakari.solve.values import keep_best, values_of

__all__ = [
    "GreedyDescent",
    "Knapsack",
    "Threshold",
    "Uniform",
    "fill",
    "keep_best",
    "otsu",
    "solve_choices",
    "values_of",
]
