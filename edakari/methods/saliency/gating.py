"""The network with gates: what trains them, what they cost, and how their training is reported (section 4)."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from edakari.core.budget import Limits
from edakari.core.method import Job
from edakari.core.modes import judging
from edakari.core.protocols import Batch, Hook, StepState
from edakari.core.space import Group
from edakari.cost.smooth import smooth_total
from edakari.graph.taps import Tap
from edakari.methods.masking.consumers import names_in, structure_of
from edakari.methods.masking.gates import Draw, GateMode, drawn
from edakari.methods.masking.masks import Masks
from edakari.methods.saliency.explaining import Explained, LabelSource, Saliency, labelled

__all__ = ["GateReport", "Gated", "Pairs", "cost_penalty", "inner_groups"]

REPORTS = 10
"""How often the training of the gates is reported."""


class Gated(nn.Module):
    """The explained network with gates in force, of which only the logits are trained.

    Args:
        job: whose network it is.
        groups: that are gated.
        saliency: what explains the network.
        logits: gives the logits of all gates.
        temperature: temperature of the Gumbel softmax.
        mode: whether features are multiplied by hard or by soft gates.
    """

    def __init__(
        self,
        job: Job,
        groups: Sequence[Group],
        saliency: Saliency,
        logits: nn.Module,
        temperature: float,
        mode: GateMode,
    ) -> None:
        super().__init__()
        self.masks = Masks(job.model, job.graph, groups, "hard")
        self.explained = Explained(job.model, saliency.taps, saliency.explainer, self._gated)
        self.logits, self.temperature, self.mode = logits, temperature, mode
        self.sizes = [group.size for group in groups]
        self.noise = torch.zeros(self.masks.size)

    def train(self, mode: bool = True) -> Gated:
        """All parts stay in evaluation mode."""
        nn.Module.train(self, False)
        return self

    def take(self, noise: torch.Tensor) -> None:
        """Draw gates with this Gumbel noise from now on."""
        self.noise = noise

    def draw(self) -> Draw:
        """The gates of this step."""
        return drawn(self.logits(), self.noise, self.temperature, self.sizes)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits and explanations of the gated network, and the gates of 0 and 1 that make its cost.

        differs: the authors draw the gates that are counted apart from those that the features are multiplied by.
        """
        draw = self.draw()
        self.masks.gate(draw.hard if self.mode == "hard" else draw.soft)
        said, raw = self.explained(images, labels)
        return said, raw, draw.hard

    def _gated(self, tap: Tap, features: torch.Tensor) -> torch.Tensor:
        gates = self.masks.positions(tap.layout, features)
        return features if gates is None else features * gates[:, None, None]


@dc.dataclass(frozen=True)
class Pairs:
    """The calibration split's images with labels and the explanations of the network without gates.

    Args:
        batches: of images, in the same order every time.
        aims: of each batch its labels and explanations, on the CPU.
    """

    batches: Iterable[Batch]
    aims: Sequence[tuple[torch.Tensor, torch.Tensor]]

    @classmethod
    def of(cls, job: Job, saliency: Saliency, labels: LabelSource) -> Pairs:
        """The pairs of a job's calibration split."""
        batches, aims = job.task.batches("calibration"), []
        model = Explained(job.model, saliency.taps, saliency.explainer)
        device = next(job.model.parameters()).device
        with judging(model):
            for batch in batches:
                images, given = labelled(batch, labels)
                said, raw = model(images.to(device), None if given is None else given.to(device))
                aims.append(((said.argmax(1) if given is None else given).cpu(), raw.cpu()))
        return cls(batches, aims)

    def __len__(self) -> int:
        return len(self.aims)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        for batch, (labels, aim) in zip(self.batches, self.aims, strict=True):
            yield labelled(batch, "predicted")[0], labels, aim


def cost_penalty(limits: Limits, groups: Sequence[Group], sizes_G: torch.Tensor) -> torch.Tensor:
    """Logarithm of how many times over its limit each cost is, 0 within it; the sum over all terms of the budget.

    differs: all layers of the network count, where the authors' code leaves out the second one of every pair.
    """
    over = [smooth_total(cost, groups, sizes_G) / limit for cost, limit in limits.terms]
    return torch.stack(over).clamp(min=1.0).log().sum()


def inner_groups(job: Job) -> tuple[Group, ...]:
    """The job's groups that a single layer writes: all but residual streams."""
    writers = [
        name
        for write in structure_of(job.graph).producers
        for name in names_in(job.graph.layouts[write.weight][write.dim])
    ]
    return tuple(group for group in job.groups if writers.count(group.name) == 1)


class GateReport(Hook):
    """Tells how the training of the gates goes on, and where it does not; run state."""

    def __init__(self, job: Job, model: Gated, limits: Limits, epochs: int) -> None:
        self.job, self.model, self.limits, self.epochs = job, model, limits, epochs

    def end_epoch(self, state: StepState) -> None:
        """See `Hook`."""
        epoch = state.epoch + 1
        if epoch % max(1, self.epochs // REPORTS) and epoch != self.epochs:
            return
        with torch.no_grad():
            opened = drawn(self.model.logits(), self._median(), 1.0, self.model.sizes).hard.cpu()
        parts = torch.split(opened, self.model.sizes)
        sizes = {group.name: int(part.sum()) for group, part in zip(self.model.masks.groups, parts, strict=True)}
        costs = {cost.name: cost.total(sizes) for cost, _ in self.limits.terms}
        self.job.log(f"gates, epoch {epoch}", {"open": float(opened.mean()), **costs})
        if epoch == self.epochs // 2 and float(opened.mean()) == 1.0:
            self.job.log("no gate is closed half way: raise gate_lr, gate_epochs or cost_weight", {})

    def _median(self) -> torch.Tensor:
        """Noise with which a gate is open where it is so more often than not."""
        return -torch.log(torch.log(torch.full((self.model.masks.size,), 2.0)))
