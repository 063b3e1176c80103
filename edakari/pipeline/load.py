"""Loads the networks of a finished run."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edakari.core.arguments import require
from edakari.core.file_errors import file_errors
from edakari.core.protocols import Task
from edakari.errors import EdakariError, RecipeError, RunFolderError, WeightsError
from edakari.graph import example_of
from edakari.models import check_trusted
from edakari.pipeline.folder import RunFolder
from edakari.pipeline.recipe import read_recipe, recipe_from
from edakari.pipeline.settings import Recipe
from edakari.surgery import build, is_saved, load, load_plan, transfer
from edakari.tasks import task_from_settings

__all__ = ["GIVEN", "Networks", "as_recipe", "check_weights", "dense_network", "networks", "recipe_of"]


GIVEN = "given"
"""Value of `model.weights` in the recipe of a run whose network came from a program."""


@dc.dataclass(frozen=True)
class Networks:
    """The first and the last network of a run, in evaluation mode on the CPU.

    Args:
        dense: the unpruned network.
        pruned: the finished network.
        example: an input, [1, ...].
    """

    dense: nn.Module
    pruned: nn.Module
    example: torch.Tensor


def dense_network(recipe: Recipe, task: Task | None = None) -> nn.Module:
    """Build the network that a recipe starts from, on the CPU in evaluation mode; random weights come from its seed.

    Args:
        recipe: recipe.
        task: task of the recipe, to which the network is moved if the recipe says so; None opens the data for it.

    Raises:
        RecipeError: the network cannot be moved to the task.
        UntrustedCode: a Python file builds the network, and the recipe came from a file that the user does not trust.
    """
    check_trusted(recipe.model, "the recipe", trust_code=recipe.trust_code)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = build(recipe.model, trust_code=recipe.trust_code)
    if recipe.transfer is None:
        return model
    return _moved(model, recipe, task_from_settings(recipe.data, recipe.seed) if task is None else task)


def _moved(model: nn.Module, recipe: Recipe, task: Task) -> nn.Module:
    asked = recipe.transfer
    assert asked is not None
    names = asked.layer if asked.outputs is None else dict.fromkeys(asked.layer, asked.outputs)
    try:
        return transfer(
            model,
            task if asked.outputs is None or names else asked.outputs,
            layer=names,
            head=asked.head,
            graft=asked.graft,
            example=task.example(),
            reinitialise=asked.reinitialise,
            seed=asked.seed,
        )
    except EdakariError as error:
        raise RecipeError(f"{recipe.where}: transfer of {recipe.model.name}: {error}") from error


def as_recipe(call: str, recipe: Any, path: Any, *, trust_code: bool) -> Recipe:
    """Return a recipe from any form: read from a file, checked if it is plain values.

    Args:
        call: the function and its arguments.
        recipe: a `Recipe`, the path of a recipe file, or a mapping with the content of such a file.
        path: path to which results are written.
        trust_code: whether to run Python files that a recipe file names; a `Recipe` has its own setting, and plain
            values name what their author wants to run.

    Raises:
        WrongArgument: `recipe` has another type, or `path` is no path.
        RecipeError: the recipe cannot be read, or has wrong keys or values.
    """
    require(call, recipe=(recipe, (Recipe, str, Path, Mapping)), folder=(path, (str, Path)))
    if isinstance(recipe, str | Path):
        return read_recipe(recipe, trust_code=trust_code)
    return recipe if isinstance(recipe, Recipe) else recipe_from(recipe)


@file_errors()
def check_weights(recipe: Recipe) -> None:
    """Refuse to prune a network if the recipe does not say which weights it has.

    Raises:
        RecipeError: the recipe names no weights.
        WeightsError: the file that it names does not exist.
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
    """Read the recipe of a run, possibly of another user.

    Args:
        run: folder of the run.
        trust_code: whether to run a Python file that the recipe names to build its network.

    Raises:
        RunFolderError: there is no recipe, it is damaged, or its network came from a program.
        RecipeError: it has wrong keys or values.
        UntrustedCode: a Python file builds its network, and `trust_code` is not set.
    """
    where, content = run.path / "recipe.yaml", run.recipe()
    if isinstance(content.get("model"), Mapping) and content["model"].get("weights") == GIVEN:
        raise RunFolderError(
            f"{run.path} is a run of a network that a program passed to edakari.prune, so nothing here says how to "
            "build it. Call edakari.prune with it and this folder to resume, or edakari.load(folder, model) for the "
            "pruned network"
        )
    recipe = recipe_from(content, str(where), trust_code=trust_code)
    check_trusted(recipe.model, where, trust_code=trust_code)
    return recipe


@file_errors()
def networks(folder: str | Path, *, trust_code: bool = False) -> Networks:
    """Load the networks of a run.

    Args:
        folder: run folder.
        trust_code: see `recipe_of`.

    Raises:
        RunFolderError: the folder is no run folder, or the run has no finished network yet.
        UntrustedCode: a Python file builds its network, and `trust_code` is not set.
    """
    require("networks(folder)", folder=(folder, (str, Path)))
    run = RunFolder(Path(folder))
    recipe = recipe_of(run, trust_code=trust_code)
    if not run.done("finetune"):
        raise RunFolderError(f"{folder} holds no finished network yet; run its recipe to the end with `edakari prune`")
    dense = dense_network(recipe)
    example = torch.zeros_like(example_of(load_plan(run.path).inputs), device="cpu")
    return Networks(dense, load(run.path, dense), example)
