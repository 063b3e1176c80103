"""The network with gates: their training data, their cost penalty, and reports of their training (section 4)."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import torch
from torch import nn

from edakari.core.budget import Limits
from edakari.core.method import Job
from edakari.core.modes import judging
from edakari.core.plan import KeepChannels, Plan
from edakari.core.processes import Processes, divided
from edakari.core.protocols import Batch, Hook, StepState
from edakari.core.space import Group
from edakari.cost.smooth import smooth_total
from edakari.graph.taps import Tap
from edakari.methods.masking.consumers import names_in, structure_of
from edakari.methods.masking.gates import Draw, GateMode, drawn, likely_open
from edakari.methods.masking.masks import Masks
from edakari.methods.saliency.asked import asked
from edakari.methods.saliency.explained import Explained, Saliency
from edakari.methods.saliency.explaining import LabelSource, labelled

__all__ = ["GateReport", "Gated", "Pairs", "against_gates", "cost_penalty", "inner_groups"]

REPORTS = 10
"""Number of reports on the training of the gates."""


class Gated(nn.Module):
    """The explained network with gates on its channels; only the logits of the gates are trained.

    Args:
        job: job of the network.
        groups: groups that get gates.
        saliency: explainer of the network.
        logits: module that returns the logits of all gates, float [channels].
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
        """Keep all parts in evaluation mode, whatever `mode` is."""
        nn.Module.train(self, False)
        return self

    def take(self, noise: torch.Tensor) -> None:
        """Set the Gumbel noise with which gates are sampled, float [channels]."""
        self.noise = noise

    def draw(self) -> Draw:
        """Sample the gates of the current step."""
        return drawn(self.logits(), self.noise, self.temperature, self.sizes)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return logits and explanations of the gated network, and the binary gates from which its cost is computed.

        differs: the authors sample the gates of the cost apart from the gates that multiply the features.

        Args:
            images: float [N, C, H, W].
            labels: classes to explain, int64 [N].
        """
        draw = self.draw()
        self.masks.gate(draw.hard if self.mode == "hard" else draw.soft)
        outputs, raw = self.explained(images, labels)
        return outputs, raw, draw.hard

    def _gated(self, tap: Tap, features: torch.Tensor) -> torch.Tensor:
        gates = self.masks.positions(tap.layout, features)
        return features if gates is None else features * gates[:, None, None]


@dc.dataclass(frozen=True)
class Pairs:
    """Images of the calibration split, with labels and with the explanations of the network without gates.

    Args:
        batches: batches of images, in the same order in every pass.
        aims: labels and explanations of each batch, on the CPU.
    """

    batches: Iterable[Batch]
    aims: Sequence[tuple[torch.Tensor, torch.Tensor]]

    @classmethod
    def of(cls, job: Job, saliency: Saliency, labels: LabelSource) -> Pairs:
        """Explain the calibration split of a job.

        Args:
            job: network and data.
            saliency: explainer of the network.
            labels: source of the classes to explain.
        """
        batches, aims = job.task.batches("calibration"), dict[int, tuple[torch.Tensor, torch.Tensor]]()
        here = Processes.here()
        model = Explained(job.model, saliency.taps, saliency.explainer)
        device = next(job.model.parameters()).device
        with judging(model):
            for number, batch in here.numbered(batches):
                images, given = labelled(batch, labels)
                outputs, raw = model(images.to(device), None if given is None else given.to(device))
                aims[number] = (outputs.argmax(1) if given is None else given).cpu(), raw.cpu()
        return cls(batches, list(aims.values()) if divided(batches) else here.joined(aims))

    def __len__(self) -> int:
        return len(self.aims)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield this process's part of each batch.

        Each is (images, labels, aims, weights of the aims in their mean, factor of the mean loss): with these, the mean
        gradient of all processes is that of the batch. If there are fewer images than processes, each gets the batch.
        """
        here = Processes.here()
        alone = here.world == 1 or divided(self.batches)
        for batch, (labels, aim) in zip(self.batches, self.aims, strict=True):
            images, found = labelled(batch, "predicted")[0], asked(labels)
            own, scale = torch.arange(len(images)), 1.0
            if not alone and len(images) >= here.world:
                own, scale = own.tensor_split(here.world)[here.rank], float(here.world)
            pairs = torch.isin(found.rows, own)
            factor = torch.tensor(scale * len(own) / len(images))
            yield images[own], labels[own], aim[pairs], scale * found.weights[pairs], factor


def cost_penalty(limits: Limits, groups: Sequence[Group], sizes_G: torch.Tensor) -> torch.Tensor:
    """Sum over the terms of the budget of log(cost / limit), 0 for costs within their limits.

    differs: all layers of the network count; the authors' code omits the second layer of every pair.

    Args:
        limits: the budget.
        groups: groups that are gated.
        sizes_G: size of each group, float; may have gradients.
    """
    over = [smooth_total(cost, groups, sizes_G) / limit for cost, limit in limits.terms]
    return torch.stack(over).clamp(min=1.0).log().sum()


def inner_groups(job: Job) -> tuple[Group, ...]:
    """Return the job's groups that a single layer produces: all except residual streams."""
    writers = [
        name
        for write in structure_of(job.graph).producers
        for name in names_in(job.graph.layouts[write.weight][write.dim])
    ]
    return tuple(group for group in job.groups if writers.count(group.name) == 1)


class GateReport(Hook):
    """Logs the progress of the training of the gates, and warns if no gate closes; run state.

    Args:
        job: job whose log gets the reports.
        model: network with gates.
        limits: the budget.
        epochs: number of epochs of the training.
    """

    def __init__(self, job: Job, model: Gated, limits: Limits, epochs: int) -> None:
        self.job, self.model, self.limits, self.epochs = job, model, limits, epochs

    def end_epoch(self, state: StepState) -> None:
        """See `Hook`."""
        epoch = state.epoch + 1
        if epoch % max(1, self.epochs // REPORTS) and epoch != self.epochs:
            return
        with torch.no_grad():
            opened = likely_open(self.model.logits(), self.model.sizes).float().cpu()
        parts = torch.split(opened, self.model.sizes)
        sizes = {group.name: int(part.sum()) for group, part in zip(self.model.masks.groups, parts, strict=True)}
        costs = {cost.name: cost.total(sizes) for cost, _ in self.limits.terms}
        self.job.log(f"gates, epoch {epoch}", {"open": float(opened.mean()), **costs})
        if epoch == self.epochs // 2 and float(opened.mean()) == 1.0:
            self.job.log("no gate is closed half way: raise gate_lr, gate_epochs or cost_weight", {})


def against_gates(plan: Plan, groups: Sequence[Group], logits: torch.Tensor) -> dict[str, float]:
    """Count the gates that the budget decided in another way than the training of the gates did.

    Args:
        plan: plan of the budget.
        groups: groups with gates.
        logits: logits of the gates, float [channels].

    Returns:
        Number of gates that are open with a probability of at least 1/2, number of those that were cut, and number of
        closed ones that stay.
    """
    opened = likely_open(logits, [group.size for group in groups])
    kept = torch.ones_like(opened)
    starts = dict(zip((group.name for group in groups), accumulate((g.size for g in groups), initial=0), strict=False))
    for edit in plan.edits:
        if isinstance(edit, KeepChannels) and edit.group in starts:
            start, size = starts[edit.group], next(group.size for group in groups if group.name == edit.group)
            kept[start : start + size] = False
            kept[start + torch.tensor(edit.indices)] = True
    return {
        "open": float(opened.sum()),
        "open gates cut": float((opened & ~kept).sum()),
        "closed gates kept": float((~opened & kept).sum()),
    }
