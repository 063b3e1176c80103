"""The networks of a finished run, ready to use."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edakari.core.arguments import require
from edakari.core.file_errors import file_errors
from edakari.errors import RecipeError, RunFolderError, WeightsError
from edakari.graph import example_of
from edakari.models import check_trusted
from edakari.pipeline.folder import RunFolder
from edakari.pipeline.recipe import read_recipe, recipe_from
from edakari.pipeline.settings import Recipe
from edakari.surgery import build, is_saved, load, load_plan

__all__ = ["GIVEN", "Networks", "as_recipe", "check_weights", "dense_network", "networks", "recipe_of"]


GIVEN = "given"
"""Weights of a network that a program handed in, as a run's recipe says them."""


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
    """The network that a recipe starts from, on the CPU in evaluation mode; random weights come from its seed.

    Raises:
        UntrustedCode: it is built by a Python file, and the recipe came out of a file that the user does not trust.
    """
    check_trusted(recipe.model, "the recipe", trust_code=recipe.trust_code)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return build(recipe.model, trust_code=recipe.trust_code)


def as_recipe(call: str, recipe: Any, path: Any, *, trust_code: bool) -> Recipe:
    """A recipe as it was handed in: read where it is a file, checked where it is plain values.

    Args:
        call: the function and its arguments.
        recipe: a `Recipe`, the path of a recipe file, or a mapping of what such a file holds.
        path: of what is written.
        trust_code: whether to run Python files that a recipe file names; a `Recipe` says so itself, and plain values
            name what their author wants to run.

    Raises:
        WrongArgument: it is none of these, or `path` is no path.
        RecipeError: it cannot be read, or has wrong keys or values.
    """
    require(call, recipe=(recipe, (Recipe, str, Path, Mapping)), folder=(path, (str, Path)))
    if isinstance(recipe, str | Path):
        return read_recipe(recipe, trust_code=trust_code)
    return recipe if isinstance(recipe, Recipe) else recipe_from(recipe)


@file_errors()
def check_weights(recipe: Recipe) -> None:
    """Refuse to prune a network without being told which weights it has.

    Raises:
        RecipeError: the recipe does not say.
        WeightsError: the file that it names is not there.
    """
    model, path = recipe.model, recipe.model.weights
    if is_saved(model.name):
        return  # weights lie in the folder
    if path is None:
        own = ", `as_built` if its function loads them," if ".py:" in model.name else ""
        raise RecipeError(
            f"model.weights is missing, so {model.name} would have random weights. Name a .safetensors file (`edakari "
            f"convert` makes one of a checkpoint, `edakari train` trains one), `pretrained`,{own} or write `random` to "
            "prune random weights on purpose"
        )
    if path.endswith(".safetensors") and not Path(path).is_file():
        made = (
            f"this recipe can train it: `edakari train` with --output {path}"
            if recipe.train
            else "`edakari convert` makes one of a checkpoint of another training"
        )
        raise WeightsError(f"model.weights: there is no file {path!r}; {made}")


def recipe_of(run: RunFolder, *, trust_code: bool) -> Recipe:
    """The recipe of a run, perhaps of somebody else's.

    Args:
        run: its folder.
        trust_code: whether to run a Python file that the recipe names to build its network.

    Raises:
        RunFolderError: there is none, it is damaged, or it was written for a network that a program handed in.
        RecipeError: it has wrong keys or values.
        UntrustedCode: its network is built by a Python file, and `trust_code` is not set.
    """
    where, content = run.path / "recipe.yaml", run.recipe()
    if isinstance(content.get("model"), Mapping) and content["model"].get("weights") == GIVEN:
        raise RunFolderError(
            f"{run.path} is of a network that a program handed in, so that nothing here says how it is built; call "
            "edakari.prune with it and this folder to go on, or edakari.load(folder, model) for the pruned network"
        )
    recipe = recipe_from(content, str(where), trust_code=trust_code)
    check_trusted(recipe.model, where, trust_code=trust_code)
    return recipe


@file_errors()
def networks(folder: str | Path, *, trust_code: bool = False) -> Networks:
    """The networks of a run.

    Args:
        folder: of the run.
        trust_code: see `recipe_of`.

    Raises:
        RunFolderError: it is no run folder, or the run has not come to a finished network yet.
        UntrustedCode: its network is built by a Python file, and `trust_code` is not set.
    """
    require("networks(folder)", folder=(folder, (str, Path)))
    run = RunFolder(Path(folder))
    recipe = recipe_of(run, trust_code=trust_code)
    if not run.done("finetune"):
        raise RunFolderError(f"{folder} holds no finished network yet; run its recipe to the end with `edakari prune`")
    dense = dense_network(recipe)
    example = torch.zeros_like(example_of(load_plan(run.path).inputs), device="cpu")
    return Networks(dense, load(run.path, dense), example)
