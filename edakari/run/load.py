"""The networks of a finished run, ready to use."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path

import torch
from torch import nn

from edakari.errors import RunFolderError
from edakari.graph import example_of
from edakari.models import build
from edakari.run.folder import RunFolder
from edakari.run.recipe import recipe_from
from edakari.run.settings import Recipe
from edakari.surgery import load, load_plan

__all__ = ["Networks", "dense_network", "networks"]


@dc.dataclass(frozen=True)
class Networks:
    """What a run started from and what it made, in evaluation mode on the CPU.

    Args:
        dense: the network as it was.
        pruned: the finished network.
        example: an input, [1, ...].
    """

    dense: nn.Module
    pruned: nn.Module
    example: torch.Tensor


def dense_network(recipe: Recipe) -> nn.Module:
    """The network that a recipe starts from, on the CPU in evaluation mode; random weights come from its seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return build(recipe.model)


def networks(folder: str | Path) -> Networks:
    """The networks of a run.

    Raises:
        RunFolderError: it is no run folder, or the run has not come to a finished network yet.
    """
    run = RunFolder(Path(folder))
    recipe = recipe_from(run.recipe(), str(run.path / "recipe.yaml"))
    if not run.done("finetune"):
        raise RunFolderError(f"{folder} holds no finished network yet; run its recipe to the end with `edakari prune`")
    dense = dense_network(recipe)
    example = torch.zeros_like(example_of(load_plan(run.path).inputs), device="cpu")
    return Networks(dense, load(run.path, dense), example)
