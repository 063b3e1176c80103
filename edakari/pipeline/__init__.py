"""A whole job: recipe in, run folder out."""

from edakari.pipeline.dense_training import train_dense
from edakari.pipeline.folder import RunFolder
from edakari.pipeline.recipe import read_recipe, recipe_from
from edakari.pipeline.runner import Result, run
from edakari.pipeline.settings import DistillSettings, GroupSettings, LatencySettings, MeasureSettings, Recipe

__all__ = [
    "DistillSettings",
    "GroupSettings",
    "LatencySettings",
    "MeasureSettings",
    "Recipe",
    "Result",
    "RunFolder",
    "read_recipe",
    "recipe_from",
    "run",
    "train_dense",
]
