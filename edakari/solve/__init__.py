"""Allocators: from values and a budget to the size of each group."""

from edakari.solve.choices import solve_choices
from edakari.solve.knapsack import Knapsack
from edakari.solve.spend import fill
from edakari.solve.threshold import Threshold
from edakari.solve.uniform import Uniform
from edakari.solve.values import keep_best, values_of

__all__ = ["Knapsack", "Threshold", "Uniform", "fill", "keep_best", "solve_choices", "values_of"]
