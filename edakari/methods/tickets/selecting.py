"""Which single weights stay, by their scores: exactly so many are masked, and the same on every process."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Literal

import torch

from edakari.errors import InfeasibleBudget, ModelError

__all__ = ["Scope", "least_kept", "require_reachable", "select"]

Scope = Literal["global", "per_layer"]
"""Whether one threshold holds for all layers, or each layer loses the same fraction of its weights."""


def select(
    scores: Mapping[str, torch.Tensor], fraction: float, scope: Scope = "global", excluded: Collection[str] = ()
) -> dict[str, torch.Tensor]:
    """Choose the weights that stay: the int(fraction * N) weights of lowest score are masked.

    Exactly so many are masked even if scores are equal: of equal scores, the earlier weight is masked, in the order of
    the mapping and then of the tensor. So equal scores give equal masks on every process and device. With the scope
    "per_layer", each layer loses int(fraction * n) of its n weights or a few more, and all layers together
    int(fraction * N); a layer's last weight goes last. One call for 12 million weights takes about half a second on one
    CPU core.

    Args:
        scores: score of each weight, in the shape of its parameter; larger means keep.
        fraction: fraction of the N weights to mask.
        scope: see `Scope`.
        excluded: names of parameters that count among the N weights, but are not masked.

    Returns:
        For each parameter, bool in its shape: True where the weight stays.

    Raises:
        InfeasibleBudget: the excluded parameters leave too few weights to mask.
        ModelError: a score is not a number.
    """
    counts = {name: score.numel() for name, score in scores.items()}
    count = int(fraction * sum(counts.values()))
    require_reachable(counts, fraction, excluded)
    free = {name: score.detach() for name, score in scores.items() if name not in excluded}
    if scope == "global":
        kept = _without_lowest(free, count)
    else:
        lost = _divided({name: counts[name] for name in free}, count)
        kept = {name: _without_lowest({name: score}, lost[name])[name] for name, score in free.items()}
    return {
        name: kept[name] if name in kept else torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()
    }


def least_kept(counts: Mapping[str, int], excluded: Collection[str] = ()) -> float:
    """Return the largest fraction of weights that can be masked.

    Args:
        counts: number of weights of each parameter.
        excluded: names of parameters that are not masked.
    """
    free = sum(count for name, count in counts.items() if name not in excluded)
    return free / max(1, sum(counts.values()))


def require_reachable(counts: Mapping[str, int], fraction: float, excluded: Collection[str] = ()) -> None:
    """Refuse a fraction that is larger than the excluded parameters allow.

    Args:
        counts: number of weights of each parameter.
        fraction: fraction of the weights to mask.
        excluded: names of parameters that are not masked.

    Raises:
        InfeasibleBudget: says how many weights can be masked, and how many must be.
    """
    total = sum(counts.values())
    kept = sum(counts[name] for name in counts if name in excluded)
    if total == 0:
        raise ModelError(
            "there is no weight to mask: the network has no convolution but those that give its outputs; a method's "
            "setting `linear` masks linear layers and attention too"
        )
    if int(fraction * total) > total - kept:
        least = least_kept(counts, excluded)
        raise InfeasibleBudget(
            f"a sparsity of {fraction:.6g} masks {int(fraction * total)} of {total} weights, but {kept} of them are in "
            f"excluded layers ({', '.join(sorted(excluded)[:3])}{', …' if len(excluded) > 3 else ''}); ask for at most "
            f"{math.floor(least * 1e4) / 1e4:.6g}, or exclude fewer layers",
            {"sparsity": least},
        )


def _without_lowest(scores: Mapping[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    """Masks without the `count` lowest scores of all tensors; of equal scores, the first go."""
    row = torch.cat([score.flatten() for score in scores.values()])
    if bool(row.isnan().any()):
        wrong = next(name for name, score in scores.items() if bool(score.isnan().any()))
        raise ModelError(f"the scores of {wrong!r} are not numbers; are its weights and their gradients finite?")
    kept = torch.ones_like(row, dtype=torch.bool)
    if count:
        # not sorted: of millions of scores only the one at the threshold is needed
        threshold = row.kthvalue(count).values
        kept = row >= threshold
        missing = count - (row.numel() - int(kept.sum()))
        kept[(row == threshold).nonzero()[:missing, 0]] = False
    parts = torch.split(kept, [score.numel() for score in scores.values()])
    return {name: part.view(score.shape) for part, (name, score) in zip(parts, scores.items(), strict=True)}


def _divided(counts: Mapping[str, int], total: int) -> dict[str, int]:
    """Divide the number of masked weights among layers by their sizes; a layer's last weight goes last."""
    whole = sum(counts.values())
    lost = {name: total * count // whole for name, count in counts.items()}
    for _ in range(total - sum(lost.values())):
        open_layers = [name for name in counts if lost[name] + 1 < counts[name]] or [
            name for name in counts if lost[name] < counts[name]
        ]
        # in integers, as processes must agree
        lost[max(open_layers, key=lambda name: total * counts[name] - lost[name] * whole)] += 1
    return lost
