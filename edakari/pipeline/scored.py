"""How sensitive the groups of a network are, by the scores that a method took of it; the report draws it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edakari.core.files import write_json
from edakari.core.method import Scoring
from edakari.core.plan import KeepChannels, Plan
from edakari.core.protocols import Criterion
from edakari.core.space import Group, Scores

__all__ = ["ScoreRecord", "sensitivities"]

FILE = "scores.json"
"""The report reads it."""


class ScoreRecord:
    """Passes on the scores of a job's unpruned network, and remembers them. Run state.

    Args:
        scoring: function that gives the scores, see `edakari.core.method.Job`.
    """

    def __init__(self, scoring: Scoring) -> None:
        self.scoring = scoring
        self.scores: Scores = {}

    def __call__(self, criterion: Criterion, make: Callable[[], Scores], /) -> Scores:
        """See `edakari.core.method.Scoring`."""
        self.scores = self.scoring(criterion, make)
        return self.scores

    def write(self, folder: Path, groups: Sequence[Group], plan: Plan) -> None:
        """Write the sensitivity of each group, if the method took scores.

        Args:
            folder: folder of the artifacts.
            groups: groups of the unpruned network that may be cut.
            plan: plan of the method.
        """
        found = sensitivities(groups, self.scores, plan)
        if found:
            write_json(folder / FILE, found)


def sensitivities(groups: Sequence[Group], scores: Scores, plan: Plan) -> list[dict[str, Any]]:
    """Say how evenly the scores of each group are spread over its channels, and what a plan removes of them.

    If the weaker half of a group's channels holds nearly half of its score, each of its channels counts, and the group
    is sensitive to a cut; if it holds nearly nothing, the group is not. Both figures are free of the unit of the
    scores, which most criteria divide by the mean of the group.

    Args:
        groups: groups of the unpruned network that may be cut.
        scores: score of each channel, float [size], by group. Groups of other sizes, which a method did not score
            whole, are left out.
        plan: the plan.

    Returns:
        For each group its name, and as fractions of its score that of its weaker half of channels ("weaker_half"), and
        that of the channels that the plan removes ("removed").
    """
    kept = {edit.group: edit.indices for edit in plan.edits if isinstance(edit, KeepChannels)}
    found = []
    for group in groups:
        values = np.maximum(np.asarray(scores.get(group.name, ()), dtype=np.float64), 0.0)
        if len(values) == group.size and values.sum() > 0:
            rising = np.concatenate([[0.0], np.cumsum(np.sort(values))])
            half = float(np.interp(group.size / 2, np.arange(group.size + 1), rising) / rising[-1])
            left = values[list(kept.get(group.name, range(group.size)))].sum() / values.sum()
            found.append({"name": group.name, "weaker_half": half, "removed": max(0.0, 1.0 - float(left))})
    return found
