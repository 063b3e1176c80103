"""Where networks look before and after pruning."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edakari.core.modes import eval_mode
from edakari.criteria.labels import LabelSource
from edakari.methods.saliency.explaining import Explained, Saliency
from edakari.report.saliency import Looks, SaliencyView
from edakari.tasks import ImageTask

__all__ = ["saliency_view"]


def saliency_view(
    dense: Explained, pruned: Explained, saliency: Saliency, task: ImageTask, labels: LabelSource, most: int = 2048
) -> SaliencyView:
    """Where a dense and a pruned network look in validation images.

    Args:
        dense: the dense network, explained.
        pruned: the pruned network, explained as the dense one.
        saliency: what explains them.
        task: gives the images.
        labels: classes that are explained: those of the data, or the dense network's predictions.
        most: images.
    """
    batches, count = [], 0
    for images, shown in task.batches("val"):
        batches.append((images[: most - count], shown[: most - count]))
        count += len(batches[-1][0])
        if count >= most:
            break
    inputs = [images for images, _ in batches]
    asked = _said(dense.tapped.network, inputs) if labels == "predicted" else [found for _, found in batches]
    looks = [_looks(model, saliency, inputs, asked) for model in (dense, pruned)]
    pixels = task.pictures(torch.cat(inputs)).permute(0, 2, 3, 1)
    labels_N = torch.cat([found for _, found in batches])
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
