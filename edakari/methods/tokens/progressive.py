"""The progressive schedule: selectors block by block from the back, as deep as accuracy allows, then phases.

Written from second-hand summaries of the paper; grid, budget of accuracy and tolerance are settings, for the authors'
code has no progressive schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from edakari.core.budget import Limits
from edakari.core.copying import copied
from edakari.core.files import write_json
from edakari.core.method import Job
from edakari.core.settings import Fraction, NonNegative, OpenFraction, Whole, settings
from edakari.errors import InfeasibleBudget
from edakari.surgery.tokens.costs import tokens_at
from edakari.surgery.tokens.design import Counts, Schedule

__all__ = ["Progress", "phases", "profile", "progressive"]

Train = Callable[[nn.Module, Mapping[int, int]], nn.Module]
"""From a network, and patches behind the selector of each block, to the network with trained selectors."""


@settings
class Progress:
    """How the schedule goes.

    Args:
        grid: step of the ratios.
        accuracy_drop: of the task's metric on the calibration split, that may be lost, as a fraction of 1.
        epochs_per_step: of training for each ratio that is tried.
        phase_tolerance: neighbours whose ratios differ by less become one phase.
        first_share: blocks before this fraction of the depth stay unpruned, as tokens hardly differ there yet.
    """

    grid: OpenFraction = 0.1
    accuracy_drop: float = 0.01
    epochs_per_step: Whole = 1
    phase_tolerance: NonNegative = 0.085
    first_share: Fraction = 0.25


def progressive(job: Job, blocks: Sequence[str], patches: int, limits: Limits, train: Train, steps: Progress) -> Counts:
    """Patches behind each block's selector, in the order of blocks; whole where there is none.

    Walks from the last block towards the first. In front of each it lowers the ratio along the grid as long as the
    metric stays within the allowed drop, and ends when the budget is met; then the first ratio is raised as far as the
    budget allows.

    Args:
        job: network, task and where the trail is kept.
        blocks: dotted paths, in order.
        patches: of the dense network.
        limits: to be met.
        train: trains selectors.
        steps: how.

    Raises:
        InfeasibleBudget: the accuracy allows no ratios within the budget; says how far it came.
    """
    floor = job.task.evaluate(job.model, "calibration")[job.task.metric] - steps.accuracy_drop
    ratios: dict[int, float] = {}
    trail: list[dict[str, object]] = []
    for index in range(len(blocks) - 1, max(1, round(steps.first_share * len(blocks))) - 1, -1):
        ratio = 1.0
        while ratio > steps.grid and limits.excess(_sizes(ratios, blocks, patches)) > 0:
            tried = _with(ratios, index, round(ratio - steps.grid, 6))
            network = train(copied(job.model), {at: _count(each, patches) for at, each in tried.items()})
            metric = job.task.evaluate(network, "calibration")[job.task.metric]
            trail.append({"block": blocks[index], "ratios": {blocks[at]: each for at, each in tried.items()},
                          "metric": metric, "accepted": metric >= floor})  # fmt: skip
            job.log(f"{blocks[index]}", {"ratio": tried[index], "metric": metric, "floor": floor})
            if metric < floor:
                break
            ratio, ratios = tried[index], tried
    if job.artifacts is not None:
        write_json(job.artifacts / "progressive.json", trail)
    excess = limits.excess(_sizes(ratios, blocks, patches))
    if excess > 0:
        reached = limits.describe(_sizes(ratios, blocks, patches))
        raise InfeasibleBudget(
            f"within a drop of {steps.accuracy_drop:g} of {job.task.metric} fewer tokens reach {reached}; allow a "
            "larger drop (accuracy_drop), train longer (epochs_per_step), or ask for less",
            {cost.name: cost.total(_sizes(ratios, blocks, patches)) for cost, _ in limits.terms},
        )
    ratios = _relaxed(ratios, blocks, patches, limits, steps.grid)
    kept, counts = patches, []
    for index in range(len(blocks)):
        kept = min(kept, _count(ratios.get(index, 1.0), patches))
        counts.append(kept)
    return tuple(counts)


def phases(ratios: Sequence[float], tolerance: float) -> tuple[int, ...]:
    """Places of the blocks that begin a phase of fewer tokens: neighbours whose ratios are close are one phase.

    Args:
        ratios: behind each block's selector, not rising.
        tolerance: largest difference from the first ratio of a phase within it.
    """
    found, level = [], 1.0
    for index, ratio in enumerate(ratios):
        if level - ratio > tolerance:
            found.append(index)
            level = ratio
    return tuple(found)


def profile(ratios: Sequence[float]) -> Schedule:
    """A schedule that keeps the proportions of some ratios: ratio^g behind each selector, with g = s / (1 - s)."""

    def schedule(strength: float, patches: int, selectors: int) -> Counts:
        power = strength / (1 - strength)
        return tuple(int(patches * ratio**power + 1e-9) for ratio in ratios[:selectors])

    return schedule


def _with(ratios: Mapping[int, float], index: int, ratio: float) -> dict[int, float]:
    """Ratios with one more in front; none behind it is higher."""
    return {index: ratio, **{at: min(each, ratio) for at, each in ratios.items() if at != index}}


def _relaxed(
    ratios: Mapping[int, float], blocks: Sequence[str], patches: int, limits: Limits, grid: float
) -> dict[int, float]:
    """The first ratio raised in fine steps while the budget holds."""
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
