"""Calibration data for a quantised network: the inputs that it gets from its task."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from edakari.core.modes import judging
from edakari.core.protocols import Task
from edakari.cost.example import mapped, named_tensors
from edakari.errors import DataError

__all__ = ["LEAST", "calibration_inputs", "named_as", "pieces"]

LEAST = 32
"""Smallest number of calibration images: with fewer, the ranges of activations depend on single images."""


def calibration_inputs(model: nn.Module, example: Any, task: Task, images: int) -> list[dict[str, torch.Tensor]]:
    """Return inputs of a network from the calibration data of its task, in pieces of the example's batch size.

    Args:
        model: network; it does not change.
        example: an input of the exported file: a tensor, a tuple of positional arguments or a dict of keywords.
        task: task whose split "calibration" is read.
        images: largest number of images.

    Raises:
        DataError: there are fewer than `LEAST` images, or their shape is not the example's.
    """
    size = _batch(example)
    found: list[dict[str, torch.Tensor]] = []
    for inputs in (named_as(each, example) for each in _inputs(model, task)):
        _require_shape(inputs, named_tensors(example))
        found += itertools.islice(pieces(inputs, size), max(0, -(-images // size) - len(found)))
        if len(found) * size >= images:
            break
    if len(found) * size < min(LEAST, images) or not found:
        raise DataError(
            f'int8 takes at least {LEAST} calibration images, but the split "calibration" has {len(found) * size}; '
            "raise data.calibration_size, or give a task more calibration batches"
        )
    return found


def named_as(inputs: Any, example: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of some inputs by the names and in the order of an example's tensors.

    A network of one tensor may be called by position or by keyword; the names are those of the example either way.

    Args:
        inputs: inputs in any form.
        example: input with which the network was exported.

    Raises:
        DataError: the number of tensors is not the example's.
    """
    theirs, names = named_tensors(inputs), list(named_tensors(example))
    if len(theirs) != len(names):
        raise DataError(f"a batch has {len(theirs)} inputs, but the exported network takes {len(names)}")
    if set(theirs) == set(names):
        return {name: theirs[name] for name in names}
    return dict(zip(names, theirs.values(), strict=True))


def pieces(inputs: Any, size: int) -> Iterator[Any]:
    """Divide inputs of a network into pieces of a batch size; the last one is filled up with the last images.

    Args:
        inputs: inputs in the form of an example.
        size: number of images of each piece.
    """
    count = _batch(inputs)
    for first in range(0, count, size):
        start = max(0, min(first, count - size))

        def part(tensor: torch.Tensor, start: int = start) -> torch.Tensor:
            if not tensor.dim() or tensor.shape[0] != count:
                return tensor
            some = tensor[start : start + size]
            return some if len(some) == size else torch.cat([some, some[-1:].expand(size - len(some), *some.shape[1:])])

        yield mapped(inputs, part)


def _batch(inputs: Any) -> int:
    return next((len(tensor) for tensor in named_tensors(inputs).values() if tensor.dim()), 1)


def _inputs(model: nn.Module, task: Task) -> Iterator[Any]:
    """The network's inputs in each batch of the calibration data, on the CPU."""
    seen: list[Any] = []

    def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(kwargs if kwargs else args[0] if len(args) == 1 else args)

    for batch in task.batches("calibration"):
        handle = model.register_forward_pre_hook(look, with_kwargs=True)
        try:
            with judging(model):
                task.outputs(model, batch)
        finally:
            handle.remove()
        yield from (mapped(each, torch.Tensor.cpu) for each in seen)
        seen.clear()


def _require_shape(inputs: Mapping[str, torch.Tensor], example: Mapping[str, torch.Tensor]) -> None:
    for name, expected in example.items():
        if inputs[name].shape[1:] != expected.shape[1:]:
            raise DataError(
                f"calibration images have shape {tuple(inputs[name].shape[1:])}, but the exported network takes "
                f"{tuple(expected.shape[1:])} as {name!r}; give calibration data of this size"
            )
