"""Reduction of values per weight to one score per channel of a group, shared by all criteria on weights.

A group's score is the mean over its counting members. A member's score covers all elements that belong to a channel.
Counting members are weights with more than one long dimension: matrices and convolution kernels. Both the rows that
produce the group and the columns that consume it count, since a channel is useless without either. Scales, biases and
single tokens shift a distribution and say little about importance. They count only in groups without other members.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edakari.core.arguments import require
from edakari.core.graph import Graph, Member
from edakari.core.layout import Axis, Concat, Fixed, Layout, Product
from edakari.core.networks import unwrapped
from edakari.core.space import Scores
from edakari.core.summaries import ScoreTable
from edakari.errors import ModelError

__all__ = [
    "Normalize",
    "channels",
    "counting",
    "group_scores",
    "normalized",
    "parameters_of",
    "per_channel",
    "sum_along",
]

Array = npt.NDArray[np.float64]
Normalize = Literal["mean", "max", "sum", "none"]
"""What the scores of a group are divided by, so that all groups can be ranked together."""


def channels(layout: Layout, group: str) -> npt.NDArray[np.int64]:
    """Return the channel of a group that each position of a dimension belongs to.

    Args:
        layout: description of the dimension.
        group: name of the group.

    Returns:
        int64 [positions]; -1 for positions outside the group. Every channel has the same number of positions.
    """
    match layout:
        case Fixed(size):
            return np.full(size, -1, dtype=np.int64)
        case Axis(name, size):
            return np.arange(size) if name == group else np.full(size, -1, dtype=np.int64)
        case Product(parts):
            found = np.full(1, -1, dtype=np.int64)
            for part in parts:
                inner = channels(part, group)
                found = np.where(found[:, None] >= 0, found[:, None], inner).reshape(-1)
            return found
        case Concat(parts):
            return np.concatenate([channels(part, group) for part in parts])


_channel_indices = functools.lru_cache(maxsize=4096)(channels)


def parameters_of(model: nn.Module, graph: Graph) -> dict[str, torch.Tensor]:
    """Return the parameters that belong to groups, by name.

    Raises:
        ModelError: the shape of a parameter differs from the traced shape.
    """
    model = unwrapped(model, "score(model, graph, batches, task)")
    require("score(model, graph, batches, task)", graph=(graph, Graph))
    parameters: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    for group in graph.groups:
        for member in graph.members(group.name):
            tensor = parameters.get(member.tensor)
            if tensor is not None and tensor.shape[member.dim] != len(_channel_indices(member.layout, group.name)):
                raise ModelError(
                    f"parameter {member.tensor!r} has {tensor.shape[member.dim]} positions along dimension "
                    f"{member.dim}, but the graph was traced with {len(_channel_indices(member.layout, group.name))}. "
                    "Trace this network again."
                )
    return parameters


def counting(graph: Graph, group: str, parameters: Mapping[str, torch.Tensor]) -> list[Member]:
    """Return the members that count for a group's score; tied weights count once."""
    found: dict[tuple[int, int], Member] = {}
    for member in graph.members(group):
        if member.tensor in parameters:
            found.setdefault((id(parameters[member.tensor]), member.dim), member)
    members = list(found.values())
    shapes = [parameters[member.tensor].shape for member in members]
    wide = [member for member, shape in zip(members, shapes, strict=True) if shape.numel() > max(shape)]
    return wide or members


def sum_along(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    """Sum over all dimensions but one; leading dimensions first, which reads memory in order."""
    while dim > 0:
        tensor, dim = tensor.sum(0), dim - 1
    return tensor.flatten(1).sum(1) if tensor.ndim > 1 else tensor


def per_channel(member: Member, group: str, size: int, along: Array) -> Array:
    """Sum values per position, float64 [positions], over the positions of each channel: float64 [size]."""
    if isinstance(member.layout, Axis):
        return along
    where = _channel_indices(member.layout, group)
    chosen = where >= 0
    return np.bincount(where[chosen], weights=along[chosen], minlength=size).astype(np.float64)


def group_scores(
    graph: Graph, parts: Callable[[str, int], Sequence[Array]], normalize: Normalize = "mean"
) -> dict[str, torch.Tensor]:
    """Average the scores of each group's members.

    Args:
        graph: the graph whose groups are scored.
        parts: function from a group's name and size to its members' scores, each float64 [size]. Without any, every
            channel scores 1.
        normalize: "mean", "max" and "sum" divide by the group's mean, largest and summed score, so that all groups can
            be ranked together; by the sum, channels of wide groups count less. "none" leaves the scores.

    Returns:
        float64 [size] by group.

    Raises:
        ModelError: a score is not finite.
    """
    scores: dict[str, torch.Tensor] = {}
    for group in graph.groups:
        members = parts(group.name, group.size)
        score = np.mean(members, axis=0) if len(members) else np.ones(group.size)
        if not np.isfinite(score).all():
            raise ModelError(
                f"group {group.name!r} has scores that are not finite; are there NaN or infinite weights or gradients?"
            )
        scores[group.name] = torch.from_numpy(score)
    return normalized(scores, normalize)


def normalized(scores: Scores, normalize: Normalize) -> dict[str, torch.Tensor]:
    """Divide scores by their group's mean, maximum or sum; groups in which this is 0 or below stay unchanged."""
    if normalize == "none":
        return ScoreTable(scores)
    divisors = {name: float(getattr(score, normalize)()) for name, score in scores.items()}
    return ScoreTable({name: score / divisors[name] if divisors[name] > 0 else score for name, score in scores.items()})
