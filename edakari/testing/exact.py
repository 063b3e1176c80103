"""Numerical comparison of a pruned network with the dense network whose removed parts are masked."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from edakari.core.copying import copied
from edakari.core.finite import finite
from edakari.core.graph import Graph
from edakari.core.modes import judging
from edakari.core.plan import Plan
from edakari.errors import ModelError
from edakari.graph import call, outputs_of, selected, tensors_in
from edakari.surgery.applying import checked
from edakari.surgery.differences import differences, other_inputs, worst_difference

__all__ = ["difference", "enlivened", "exactness"]


def exactness(model: nn.Module, example: Any, plan: Plan, graph: Graph | None = None) -> float:
    """Compute the largest difference between `apply` and `simulate`, relative to each output's largest value.

    The result of an empty plan is compared with the network itself, too. All comparisons are repeated on inputs with
    other values than the example, if the network accepts them. If the plan's graph was traced with `outputs`, only
    these are compared.

    Args:
        model: the dense network; in float64, correct results are near 1e-15.
        example: an input: a tensor, a tuple of positional arguments or a dict of keywords.
        plan: a plan that was made for this network.
        graph: graph of the network in its current state, to avoid a new trace; None traces the network.

    Returns:
        The difference; infinite if an output is not finite, if shapes or types differ, or if all outputs are zero.
    """
    network, graph = checked(plan, model, graph, "exactness(model, example, plan)")
    inputs = [example]
    with judging(network):
        names = outputs_of(plan.inputs)
        wanted = selected(call(network, example), names)
        try:
            other = other_inputs(example)
            inputs += [other] if finite(selected(call(network, other), names)) else []
        except ModelError:  # values that this network does not accept
            pass
    return differences(network, plan, inputs, graph).worst if _says_something(wanted) else math.inf


def difference(found: Any, wanted: Any) -> float:
    """Compute the largest difference between two outputs, relative to each wanted tensor's largest value.

    The result is infinite if shapes, types or integers differ, if a value is not finite, or if all values are zero.
    """
    return worst_difference(found, wanted) if _says_something(wanted) else math.inf


def _says_something(wanted: Any) -> bool:
    """Return whether an output is not zero: zeros would hide errors."""
    return any(leaf.numel() and bool(leaf.any()) for leaf in tensors_in(wanted))


def enlivened(model: nn.Module, seed: int = 0) -> nn.Module:
    """Copy a network to float64 and evaluation mode, with random biases, scales and statistics.

    Initial values of zero or one could hide an incomplete mask; random values cannot.

    Args:
        model: any network.
        seed: equal seeds give equal weights.
    """
    lively = copied(model, {}).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lively.parameters():
            if parameter.is_floating_point():
                noise = torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype)
                # in place: some networks have 10^8 weights
                parameter.add_(noise.mul_(0.5) if parameter.dim() < 2 else noise.sub_(0.5).mul_(0.04))
        for name, buffer in lively.named_buffers():
            if "running" in name and buffer.is_floating_point():
                buffer.add_(torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype))
    return lively
