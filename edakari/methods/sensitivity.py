"""The sensitivity criterion: what the loss really loses when fractions of a group go, measured group by group."""

from __future__ import annotations

import dataclasses as dc
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edakari.core.graph import Graph
from edakari.core.networks import unwrapped
from edakari.core.objective import task_objective
from edakari.core.plan import KeepChannels, Plan
from edakari.core.processes import Processes, divided
from edakari.core.protocols import Batch, Criterion, Task
from edakari.core.settings import Count, OpenFraction, settings
from edakari.core.space import Scores
from edakari.core.summaries import ScoreTable
from edakari.criteria import CRITERIA, Magnitude
from edakari.errors import DataError, EdakariError, SettingsError
from edakari.surgery import apply
from edakari.train import batch_statistics

__all__ = ["Sensitivity"]

Array = npt.NDArray[np.float64]
TIES, LEAST = 1e-6, 1e-9
"""Fraction of the mean slope by which the ranking tells channels of one slope apart; the mean counts as `LEAST` or
more, since a loss that falls has slopes of 0."""


@settings
class Sensitivity:
    """Increase of the loss if fractions of a group are removed, measured; another criterion ranks the channels.

    First-order scores add up, however many channels go; the loss does not: it rises faster, the fewer are left. Here
    each group is cut to some sizes by itself, and the loss of the cut network is measured with statistics of the
    batch. A channel's score is the slope of its group's curve at the rank of the channel, so that the scores of
    removed channels add up to the measured increase, and groups compete in the unit of the loss. The sensitivity of
    layers is that of Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.2.

    Args:
        ranking: criterion that ranks the channels of each group.
        fractions: fractions of each group that are removed to measure its curve, in increasing order. The last slope
            holds beyond them.
        max_batches: largest number of batches over all processes, for the ranking too.
    """

    paper: ClassVar[str] = "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017"
    needs_data: ClassVar[bool] = True

    ranking: Annotated[Criterion, CRITERIA] = Magnitude()
    fractions: tuple[OpenFraction, ...] = (0.25, 0.5, 0.75)
    max_batches: Count = 8

    def __post_init__(self) -> None:
        if not self.fractions or list(self.fractions) != sorted(set(self.fractions)):
            raise SettingsError(f"Sensitivity: fractions must increase, found {list(self.fractions)}")

    def check_task(self, model: nn.Module, task: Task, batch: Batch) -> None:
        """Take the loss of a batch; see `edakari.core.method.parts_of`.

        Raises:
            DataError: the task's loss compares features of the network.
        """
        _require_outputs_alone(task)
        _loss(model, [batch], task)

    def score(self, model: nn.Module, graph: Graph, batches: Iterable[Batch], task: Task | None) -> Scores:
        """See `edakari.core.protocols.Criterion`; needs batches and a task.

        Raises:
            EdakariError: there is no task.
            DataError: there is no batch, or the task's loss compares features of the network.
        """
        if task is None:
            raise EdakariError("the sensitivity criterion needs a task, for its loss, but got none")
        _require_outputs_alone(task)
        network = unwrapped(model, "score(model, graph, batches, task)")
        first, here = _First(batches, self.max_batches), Processes.here()
        few = list(here.own(first))
        if not here.reduced(torch.tensor(len(few))):
            raise DataError("the sensitivity criterion got no batch of data; is the training data empty?")
        ranked, whole = self.ranking.score(network, graph, first, task), _loss(network, few, task)

        def rise(name: str, kept: Iterable[int]) -> float:
            plan = Plan((KeepChannels(name, tuple(kept)),), graph.fingerprint, graph.inputs)
            return _loss(apply(network, plan, graph), few, task) - whole

        return ScoreTable({name: self._scores(ranked[name], functools.partial(rise, name)) for name in ranked})

    def _scores(self, ranks: torch.Tensor, rise: Callable[[Iterable[int]], float]) -> torch.Tensor:
        """Scores of the channels of one group, float64 [size]; `rise` measures the loss with some of them kept."""
        size, order = len(ranks), np.argsort(ranks.double().cpu().numpy(), kind="stable")
        counts = sorted({round(part * size) for part in self.fractions} - {0, size})
        found = np.empty(size)
        found[order] = slopes(counts, [rise(np.sort(order[count:]).tolist()) for count in counts], size)
        return torch.from_numpy(found)


@dc.dataclass(frozen=True)
class _First:
    """The first of some batches."""

    batches: Iterable[Batch]
    most: int

    @property
    def divided(self) -> bool:
        """See `edakari.core.processes.Processes.own`."""
        return divided(self.batches)

    def __len__(self) -> int:
        return min(self.most, len(self.batches))  # type: ignore[arg-type]  # that of a loader without fails

    def __iter__(self) -> Iterator[Batch]:
        return itertools.islice(self.batches, self.most)

    def skip(self, count: int) -> Iterable[Batch]:
        """Return the batches without the first ones."""
        rest: Any = self.batches
        rest = rest.skip(count) if hasattr(rest, "skip") else itertools.islice(rest, count, None)
        return itertools.islice(rest, max(0, self.most - count))


def _require_outputs_alone(task: Task) -> None:
    if getattr(getattr(task, "teaching", None), "features", ()):
        raise DataError(
            "the sensitivity criterion takes the loss of cut networks, but this task compares features, whose sizes "
            "change; take 'taylor', or a task without features"
        )


def slopes(counts: Sequence[int], rises: Sequence[float], size: int) -> Array:
    """Return the increase of the loss for each further channel that is removed, float64 [size], never falling.

    The measured curve is replaced by the largest convex one that is nowhere above it and starts at 0; a loss that falls
    counts as one that stays.

    Args:
        counts: numbers of removed channels, increasing, from 1 on.
        rises: increase of the loss at each of them.
        size: number of channels of the group.
    """
    points = [(0, 0.0)]
    for point in zip(counts, np.maximum(rises, 0.0).tolist(), strict=True):
        while len(points) > 1 and _slope(points[-2], points[-1]) >= _slope(points[-1], point):
            points.pop()
        points.append(point)
    found = np.zeros(size)
    for left, right in itertools.pairwise(points):
        found[left[0] :] = _slope(left, right)
    spread: Array = found + TIES * max(found.mean(), LEAST) * np.arange(size) / size
    return spread


def _slope(left: tuple[int, float], right: tuple[int, float]) -> float:
    return (right[1] - left[1]) / (right[0] - left[0])


@torch.no_grad()
def _loss(model: nn.Module, batches: Sequence[Batch], task: Task) -> float:
    """Mean loss over the batches of all processes."""
    objective, devices = task_objective(task), [p.device.index for p in model.parameters() if p.device.type == "cuda"]
    with batch_statistics(model), torch.random.fork_rng(sorted(set(devices))):
        losses = [float(sum(float(term) for term in objective(model, batch).values())) for batch in batches]
    return Processes.here().mean(losses)
