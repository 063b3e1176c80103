"""The memory format of a run's networks: asked for, or chosen by their layers, a trial, and where in doubt by time."""

from __future__ import annotations

import dataclasses as dc
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from edakari.core.copying import copied
from edakari.core.memory_format import AnyFormat, MemoryFormat, convolutions, in_memory_format, memory_format_of
from edakari.core.modes import eval_mode, training_code
from edakari.core.protocols import Task
from edakari.cost.example import arguments, mapped
from edakari.pipeline.latency import batched
from edakari.surgery.differences import other_inputs

__all__ = ["ChosenFormat", "chosen_format"]

FEW, MANY = 0.1, 0.5
"""Fractions of convolutions among the layers with weights: below the first, a network is none of convolutions; from the
second on, it is one. Between them, both formats are timed."""
ALIKE = 1e-2
"""Largest difference of outputs in both formats, compared with the largest output: rounding, not another result."""
GAIN = 0.95
"""Time in channels_last, as a fraction of that in contiguous, from which on channels_last is chosen."""
TIMED, ROUNDS = 8, 5
"""Images of a timed step, and timed steps in each format."""
Step = Callable[[], list[torch.Tensor]]


@dc.dataclass(frozen=True)
class ChosenFormat:
    """A memory format, and why it was chosen.

    Args:
        form: the format.
        why: the reason, for the log.
    """

    form: MemoryFormat
    why: str


def chosen_format(model: nn.Module, task: Task, example: Any) -> ChosenFormat:
    """Choose the memory format in which a network is trained and evaluated.

    Args:
        model: the network; it does not change.
        task: its task, which may ask for a format.
        example: an input of batch size 1, where the network is.
    """
    asked: AnyFormat = getattr(task, "memory_format", "auto")
    if asked != "auto":
        return ChosenFormat(asked, "asked for")
    if memory_format_of(model) == "channels_last":
        return ChosenFormat("channels_last", "the network has it already")
    refusal = _refusal(model, example)
    if refusal:
        return ChosenFormat("contiguous", refusal)
    trial = copied(model)
    failing = _failing(trial, batched(other_inputs(example), 2))
    if failing:
        return ChosenFormat("contiguous", failing)
    fraction, device = _fraction(model), next(convolutions(model)).weight.device
    told = f"{fraction * 100:.0f} % of its layers with weights are convolutions"
    if fraction >= MANY and device.type == "cpu":
        return ChosenFormat("channels_last", told)
    ratio = _ratio(trial, batched(other_inputs(example), TIMED))
    form: MemoryFormat = "channels_last" if ratio < GAIN else "contiguous"
    return ChosenFormat(form, f"{told}; a step in channels_last takes {ratio:.2f} of the time in contiguous")


def _fraction(model: nn.Module) -> float:
    found = sum(1 for _ in convolutions(model))
    others = sum(isinstance(module, nn.Linear | nn.MultiheadAttention) for module in model.modules())
    return found / max(1, found + others)


def _refusal(model: nn.Module, example: Any) -> str:
    """Say why a network and its inputs cannot gain by channels_last; nothing if they may."""
    layers = list(convolutions(model))
    if any(isinstance(module, nn.Conv3d | nn.ConvTranspose3d) for module in model.modules()):
        return "it has 3-D convolutions"
    if _fraction(model) < FEW:
        return "it has few or no 2-D convolutions"
    tensors = [*(module.weight for module in layers), *_floating(example)]
    if any(tensor.dtype == torch.float64 for tensor in tensors):
        return "it computes in float64"
    places = {tensor.device.type for tensor in tensors}
    return "" if places <= {"cpu", "cuda"} else f"it is on {', '.join(sorted(map(str, places)))}"


def _failing(trial: nn.Module, inputs: Any) -> str:
    """Say why a network's code does not allow channels_last, such as by `view` on feature maps; nothing if it does."""
    tried = 0
    for mode in (eval_mode, training_code):
        try:
            with mode(trial):
                expected = _gradients(trial, inputs)
        except Exception:  # a detector wants targets in training; the trial of the task gives it some
            continue
        tried += 1
        try:
            with mode(trial), in_memory_format(trial, "channels_last"):
                found = _gradients(trial, inputs)
        except Exception as error:
            return f"its code does not allow channels_last ({type(error).__name__})"
        if not _alike(expected, found):
            return "its outputs differ in channels_last"
    return "" if tried else "it cannot be tried on two images"


def _gradients(trial: nn.Module, inputs: Any) -> list[torch.Tensor]:
    """Outputs of a pass forward, after one backward; equal random numbers in each."""
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        args, keywords = arguments(mapped(inputs, torch.clone))  # some networks write to their inputs
        outputs = list(_floating(trial(*args, **keywords)))
        trained = [each for each in outputs if each.requires_grad]
        if trained:
            torch.autograd.backward(torch.stack([each.float().square().mean() for each in trained]).sum())
    trial.zero_grad(set_to_none=True)
    return [each.detach() for each in outputs]


def _ratio(trial: nn.Module, inputs: Any) -> float:
    """Median time of a step in channels_last over that in contiguous, alternately."""
    ratios = []
    for number in range(ROUNDS + 1):
        seconds: dict[MemoryFormat, float] = {}
        for form in ("contiguous", "channels_last"):
            with training_code(trial), in_memory_format(trial, form):
                seconds[form] = _seconds(lambda: _gradients(trial, inputs))
        if number:  # the first round warms up
            ratios.append(seconds["channels_last"] / seconds["contiguous"])
    return statistics.median(ratios)


def _seconds(step: Step) -> float:
    start = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _alike(expected: list[torch.Tensor], found: list[torch.Tensor]) -> bool:
    return len(expected) == len(found) and all(
        one.shape == other.shape
        and (not one.numel() or bool(((one - other).abs() <= ALIKE * one.abs().max().clamp(min=1e-6)).all()))
        for one, other in zip(expected, found, strict=True)
    )


def _floating(values: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point())
