"""Numerical comparison of pruned, masked and dense networks; NaN, other types and other shapes count as failures."""

from __future__ import annotations

import dataclasses as dc
import functools
import math
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map

from edakari.core.finite import finite
from edakari.core.graph import Graph
from edakari.core.modes import judging, training_code
from edakari.core.plan import Plan
from edakari.errors import ModelError, PlanError
from edakari.graph import call, outputs_of, selected
from edakari.surgery.applying import apply
from edakari.surgery.decisions import decisions_recorded, decisions_repeated
from edakari.surgery.randomness import drawn_shapes, without_dropout
from edakari.surgery.simulation import buffers_restored, simulate

__all__ = ["Differences", "differences", "other_inputs", "worst_difference"]


@dc.dataclass(frozen=True, slots=True)
class Differences:
    """Largest differences of outputs, relative to each output's largest value; infinite for non-finite values.

    Args:
        empty: difference between the network and the result of an empty plan.
        cut: difference between the cut network and the masked network.
        training: the larger of the two in training mode, without dropout; None if it cannot be compared, or if the
            network computes the same as in evaluation mode.
    """

    empty: float
    cut: float
    training: float | None = None

    @property
    def worst(self) -> float:
        """The largest difference."""
        return max(self.empty, self.cut, self.training or 0.0)


def differences(model: nn.Module, plan: Plan, inputs: Sequence[Any], graph: Graph) -> Differences:
    """Compare the result of `apply` with the network itself, and with the result of `simulate`.

    If the graph was traced with `outputs`, only these outputs are compared. If the code for training was traced too,
    its outputs are compared as well, for inputs that it takes, such as the images and targets of a detector; layers
    stay in evaluation mode. Where values are equal up to rounding, such as scores of boxes in a uniform part of an
    image, the masked network chooses as the cut one does.

    Args:
        model: the dense network; in float64, correct results are near 1e-15.
        plan: a plan that was made for this network.
        inputs: inputs, each a tensor, a tuple of positional arguments or a dict of keywords. Some should differ from
            the traced example, which does not reveal constants that the trace baked in.
        graph: graph of the network in its current state.

    Raises:
        PlanError: the cut network fails in training mode.
    """
    unpruned = apply(model, dc.replace(plan, edits=()), graph)
    networks = (model, unpruned, apply(model, plan, graph), simulate(model, plan, graph))
    names, empty, reduced, trained = outputs_of(plan.inputs), 0.0, 0.0, list[float]()
    for each in inputs:
        outputs = _of_each(networks, functools.partial(_outputs, inputs=each))
        own, same, small, twin = (selected(found, names) for found in outputs)
        empty, reduced = max(empty, worst_difference(same, own)), max(reduced, worst_difference(small, twin))
        if graph.with_training and _trains_otherwise(model, each, outputs[0]):
            trained.append(_difference_in_training(networks, each, names))
    return Differences(empty, reduced, max(trained, default=None))


def _of_each(networks: Sequence[nn.Module], run: Callable[[nn.Module], Any]) -> list[Any]:
    """What is run on each network; the last network repeats the decisions of the one before."""
    found = [run(network) for network in networks[:-2]]
    with decisions_recorded() as decisions:
        found.append(run(networks[-2]))
    with decisions_repeated(decisions):
        found.append(run(networks[-1]))
    return found


def _trains_otherwise(model: nn.Module, inputs: Any, evaluated: Any) -> bool:
    """Whether a network takes these inputs in training mode too, and repeatedly gives the same other outputs then."""
    try:
        own = _training_outputs(model, inputs)
    except ModelError:  # it needs more than these inputs
        return False
    if not worst_difference(own, evaluated) or not finite(own):
        return False
    return not worst_difference(_training_outputs(model, inputs), own)


def _difference_in_training(networks: Sequence[nn.Module], inputs: Any, names: tuple[str, ...] | None) -> float:
    """The larger difference in training mode.

    Args:
        networks: the dense one, what an empty plan makes of it, the cut one and the masked one.
        inputs: as the networks take them.
        names: the outputs that are compared; all, if the network does not return these in training.
    """
    draws = []

    def run(network: nn.Module) -> Any:
        with drawn_shapes() as drawn:
            draws.append(drawn)
            try:
                return _counting(_training_outputs(network, inputs), names)
            except ModelError as error:
                raise PlanError(f"in training mode, the cut network fails: {error.__cause__ or error}") from error

    own, same, small, twin = _of_each(networks, run)
    empty = worst_difference(same, own)
    # where each channel gets noise of its own, networks of different widths are given different noise
    return max(empty, worst_difference(small, twin)) if draws[2] == draws[3] else empty


def _counting(outputs: Any, names: tuple[str, ...] | None) -> Any:
    try:
        return selected(outputs, names)
    except ModelError:
        return outputs


def _training_outputs(model: nn.Module, inputs: Any) -> Any:
    """The outputs of the network's code for training, without dropout."""
    with judging(model), training_code(model), buffers_restored(model), without_dropout():
        torch.manual_seed(0)
        return call(model, inputs)


def worst_difference(found: Any, wanted: Any) -> float:
    """Compute the largest difference between two outputs, relative to each wanted tensor's largest value.

    The result is infinite if structure, shapes, types, integers, booleans or strings differ, if a value is not finite,
    or if there is no tensor to compare.
    """
    lefts, left_form = tree_flatten(_opened(found))
    rights, right_form = tree_flatten(_opened(wanted))
    if left_form != right_form or not any(isinstance(right, torch.Tensor) for right in rights):
        return math.inf
    return max(_difference(left, right) for left, right in zip(lefts, rights, strict=True))


def other_inputs(example: Any, seed: int = 0) -> Any:
    """Make inputs of the same shapes and types by permuting the values of an example.

    So the values stay in the range that the network expects. Floating values are sorted and integers are shuffled.
    Constant floating tensors, such as zeros, are drawn from a normal distribution.

    Args:
        example: a tensor, a tuple of positional arguments or a dict of keywords.
        seed: seed of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)

    def varied(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.numel() == 0 or value.is_meta:
            return value
        flat = value.detach().cpu().flatten()
        if value.is_floating_point() and bool((flat == flat[0]).all()):
            return torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        # shuffled pixels keep the statistics of the example, so a network that averages hardly distinguishes them
        rising = value.is_floating_point() and bool((flat.diff() < 0).any())
        order = flat.argsort() if rising else torch.randperm(len(flat), generator=generator)
        return flat[order].view(value.shape).to(value)

    return tree_map(varied, example)


def _outputs(model: nn.Module, inputs: Any) -> Any:
    with judging(model):
        torch.manual_seed(0)  # random operations give the same numbers in all networks
        return call(model, inputs)


def _opened(tree: Any, depth: int = 4) -> Any:
    """Turn objects that pytree does not open, such as dataclasses, into dicts of their attributes."""

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
