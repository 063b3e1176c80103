"""Views of where a network looks before and after pruning."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edakari.core.modes import eval_mode
from edakari.criteria.labels import LabelSource
from edakari.methods.saliency.explained import Explained, Saliency
from edakari.report.saliency import Looks, SaliencyView
from edakari.tasks import ImageTask

__all__ = ["saliency_view"]


def saliency_view(
    dense: Explained, pruned: Explained, saliency: Saliency, task: ImageTask, labels: LabelSource, most: int = 2048
) -> SaliencyView:
    """Show where a dense and a pruned network look in validation images.

    Args:
        dense: the dense network with its explainer.
        pruned: the pruned network with the same explainer.
        saliency: explainer and predictor of the dense network.
        task: task whose validation images are shown.
        labels: classes to explain: "data" takes the labels of the data, "predicted" the dense network's predictions.
        most: largest number of images.
    """
    batches, count = [], 0
    for images, shown in task.batches("val"):
        batches.append((images[: most - count].cpu(), shown[: most - count].cpu()))  # wherever the task makes them
        count += len(batches[-1][0])
        if count >= most:
            break
    network = dense.tapped.network
    batches = [(images, _one_class(network, images, shown)) for images, shown in batches]
    inputs = [images for images, _ in batches]
    explained = _predictions(network, inputs) if labels == "predicted" else [found for _, found in batches]
    looks = [_looks(model, saliency, inputs, explained) for model in (dense, pruned)]
    pixels = task.pictures(torch.cat(inputs)).permute(0, 2, 3, 1)
    labels_N = torch.cat([found for _, found in batches])
    return SaliencyView(pixels.double().numpy(), labels_N.numpy(), task.classes, looks[0], looks[1])


@torch.no_grad()
def _one_class(model: nn.Module, images: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """Class of each image; of several, the one of which the network is surest, int64 [N]."""
    if shown.ndim == 1:
        return shown
    there = shown > 0
    there |= ~there.any(1, keepdim=True)
    with eval_mode(model):
        chosen: torch.Tensor = model(images).masked_fill(~there, -torch.inf).argmax(1)
    return chosen


@torch.no_grad()
def _predictions(model: nn.Module, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    return [model(images).argmax(1) for images in inputs]


@torch.no_grad()
def _looks(model: Explained, saliency: Saliency, inputs: list[torch.Tensor], labels: list[torch.Tensor]) -> Looks:
    """Where one network looks, for the given labels."""
    parts: list[tuple[np.ndarray, ...]] = []
    for images, explained in zip(inputs, labels, strict=True):
        with eval_mode(model):
            outputs, raw = model(images, explained)
        centres, widths = saliency.explainer.head.centre_and_width(raw)
        masks = saliency.explainer.mask(raw)
        seen = [saliency.predictor(images * each).argmax(1) for each in (masks, masks.roll(1, 0))]
        found = (centres.double(), widths.double(), masks[:, 0].double(), outputs.argmax(1), *seen)
        parts.append(tuple(each.cpu().numpy() for each in found))
    return Looks(*(np.concatenate(each) for each in zip(*parts, strict=True)))
