"""Decisions between equal values, which two networks that differ by rounding must make alike to be compared.

Detectors rank boxes. Where an image is uniform, such as the margin of a letterboxed one, many boxes have one score, and
rounding decides which of them come first.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from edakari.graph.meta import operator_name
from edakari.graph.operator_mode import OperatorMode
from edakari.graph.operators import named

__all__ = ["Decision", "decisions_recorded", "decisions_repeated"]

DECIDING = frozenset(named("ranking", "extremum", "extreme_position")) | {"aten.argsort", "torchvision.nms"}
"""Operators whose result can change by much where an input changes by rounding."""


@dc.dataclass(frozen=True, slots=True)
class Decision:
    """What an operator decided.

    Args:
        name: name of the operator.
        inputs: the tensors that it was given.
        indices: what it chose, int64; None for an operator that returns values alone.
    """

    name: str
    inputs: tuple[torch.Tensor, ...]
    indices: torch.Tensor | None


@contextmanager
def decisions_recorded() -> Iterator[list[Decision]]:
    """Context that collects the decisions of a forward pass, in order."""
    found: list[Decision] = []

    def recorded(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        out = func(*args, **kwargs)
        name = operator_name(func)
        if name in DECIDING:
            found.append(Decision(name, tuple(each.clone() for each in _tensors(args)), _indices(out)))
        return out

    with OperatorMode(recorded):
        yield found


@contextmanager
def decisions_repeated(decisions: Sequence[Decision]) -> Iterator[None]:
    """Context in which a forward pass repeats decisions, as long as it decides between the same values up to rounding.

    Args:
        decisions: decisions of another network on the same input, in order.
    """
    rest = iter(decisions)

    def repeated(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        out = func(*args, **kwargs)
        name = operator_name(func)
        if name not in DECIDING:
            return out
        other = next(rest, None)
        if other is None or other.name != name or other.indices is None or not _alike(other.inputs, _tensors(args)):
            return out
        if isinstance(out, torch.Tensor):
            return other.indices
        return _chosen(name, args, kwargs, out, other.indices)

    with OperatorMode(repeated):
        yield


def _tensors(args: Sequence[Any]) -> tuple[torch.Tensor, ...]:
    return tuple(each for each in args if isinstance(each, torch.Tensor))


def _indices(out: Any) -> torch.Tensor | None:
    last = out if isinstance(out, torch.Tensor) else out[-1]
    return last.clone() if last.dtype == torch.int64 else None


def _alike(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> bool:
    return len(left) == len(right) and all(map(_close, left, right))


def _close(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if not left.is_floating_point() or not left.numel():
        return torch.equal(left, right)
    return bool((left - right).abs().max() <= torch.finfo(left.dtype).eps ** 0.5 * right.abs().max())


def _chosen(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any, indices: torch.Tensor) -> Any:
    """The values at other indices, with these."""
    position = 2 if name == "aten.topk" else 1
    dim = args[position] if len(args) > position else kwargs.get("dim", -1)
    wide = indices if indices.dim() == args[0].dim() else indices.unsqueeze(dim)
    return args[0].gather(dim, wide).view_as(out[0]), indices
