"""The progressive schedule: adds selectors block by block from the last one, while the accuracy allows, then phases.

Kong et al., ECCV 2022. It is written from second-hand summaries of the paper. Grid, accuracy drop and tolerance are
settings, because the authors' code has no progressive schedule.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from edakari.core.budget import Limits
from edakari.core.files import write_json
from edakari.core.method import Job
from edakari.core.settings import Fraction, NonNegative, OpenFraction, Whole, settings
from edakari.errors import InfeasibleBudget
from edakari.surgery.tokens.costs import tokens_at
from edakari.surgery.tokens.design import Counts, Schedule

__all__ = ["Progress", "phases", "profile", "progressive"]

Train = Callable[[nn.Module | None, Mapping[int, int]], nn.Module]
"""A function from the network to begin with (None: the dense one) and the number of patches behind each block's
selector to a new, trained network."""


@settings
class Progress:
    """Settings of the progressive schedule.

    Args:
        grid: step by which ratios are lowered.
        accuracy_drop: largest allowed drop of the task's metric on the calibration split, as a fraction of 1.
        epochs_per_step: number of training epochs for each ratio that is tried.
        phase_tolerance: largest difference between the ratios of neighbouring blocks that form one phase.
        first_share: blocks before this fraction of the depth stay unpruned, as tokens hardly differ there yet.
    """

    grid: OpenFraction = 0.1
    accuracy_drop: float = 0.01
    epochs_per_step: Whole = 1
    phase_tolerance: NonNegative = 0.085
    first_share: Fraction = 0.25


def progressive(
    job: Job, blocks: Sequence[str], patches: int, limits: Limits, train: Train, steps: Progress
) -> tuple[Counts, nn.Module | None]:
    """Return the number of patches behind each block's selector, all patches if a block has none, and the last network.

    Goes from the last block to the first. At each block it lowers the ratio along the grid while the metric stays
    within the allowed drop, and it ends once the budget is met. Each training begins with the network of the last
    accepted ratio. Finally, the first ratio is raised as far as the budget allows.

    Args:
        job: network, task, and the folder in which the tried ratios are recorded.
        blocks: dotted paths of the blocks, in order.
        patches: number of patches of the dense network.
        limits: limits that the ratios have to meet.
        train: function that trains selectors.
        steps: settings of the schedule.

    Raises:
        InfeasibleBudget: no ratios within the allowed drop meet the limits; the error gives the lowest costs reached.
    """
    walk = _Walk(job, tuple(blocks), patches, limits)
    ratios, network = walk.run(train, steps)
    excess = limits.excess(_sizes(ratios, blocks, patches))
    if excess > 0:
        reached = limits.describe(_sizes(ratios, blocks, patches))
        raise InfeasibleBudget(
            f"with a drop of {job.task.metric} by at most {steps.accuracy_drop:g}, the fewest tokens reach {reached}; "
            "allow a larger drop (accuracy_drop), train longer (epochs_per_step), or raise the budget",
            {cost.name: cost.total(_sizes(ratios, blocks, patches)) for cost, _ in limits.terms},
        )
    ratios = _relaxed(ratios, blocks, patches, limits, steps.grid)
    count, counts = patches, []
    for index in range(len(blocks)):
        count = min(count, _count(ratios.get(index, 1.0), patches))
        counts.append(count)
    return tuple(counts), network


@dc.dataclass(frozen=True)
class _Walk:
    """The walk from the last block to the first."""

    job: Job
    blocks: tuple[str, ...]
    patches: int
    limits: Limits

    def run(self, train: Train, steps: Progress) -> tuple[dict[int, float], nn.Module | None]:
        """Return the ratio of each pruned block, and the network of the last accepted ratio."""
        floor = self._metric(self.job.model) - steps.accuracy_drop
        ratios: dict[int, float] = {}
        network: nn.Module | None = None
        trail: list[dict[str, object]] = []
        first = max(1, round(steps.first_share * len(self.blocks)))
        for index in range(len(self.blocks) - 1, first - 1, -1):
            ratio = 1.0
            while ratio > steps.grid and self.limits.excess(_sizes(ratios, self.blocks, self.patches)) > 0:
                tried = _with(ratios, index, round(ratio - steps.grid, 6))
                trial = train(network, {at: _count(each, self.patches) for at, each in tried.items()})
                metric = self._metric(trial)
                named = {self.blocks[at]: each for at, each in tried.items()}
                trail.append(
                    {"block": self.blocks[index], "ratios": named, "metric": metric, "accepted": metric >= floor}
                )
                self.job.log(self.blocks[index], {"ratio": tried[index], "metric": metric, "floor": floor})
                if metric < floor:
                    break
                ratio, ratios, network = tried[index], tried, trial
        if self.job.artifacts is not None:
            write_json(self.job.artifacts / "progressive.json", trail)
        return ratios, network

    def _metric(self, model: nn.Module) -> float:
        return float(self.job.task.evaluate(model, "calibration")[self.job.task.metric])


def phases(ratios: Sequence[float], tolerance: float) -> tuple[int, ...]:
    """Return the indices of the blocks that begin a phase; neighbouring blocks with similar ratios form one phase.

    Args:
        ratios: fraction of patches behind each block's selector, non-increasing.
        tolerance: largest difference from the first ratio within a phase.
    """
    found, level = [], 1.0
    for index, ratio in enumerate(ratios):
        if level - ratio > tolerance:
            found.append(index)
            level = ratio
    return tuple(found)


def profile(ratios: Sequence[float]) -> Schedule:
    """Return a schedule that keeps the fraction ratio^g of the patches, with g = s / (1 - s) at strength s.

    Args:
        ratios: fraction of patches behind each selector at strength 1/2.
    """

    def schedule(strength: float, patches: int, selectors: int) -> Counts:
        power = strength / (1 - strength)
        return tuple(int(patches * ratio**power + 1e-9) for ratio in ratios[:selectors])

    return schedule


def _with(ratios: Mapping[int, float], index: int, ratio: float) -> dict[int, float]:
    """Return the ratios with one more in front; the ratios behind it are lowered to it."""
    return {index: ratio, **{at: min(each, ratio) for at, each in ratios.items() if at != index}}


def _relaxed(
    ratios: Mapping[int, float], blocks: Sequence[str], patches: int, limits: Limits, grid: float
) -> dict[int, float]:
    """Raise the first ratio in fine steps while the limits are met."""
    found = dict(ratios)
    first = min(found, default=None)
    while first is not None and found[first] + grid / 10 < 1.0:
        milder = {**found, first: found[first] + grid / 10}
        if limits.excess(_sizes(milder, blocks, patches)) > 0:
            break
        found = milder
    return found


def _sizes(ratios: Mapping[int, float], blocks: Sequence[str], patches: int) -> dict[str, int]:
    return {tokens_at(blocks[index]): _count(ratio, patches) for index, ratio in sorted(ratios.items())}


def _count(ratio: float, patches: int) -> int:
    return max(1, int(patches * ratio + 1e-9))
