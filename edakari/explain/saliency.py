"""Where the networks of a finished run look."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from edakari.core.method import registered
from edakari.core.modes import eval_mode
from edakari.errors import RunFolderError
from edakari.graph import trace
from edakari.methods.saliency.explaining import Explained, Saliency, widened
from edakari.methods.saliency.saved import SaliencyMethod
from edakari.pipeline.folder import RunFolder
from edakari.pipeline.load import dense_network, networks, recipe_of
from edakari.report.saliency import Looks, SaliencyView
from edakari.surgery import load, load_plan
from edakari.tasks import image_task

__all__ = ["saliency_view"]


def saliency_view(
    folder: str | Path,
    most: int = 2048,
    stage: Literal["pruned", "finished"] = "finished",
    *,
    trust_code: bool = False,
) -> SaliencyView:
    """Where the dense and the pruned network of a run of ISP look in validation images.

    Args:
        folder: of the run.
        most: images.
        stage: the network as it is in the end, or as it was pruned, before fine-tuning.
        trust_code: whether to run a Python file that the run's recipe names.

    Raises:
        RunFolderError: it is no finished run, or its method left no explainer.
    """
    run = RunFolder(Path(folder))
    final = networks(folder, trust_code=trust_code).pruned
    recipe = recipe_of(run, trust_code=trust_code)
    method = recipe.method
    if not isinstance(method, SaliencyMethod):
        name = load_plan(run.path).method
        able = [known for known, cls in registered().items() if issubclass(cls, SaliencyMethod)]
        raise RunFolderError(
            f"{folder} holds no explainer: its method was {name!r}, and only {' or '.join(map(repr, able))} trains one"
        )
    if not run.kept.is_dir():
        raise RunFolderError(f"{folder} holds no explainer: the budget of its run left nothing to prune")
    task, dense = image_task(recipe.data), dense_network(recipe)
    graph, plan = trace(dense, task.example()), load_plan(run.path)
    cut = load(run.pruned, dense_network(recipe)) if stage == "pruned" else final
    saliency = method.saliency(run.kept, dense, graph)
    batches, count = [], 0
    for images, labels in task.batches("val"):
        batches.append((images[: most - count], labels[: most - count]))
        count += len(batches[-1][0])
        if count >= most:
            break
    own = None if method.explained_labels() == "predicted" else [labels for _, labels in batches]
    inputs = [images for images, _ in batches]
    said = _said(dense, inputs) if own is None else own
    models = (
        Explained(dense, saliency.taps, saliency.explainer),
        Explained(cut, saliency.taps, saliency.explainer, widened(plan, graph)),
    )
    looks = [_looks(model, saliency, inputs, said) for model in models]
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (task.pixels.mean, task.pixels.std))
    pixels = (torch.cat(inputs) * std + mean).clamp(0, 1).permute(0, 2, 3, 1)
    labels_N = torch.cat([labels for _, labels in batches])
    return SaliencyView(pixels.double().numpy(), labels_N.numpy(), task.classes, looks[0], looks[1])


@torch.no_grad()
def _said(model: nn.Module, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [model(images).argmax(1) for images in inputs]


@torch.no_grad()
def _looks(model: Explained, saliency: Saliency, inputs: list[torch.Tensor], labels: list[torch.Tensor]) -> Looks:
    """Where one network looks; its explainer is asked for the same labels as the other's."""
    parts: list[tuple[np.ndarray, ...]] = []
    for images, asked in zip(inputs, labels, strict=True):
        with eval_mode(model):
            said, raw = model(images, asked)
        centres, widths = saliency.explainer.head.centre_and_width(raw)
        masks = saliency.explainer.mask(raw)
        seen = [saliency.predictor(images * each).argmax(1) for each in (masks, masks.roll(1, 0))]
        found = (centres.double(), widths.double(), masks[:, 0].double(), said.argmax(1), *seen)
        parts.append(tuple(each.cpu().numpy() for each in found))
    return Looks(*(np.concatenate(each) for each in zip(*parts, strict=True)))
