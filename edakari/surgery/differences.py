"""How far a plan's networks are from what they have to be: nothing of it may be lost on a NaN, a type or a shape."""

from __future__ import annotations

import dataclasses as dc
import math
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map

from edakari.core.graph import Graph
from edakari.core.modes import judging
from edakari.core.plan import Plan
from edakari.graph import call, outputs_of, selected
from edakari.surgery.applying import apply
from edakari.surgery.simulation import simulate

__all__ = ["Differences", "differences", "other_inputs", "worst_difference"]


@dc.dataclass(frozen=True, slots=True)
class Differences:
    """Largest differences of outputs, relative to the largest value of each output; infinite where one is not finite.

    Args:
        empty: between the network itself and what an empty plan makes of it.
        cut: between the cut network and its masked twin.
    """

    empty: float
    cut: float

    @property
    def worst(self) -> float:
        """The larger of both."""
        return max(self.empty, self.cut)


def differences(model: nn.Module, plan: Plan, inputs: Sequence[Any], graph: Graph) -> Differences:
    """Compare what `apply` makes of a network with the network itself, and with what `simulate` makes of it.

    Where the plan's graph was made with `outputs`, only these are compared.

    Args:
        model: the dense network; in float64 the results are near 1e-15 where all is right.
        plan: made for this network.
        inputs: a tensor, a tuple of positional arguments or a dict of keywords each. Some should be others than the
            network was traced with: what was baked in by a trace does not show on its own example.
        graph: of the network as it is now.
    """
    unpruned = apply(model, dc.replace(plan, edits=()), graph)
    cut, masked = apply(model, plan, graph), simulate(model, plan, graph)
    empty = reduced = 0.0
    for each in inputs:
        own, same, small, twin = (
            selected(_outputs(network, each), outputs_of(plan.inputs)) for network in (model, unpruned, cut, masked)
        )
        empty, reduced = max(empty, worst_difference(same, own)), max(reduced, worst_difference(small, twin))
    return Differences(empty, reduced)


def worst_difference(found: Any, wanted: Any) -> float:
    """Largest difference between two outputs, relative to the largest value of each wanted tensor.

    Infinite where structure, shapes, types, whole numbers, flags or texts differ, where a value is not finite, and
    where there is no tensor to compare.
    """
    lefts, left_form = tree_flatten(_opened(found))
    rights, right_form = tree_flatten(_opened(wanted))
    if left_form != right_form or not any(isinstance(right, torch.Tensor) for right in rights):
        return math.inf
    return max(_difference(left, right) for left, right in zip(lefts, rights, strict=True))


def other_inputs(example: Any, seed: int = 0) -> Any:
    """Inputs of the same shapes and types with other values: those of the example in another order.

    So they stay in the range that the network takes. Floating values rise from the first to the last, whole numbers
    are shuffled, and floating tensors of one value only, such as zeros, are drawn from a normal distribution.

    Args:
        example: a tensor, a tuple of positional arguments or a dict of keywords.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)

    def varied(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.numel() == 0 or value.is_meta:
            return value
        flat = value.detach().cpu().flatten()
        if value.is_floating_point() and bool((flat == flat[0]).all()):
            return torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        # shuffled pixels have the statistics of the example, and a network that averages hardly tells them apart
        rising = value.is_floating_point() and bool((flat.diff() < 0).any())
        order = flat.argsort() if rising else torch.randperm(len(flat), generator=generator)
        return flat[order].view(value.shape).to(value)

    return tree_map(varied, example)


def _outputs(model: nn.Module, inputs: Any) -> Any:
    with judging(model):
        torch.manual_seed(0)  # what draws at random draws the same in all of them
        return call(model, inputs)


def _opened(tree: Any, depth: int = 4) -> Any:
    """A tree in which objects that pytorch does not look into, such as dataclasses, are dicts of their attributes."""

    def opened(leaf: Any) -> Any:
        if (
            isinstance(leaf, torch.Tensor | nn.Module | type | types.ModuleType)
            or not depth
            or not hasattr(leaf, "__dict__")
        ):
            return leaf
        return {type(leaf).__qualname__: {name: _opened(value, depth - 1) for name, value in vars(leaf).items()}}

    return tree_map(opened, tree)


def _difference(left: Any, right: Any) -> float:
    if not isinstance(left, torch.Tensor) or not isinstance(right, torch.Tensor):
        plain = isinstance(right, bool | int | float | complex | str | bytes | None)
        return 0.0 if type(left) is type(right) and (not plain or left == right) else math.inf
    if left.shape != right.shape or left.dtype != right.dtype:
        return math.inf
    if not right.numel():
        return 0.0
    if not (right.is_floating_point() or right.is_complex()):
        return 0.0 if bool((left == right).all()) else math.inf
    error, largest = float((left - right).abs().max()), float(right.abs().max())
    return error / (largest or 1.0) if math.isfinite(error) and math.isfinite(largest) else math.inf
