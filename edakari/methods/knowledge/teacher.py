"""The teacher of the search: the mean output of earlier networks, and the distance to it.

Lee and Song, ECCV 2022. Shapes: N search images, C logits of each.
"""

from __future__ import annotations

import dataclasses as dc

import torch
from torch.nn import functional

__all__ = ["Knowledge", "distance"]


@dc.dataclass(frozen=True)
class Knowledge:
    """Mean output of some networks.

    Args:
        mean: mean logits, float64 [N, C]; in float64, so that the mean of equal outputs is that output.
        count: number of networks.
    """

    mean: torch.Tensor
    count: int = 1

    def then(self, logits_NC: torch.Tensor) -> Knowledge:
        """Return the mean that includes another network's output.

        Args:
            logits_NC: output of the other network.
        """
        return Knowledge((self.count * self.mean + logits_NC.double()) / (self.count + 1), self.count + 1)


def distance(logits_NC: torch.Tensor, aims_NC: torch.Tensor) -> torch.Tensor:
    """Cross-entropy between the softmax of two sets of logits, summed over images, at temperature 1.

    Args:
        logits_NC: logits of the student.
        aims_NC: logits of the teacher.
    """
    aims_NC = functional.softmax(aims_NC, dim=1).to(logits_NC)
    return -(aims_NC * functional.log_softmax(logits_NC, dim=1)).sum()
