"""How exactly a cut network does what the dense one does with the removed parts masked."""

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
    """Worst difference between `apply` and `simulate` in evaluation mode, relative to the largest of each output.

    What an empty plan makes of the network is compared with the network itself too, and all of it also on inputs with
    other values than the example's, as far as the network takes them. Where the plan's graph was made with `outputs`,
    only these are compared.

    Args:
        model: the dense network; in float64 the result is near 1e-15 where all agree.
        example: an input: a tensor, a tuple of positional arguments or a dict of keywords.
        plan: made for this network.
        graph: of the network as it is now, so that it need not be traced again; None traces it.

    Returns:
        Infinite where an output is not finite, where forms or types differ, or where all outputs are zeros.
    """
    network, graph = checked(plan, model, graph, "exactness(model, example, plan)")
    inputs = [example]
    with judging(network):
        names = outputs_of(plan.inputs)
        wanted = selected(call(network, example), names)
        try:
            other = other_inputs(example)
            inputs += [other] if finite(selected(call(network, other), names)) else []
        except ModelError:  # values that this network does not take
            pass
    return differences(network, plan, inputs, graph).worst if _says_something(wanted) else math.inf


def difference(found: Any, wanted: Any) -> float:
    """Worst difference between two outputs of one form, relative to the largest value of each wanted tensor.

    Infinite where forms, types or whole numbers differ, where a value is not finite, or where there is nothing but
    zeros to compare.
    """
    return worst_difference(found, wanted) if _says_something(wanted) else math.inf


def _says_something(wanted: Any) -> bool:
    """Whether some output is not zero: all zeros agree with whatever is wrong."""
    return any(leaf.numel() and bool(leaf.any()) for leaf in tensors_in(wanted))


def enlivened(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy in float64 and evaluation mode whose biases, scales and statistics are not the initial ones.

    What starts as zero or one hides a mask that leaks; here nothing does.

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
