"""Scores from the importance of channels in single steps: averaged between two choices of masks."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any, Literal

import torch

from edakari.core.processes import Processes
from edakari.criteria.reduce import Normalize
from edakari.methods.masking.masks import Masks

__all__ = ["Average", "Regrowth", "ScoreAveraging", "StepScores"]

Average = Literal["average", "signed_average", "squares", "momentum", "latest"]
Regrowth = Literal["absolute", "signed"]

MEANS = ("average", "signed_average", "squares")
MOMENTUM = 0.9


@dc.dataclass(frozen=True, kw_only=True)
class ScoreAveraging:
    """Settings by which the importance in single steps becomes scores.

    Args:
        average: mean since masks were last chosen: "average" of absolute importance, "signed_average" of importance,
            "squares" of squared importance (Molchanov et al., CVPR 2019, equation 8); "momentum" is an exponential
            moving average of absolute importance, "latest" takes a single step.
        regrowth: importance of masked channels: "absolute" counts its absolute value, "signed" only the part by which
            the return of the channel would lower the loss.
        keep_bonus: factor of the scores of unmasked channels.
        masked_decay: weight decay of masked weights, in addition to the optimizer's.
        normalize: what scores are divided by before sizes are chosen: the "mean", "max" or "sum" of their group's
            scores, or "none". Channels that cannot return are left out of it.
        sharing: power of the number of weights that read a group by which its scores are divided: 0 leaves their sum, 1
            makes it their mean.
        scarcity: power by which the value of channels rises the fewer of their group are kept; see
            `edakari.solve.scarce`.
        median_of: number of the last choices over whose scores a channel's score is the median; 1 takes those since
            masks were last chosen alone.
    """

    average: Average = "average"
    regrowth: Regrowth = "absolute"
    keep_bonus: float = 1.0
    masked_decay: float = 0.0
    normalize: Normalize = "none"
    sharing: float = 0.0
    scarcity: float = 0.0
    median_of: int = 1

    def comparable(self, scores: torch.Tensor, masks: Masks) -> torch.Tensor:
        """Return the scores by which channels of different groups compete, float64 [channels].

        Args:
            scores: averaged scores, float64 [channels].
            masks: masks of the groups.
        """
        if self.normalize == "none" and not self.sharing:
            return scores
        scores = scores.clone()
        for group in masks.groups:
            part = masks.part(group.name)
            competing = scores[part][masks.mask[part] | (scores[part] > 0)]
            whole = float(getattr(competing, self.normalize)()) if self.normalize != "none" else 1.0
            readers = max(1, masks.readers(group.name))
            scores[part] /= (whole if whole > 0 else 1.0) * readers**self.sharing
        return scores


class StepScores:
    """The importance of channels since masks were last chosen, and in the interval before; run state.

    Args:
        averaging: settings by which importance becomes scores.
        size: number of channels.
    """

    def __init__(self, averaging: ScoreAveraging, size: int) -> None:
        self.averaging = averaging
        self._sum, self._count = torch.zeros(size), torch.zeros(())
        self._earlier, self._earlier_count = torch.zeros(size), torch.zeros(())
        self._finite = torch.ones((), dtype=torch.bool)
        self._recent = torch.zeros(0, size, dtype=torch.float64)

    @torch.no_grad()
    def add(self, figures: torch.Tensor, mask: torch.Tensor) -> None:
        """Add the importance of one step, without synchronising with the device.

        Args:
            figures: importance of each channel, float [channels]; a step with values that are not finite does not
                count.
            mask: channels that are not masked, bool [channels].
        """
        average = self.averaging.average
        figures = figures if average == "signed_average" else self.worth(figures, mask)
        figures = figures.square() if average == "squares" else figures
        self._finite = figures.isfinite().all()
        figures = torch.where(self._finite, figures, 0.0)
        total, self._count = self._sum.to(figures), self._count.to(figures) + self._finite
        if average in MEANS:
            self._sum = total + figures
        elif average == "momentum":
            self._sum = torch.where(self._finite, MOMENTUM * total + (1 - MOMENTUM) * figures, total)
        else:
            self._sum = torch.where(self._finite, figures, total)

    def worth(self, figures: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the absolute importance, of masked channels by the setting `regrowth`, float [channels]."""
        if self.averaging.regrowth == "absolute":
            return figures.abs()
        mask = mask.to(figures.device, non_blocking=True)
        return torch.where(mask, figures.abs(), figures.clamp(min=0))

    def take(self, mask: torch.Tensor) -> torch.Tensor | None:
        """Return the scores for a choice of masks, and begin the next interval.

        Args:
            mask: channels that are not masked, bool [channels].

        Returns:
            float64 [channels] on the CPU, equal on all processes; None if there is nothing to choose by.
        """
        row = self._agreed([self._sum, self._count.view(1), self._finite.to(self._sum).view(1)])
        total, count, finite = row[:-2], row[-2], row[-1]
        if not bool(count > 0) or (self.averaging.average == "latest" and not bool(finite)):
            return None
        self._earlier, self._earlier_count = self._sum, self._count
        self._sum, self._count = torch.zeros_like(self._sum), torch.zeros_like(self._count)
        self._recent = self._with_recent(self._averaged(total, count, mask))
        return self._recent.quantile(0.5, dim=0)

    def final(self, mask: torch.Tensor) -> tuple[torch.Tensor | None, bool]:
        """Return the scores for the last choice of masks.

        If fewer steps were counted since masks were last chosen than in the interval before, that interval counts too.

        Args:
            mask: channels that are not masked, bool [channels].

        Returns:
            Scores as in `take`, and whether any step was counted since masks were last chosen.
        """
        row = self._agreed([self._sum, self._count.view(1), self._earlier, self._earlier_count.view(1)])
        (total, count), (earlier, before) = ((part[:-1], part[-1]) for part in row.chunk(2))
        if not bool(count > 0):
            return (self._recent.quantile(0.5, dim=0) if len(self._recent) else None), False
        average = self.averaging.average
        if average == "momentum" and bool(count < before):
            total = total + MOMENTUM**count * earlier
        elif average != "latest" and bool(count < before):
            total, count = total + earlier, count + before
        return self._with_recent(self._averaged(total, count, mask)).quantile(0.5, dim=0), True

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state for a resumed run."""
        return {
            "sum": self._sum,
            "count": self._count,
            "earlier": self._earlier,
            "earlier_count": self._earlier_count,
            "recent": self._recent,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._sum, self._count = state["sum"], state["count"]
        self._earlier, self._earlier_count = state["earlier"], state["earlier_count"]
        self._recent = state["recent"].cpu()

    def _with_recent(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores of the last choices and these, float64 [choices, channels].

        Right after many channels of a group were masked, the loss is far above what it is once the others have adapted,
        and gradients and scores with it: the channels would return, and others would be masked in their place.
        """
        return torch.cat([self._recent, scores[None]])[-self.averaging.median_of :]

    def _averaged(self, total: torch.Tensor, count: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        average = self.averaging.average
        figures = total / count if average in MEANS else total
        return self.worth(figures, mask) if average == "signed_average" else figures

    def _agreed(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """Broadcast the first process's row, so that all processes choose the same masks; float64 on the CPU."""
        row = torch.cat([part.to(self._sum) for part in parts])
        Processes.here().equalise_([row])
        return row.cpu().double()
