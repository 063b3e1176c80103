"""Runs a whole recipe: reads it, carries out its stages, and writes a run folder."""

from edakari.pipeline.dense_training import train_dense
from edakari.pipeline.folder import RunFolder
from edakari.pipeline.pruning import prune
from edakari.pipeline.quantizing import quantize_run
from edakari.pipeline.recipe import read_recipe, recipe_from
from edakari.pipeline.runner import Result, run, run_given
from edakari.pipeline.settings import (
    DistillSettings,
    FinetuneSettings,
    LatencySettings,
    MeasureSettings,
    PruneSettings,
    QuantizeSettings,
    Recipe,
)

__all__ = [
    "DistillSettings",
    "FinetuneSettings",
    "LatencySettings",
    "MeasureSettings",
    "PruneSettings",
    "QuantizeSettings",
    "Recipe",
    "Result",
    "RunFolder",
    "prune",
    "quantize_run",
    "read_recipe",
    "recipe_from",
    "run",
    "run_given",
    "train_dense",
]
