"""A network together with its explainer, which reads the network's feature maps."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import nn

from edakari.core.graph import Graph
from edakari.core.layout import kept as kept_positions
from edakari.core.plan import Plan
from edakari.core.processes import Processes
from edakari.core.protocols import Batch, Task
from edakari.graph.taps import Tap, Tapped
from edakari.methods.saliency.asked import asked
from edakari.models.explainer import Explainer
from edakari.surgery.applying import masks_of

__all__ = ["Explained", "Saliency", "calibration_mean", "frozen", "moved", "widened"]

M = TypeVar("M", bound=nn.Module)


class Explained(nn.Module):
    """A frozen network, and an explainer that reads its feature maps.

    Args:
        network: the network.
        taps: modules whose feature maps are read.
        explainer: explainer of the network.
        adjusted: function of a tap and a feature map that is applied before the explainer reads the map.
    """

    def __init__(
        self,
        network: nn.Module,
        taps: Sequence[Tap],
        explainer: Explainer,
        adjusted: Callable[[Tap, torch.Tensor], torch.Tensor] = lambda tap, features: features,
    ) -> None:
        super().__init__()
        self.tapped, self.explainer, self.adjusted = Tapped(network, taps), explainer, adjusted

    def train(self, mode: bool = True) -> Explained:
        """Set the mode of the explainer; the network stays in evaluation mode."""
        self.training = mode
        self.explainer.train(mode)
        self.tapped.eval()
        return self

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits [N, classes], and the raw outputs of the explainer.

        Args:
            images: float [N, C, H, W].
            labels: classes to explain, int64 [N], or 0 and 1 [N, classes]; None takes the network's predictions. Images
                of several classes have an explanation for each; see `edakari.methods.saliency.asked`.
        """
        logits, maps = self.tapped(images)
        found = asked(logits.argmax(1) if labels is None else labels)
        maps = [self.adjusted(tap, each) for tap, each in zip(self.tapped.taps, maps, strict=True)]
        return logits, self.explainer([found.images(each) for each in maps], found.classes)


@dc.dataclass(frozen=True)
class Saliency:
    """A trained explainer of a network.

    Args:
        taps: modules whose feature maps are read.
        explainer: explainer of the network.
        predictor: classifier of masked images.
        agreement: fraction of the calibration images that the predictor, seeing them masked, classifies as the network
            does.
    """

    taps: tuple[Tap, ...]
    explainer: Explainer
    predictor: nn.Module
    agreement: float


def widened(plan: Plan, graph: Graph) -> Callable[[Tap, torch.Tensor], torch.Tensor]:
    """Return a function that pads the feature maps of a pruned network with zeros, so that an explainer can read them.

    Args:
        plan: plan that pruned the network.
        graph: graph of the network before pruning.
    """
    masks = masks_of(plan, graph)

    def padded(tap: Tap, features: torch.Tensor) -> torch.Tensor:
        mask = torch.from_numpy(kept_positions(tap.layout, masks)).to(features.device)
        full = features.new_zeros(len(features), len(mask), *features.shape[2:])
        full[:, mask] = features
        return full

    return padded


def frozen(model: M) -> M:
    """Put a network in evaluation mode, and stop gradients of its parameters, in place."""
    return model.eval().requires_grad_(False)


def calibration_mean(task: Task, model: nn.Module, value: Callable[[int, Batch], torch.Tensor]) -> float:
    """Compute the mean of a value over the calibration batches; each process computes it for its part.

    Args:
        task: data.
        model: network on whose device the batches are.
        value: function from the number of a batch, and the batch, to a scalar tensor.
    """
    here, batches = Processes.here(), task.batches("calibration")
    return here.mean(float(value(number, moved(batch, model))) for number, batch in here.numbered(batches))


def moved(batch: Batch, model: nn.Module) -> Batch:
    """Return a batch on the device of a network."""
    device = next(model.parameters()).device
    parts: Iterable[Batch] = batch if isinstance(batch, list | tuple) else [batch]
    return [part.to(device) if isinstance(part, torch.Tensor) else part for part in parts]
