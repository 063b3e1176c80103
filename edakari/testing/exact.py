"""How exactly a cut network does what the dense one does with the removed parts masked."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from edakari.core.copying import copied
from edakari.core.graph import Graph
from edakari.core.modes import eval_mode
from edakari.core.plan import Plan
from edakari.graph import call, outputs_of, selected, tensors_in
from edakari.surgery import apply, simulate
from edakari.surgery.apply import checked

__all__ = ["difference", "enlivened", "exactness"]


def exactness(model: nn.Module, example: Any, plan: Plan, graph: Graph | None = None) -> float:
    """Worst difference between `apply` and `simulate` in evaluation mode, relative to the largest of each output.

    Where the plan's graph was made with `outputs`, only these are compared.

    Args:
        model: the dense network; in float64 the result is near 1e-15 where the two agree.
        example: an input: a tensor, a tuple of positional arguments or a dict of keywords.
        plan: made for this network.
        graph: of the network as it is now, so that it need not be traced again; None traces it.
    """
    network, graph = checked(plan, model, graph, "exactness(model, example, plan)")
    cut, masked = apply(plan, network, graph), simulate(plan, network, graph)
    with eval_mode(cut, masked), torch.no_grad():
        names = outputs_of(plan.inputs)
        return difference(*(selected(call(network, example), names) for network in (cut, masked)))


def difference(found: Any, wanted: Any) -> float:
    """Worst difference between two outputs of one form, relative to the largest value of each wanted tensor.

    Infinite where the forms differ, or where there is nothing but zeros to compare.
    """
    lefts, rights = tensors_in(found), tensors_in(wanted)
    if [leaf.shape for leaf in lefts] != [leaf.shape for leaf in rights]:
        return math.inf
    if not any(right.is_floating_point() and right.numel() and bool(right.any()) for right in rights):
        return math.inf  # all zeros agree with whatever is wrong
    worst = 0.0
    for left, right in zip(lefts, rights, strict=True):
        if right.numel():
            largest = float(right.abs().max()) or 1.0
            error = float((left - right).abs().max() if right.is_floating_point() else (left != right).any())
            worst = max(worst, math.inf if math.isnan(error) else error / largest)
    return worst


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
                parameter.add_(0.5 * noise if parameter.dim() < 2 else 0.04 * (noise - 0.5))
        for name, buffer in lively.named_buffers():
            if "running" in name and buffer.is_floating_point():
                buffer.add_(torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype))
    return lively
