"""What `edakari explain` shows of a run folder: passes its networks, plan and data to `edakari.explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import nn

from edakari.core.method import registered
from edakari.core.protocols import Task
from edakari.errors import RunFolderError
from edakari.explain.filters import Choice, filter_views
from edakari.explain.predictions import prediction_view, require_drawing
from edakari.explain.saliency import saliency_view
from edakari.explain.tokens import token_view
from edakari.graph import trace
from edakari.methods.saliency.explained import Explained, widened
from edakari.methods.saliency.saved import SaliencyMethod
from edakari.pipeline.folder import RunFolder
from edakari.pipeline.load import dense_network, networks, recipe_of
from edakari.pipeline.one_batch import Trial
from edakari.pipeline.suiting import require_classes
from edakari.report.filters import FilterViews
from edakari.report.predictions import PredictionView
from edakari.report.saliency import SaliencyView
from edakari.report.tokens import TokenView
from edakari.surgery import load, load_plan
from edakari.tasks import image_task, task_from_settings

__all__ = ["run_filters", "run_predictions", "run_saliency", "run_tokens"]

PLAIN = Choice()


def run_filters(folder: str | Path, choice: Choice = PLAIN, *, trust_code: bool = False) -> FilterViews:
    """Show the filters of the dense network of a run; this needs its plan, and works for any method.

    Args:
        folder: run folder.
        choice: images and filters to show.
        trust_code: whether to run a Python file that the run's recipe names.

    Raises:
        RunFolderError: the folder is no run folder, or nothing is pruned in it yet.
        UnknownName: no layer matches a pattern.
        DataError: the task has no classes, there are too few images, or no labels.
    """
    run = RunFolder(Path(folder))
    recipe = recipe_of(run, trust_code=trust_code)
    if not run.done("prune"):
        raise RunFolderError(f"{folder} holds no pruned network yet; run its recipe with `edakari prune` first")
    require_classes(recipe.data)
    dense, task = dense_network(recipe), image_task(recipe.data)
    _tried(dense, task)
    return filter_views(dense, load_plan(run.pruned), task, choice)


def run_predictions(folder: str | Path, images: int = 6, *, trust_code: bool = False) -> PredictionView:
    """Show what the dense and the finished network of a run find in validation images; this works for any method.

    Args:
        folder: run folder.
        images: number of images.
        trust_code: whether to run Python files that the run's recipe names.

    Raises:
        RunFolderError: the folder is no finished run.
        DataError: the task has no method that draws its images, or the data is missing.
    """
    recipe = recipe_of(RunFolder(Path(folder)), trust_code=trust_code)
    task = task_from_settings(recipe.data, recipe.seed)
    require_drawing(task)
    found = networks(folder, trust_code=trust_code)
    with _tried(found.dense, task).telling("drawing its validation images"):
        return prediction_view(found.dense, found.pruned, task, images)


def run_saliency(
    folder: str | Path,
    most: int = 2048,
    stage: Literal["pruned", "finished"] = "finished",
    *,
    trust_code: bool = False,
) -> SaliencyView:
    """Show where the dense and the pruned network of a run look in validation images.

    The method of the run must be one that trains an explainer.

    Args:
        folder: run folder.
        most: largest number of images.
        stage: the finished network, or the pruned one before fine-tuning.
        trust_code: whether to run a Python file that the run's recipe names.

    Raises:
        RunFolderError: the folder is no finished run, or its method left no explainer.
    """
    run = RunFolder(Path(folder))
    final = networks(folder, trust_code=trust_code).pruned
    recipe, plan = recipe_of(run, trust_code=trust_code), load_plan(run.path)
    method = recipe.method
    if not isinstance(method, SaliencyMethod):
        able = [known for known, cls in registered().items() if issubclass(cls, SaliencyMethod)]
        raise RunFolderError(
            f"{folder} holds no explainer: its method was {plan.method!r}, and only {' or '.join(map(repr, able))} "
            "trains one"
        )
    if not run.artifacts.is_dir():
        raise RunFolderError(f"{folder} holds no explainer: the budget of its run left nothing to prune")
    task, dense = image_task(recipe.data), dense_network(recipe)
    _tried(dense, task)
    graph = trace(dense, task.example())
    saliency = method.saliency(run.artifacts, dense, graph)
    cut = load(run.pruned, dense_network(recipe)) if stage == "pruned" else final
    before = Explained(dense, saliency.taps, saliency.explainer)
    after = Explained(cut, saliency.taps, saliency.explainer, widened(plan, graph))
    return saliency_view(before, after, saliency, task, method.explained_labels(), most)


def run_tokens(folder: str | Path, images: int = 512, *, trust_code: bool = False) -> TokenView:
    """Show what the selectors of a finished run decide on validation images.

    Args:
        folder: run folder.
        images: number of images over which decisions are counted; six of them are drawn.
        trust_code: whether to run a Python file that the run's recipe names.

    Raises:
        RunFolderError: the folder is no finished run, or no tokens are pruned in it.
    """
    found, plan = networks(folder, trust_code=trust_code), load_plan(folder)
    if not plan.tokens():
        raise RunFolderError(f"{folder} holds a network without pruned tokens; `edakari prune` with spvit prunes some")
    task = image_task(recipe_of(RunFolder(Path(folder)), trust_code=trust_code).data)
    _tried(found.dense, task)
    return token_view(found.dense, found.pruned, plan, task, images=images)


def _tried(dense: nn.Module, task: Task) -> Trial:
    """Refuse data that the network of a run does not take: it may have changed since the run."""
    trial = Trial(dense, task, task.example())
    trial.finite_outputs(None)
    trial.outputs(dense, "val", trial.first_batch("val", asked=True))
    return trial
