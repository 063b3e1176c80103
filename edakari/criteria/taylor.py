"""The Taylor criterion: a first-order estimate of how the loss changes without a channel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from edakari.core.arguments import require
from edakari.core.graph import Graph, Member
from edakari.core.modes import eval_mode
from edakari.core.networks import unwrapped
from edakari.core.objective import task_objective
from edakari.core.processes import Processes
from edakari.core.protocols import Batch, Task
from edakari.core.settings import Count, settings
from edakari.core.space import Scores
from edakari.criteria.reduce import (
    Array,
    Normalize,
    counting,
    group_scores,
    parameters_of,
    per_channel,
    sum_along,
)
from edakari.errors import DataError, EdakariError

__all__ = ["Taylor"]


@settings
class Taylor:
    """Squared first-order change of the loss if a channel's weights were zero.

    Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equation 8. For each batch, the
    score is the squared sum of gradient times weight over a channel; scores are averaged over batches. The network is
    in evaluation mode.

    Args:
        max_batches: largest number of batches, over all processes.
        normalize: divide the scores of a group by their "mean", "max" or "sum", so that all groups can be ranked
            together; "none" leaves them.
    """

    paper: ClassVar[str] = "Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019"
    needs_data: ClassVar[bool] = True

    max_batches: Count = 16
    normalize: Normalize = "mean"

    def check_task(self, model: nn.Module, task: Task, batch: Batch) -> None:
        """Take the loss of a batch; see `edakari.core.method.parts_of`."""
        with eval_mode(model):
            task_objective(task)(model, batch)

    def score(self, model: nn.Module, graph: Graph, batches: Iterable[Batch], task: Task | None) -> Scores:
        """See `edakari.core.protocols.Criterion`; needs batches and a task.

        Raises:
            EdakariError: there is no task.
            DataError: there is no batch.
        """
        if task is None:
            raise EdakariError("the Taylor criterion needs a task, for its loss, but got none")
        call = "score(model, graph, batches, task)"
        objective = task_objective(task)
        require(call, batches=(batches, Iterable))
        model = unwrapped(model, call)
        parameters = parameters_of(model, graph)
        members = {group.name: counting(graph, group.name, parameters) for group in graph.groups}
        weights = {m.tensor: parameters[m.tensor] for found in members.values() for m in found}
        sums = {
            (group.name, index): np.zeros(group.size)
            for group in graph.groups
            for index in range(len(members[group.name]))
        }
        count = 0
        with _probing(model, list(weights.values())):
            for batch in Processes.here().own(batches, self.max_batches):
                loss = torch.stack([term.reshape(()) for term in objective(model, batch).values()])
                found = torch.autograd.grad(loss.sum(), list(weights.values()), allow_unused=True)
                _accumulate(sums, graph, members, weights, dict(zip(weights, found, strict=True)))
                count += 1
        count = _reduced(sums, count)
        if not count:
            raise DataError("the Taylor criterion got no batch of data; is the training data empty?")
        return group_scores(
            graph,
            lambda name, _: [sums[name, index] / count for index in range(len(members[name]))],
            self.normalize,
        )


def _accumulate(
    sums: Mapping[tuple[str, int], Array],
    graph: Graph,
    members: Mapping[str, Sequence[Member]],
    weights: Mapping[str, torch.Tensor],
    gradients: Mapping[str, torch.Tensor | None],
) -> None:
    """Add one batch's squared sums of gradient times weight."""
    along: dict[tuple[str, int], Array] = {}
    for name, gradient in gradients.items():
        if gradient is not None:
            product = gradient * weights[name].detach()
            for dim in {m.dim for found in members.values() for m in found if m.tensor == name}:
                along[name, dim] = sum_along(product, dim).double().cpu().numpy()
    for group in graph.groups:
        for index, member in enumerate(members[group.name]):
            if (member.tensor, member.dim) in along:
                change = per_channel(member, group.name, group.size, along[member.tensor, member.dim])
                sums[group.name, index][:] += change**2


def _reduced(sums: Mapping[tuple[str, int], Array], count: int) -> int:
    """Sum over all ranks in place, and return the total number of batches."""
    total = Processes.here().reduced(torch.from_numpy(np.concatenate([*sums.values(), [float(count)]]))).numpy()
    start = 0
    for own in sums.values():
        own[:] = total[start : start + len(own)]
        start += len(own)
    return int(total[-1])


@contextmanager
def _probing(model: nn.Module, weights: Sequence[torch.Tensor]) -> Iterator[None]:
    """Context of evaluation mode with gradients of the weights; modes, flags and random state are restored."""
    flags = [weight.requires_grad for weight in weights]
    devices = sorted({weight.device.index for weight in weights if weight.device.type == "cuda"})
    try:
        with eval_mode(model), torch.random.fork_rng(devices), torch.enable_grad():
            for weight in weights:
                weight.requires_grad_(True)
            yield
    finally:
        for weight, flag in zip(weights, flags, strict=True):
            weight.requires_grad_(flag)
