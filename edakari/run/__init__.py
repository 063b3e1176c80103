"""A whole job: recipe in, run folder out."""

from edakari.run.dense_training import train_dense
from edakari.run.folder import RunFolder
from edakari.run.pipeline import Result, prune
from edakari.run.recipe import read_recipe, recipe_from
from edakari.run.settings import DistillSettings, LatencySettings, LimitSettings, MeasureSettings, Recipe

__all__ = [
    "DistillSettings",
    "LatencySettings",
    "LimitSettings",
    "MeasureSettings",
    "Recipe",
    "Result",
    "RunFolder",
    "prune",
    "read_recipe",
    "recipe_from",
    "train_dense",
]
