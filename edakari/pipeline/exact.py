"""The check of a run: its networks do what the plan says, in float64, on images that were not used for tracing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from edakari.core.copying import copied
from edakari.core.modes import judging
from edakari.core.plan import Plan
from edakari.core.weight_masks import WeightMasks
from edakari.cost import counted, dense
from edakari.cost.example import mapped
from edakari.cost.sparse import sparse_counts
from edakari.errors import ModelError, PlanError
from edakari.graph import call, fixed_graph
from edakari.pipeline.context import Run
from edakari.results import MaskedWeights
from edakari.surgery import held_masks, mask_weights
from edakari.surgery.differences import Differences, differences, other_inputs
from edakari.surgery.masked_values import values_in_masks

__all__ = ["TOLERANCE", "check_exact", "check_zeros", "cut_costs", "masked_counts"]

TOLERANCE = 1e-6
"""Largest allowed difference of outputs that should be equal in float64, as a fraction of the largest output."""
IMAGES = 4
"""Number of images in each of the two inputs."""


def check_exact(run: Run, plan: Plan) -> float:
    """Compare the cut network with its masked twin, and the dense network with what an empty plan makes of it.

    Args:
        run: the run.
        plan: plan for its dense network.

    Returns:
        The largest difference, as a fraction of the largest output.

    Raises:
        PlanError: two networks differ, or an output is not finite.
    """
    found = _differences(run, plan)
    for difference, what in (
        (found.empty, "the network and what an empty plan makes of it"),
        (found.cut, "the cut network and its masked twin"),
        (found.training or 0.0, "in training mode, two of these networks"),
    ):
        if not difference <= TOLERANCE:
            size = f"differ by {difference:.3g} of the largest output, where {TOLERANCE:g} is allowed"
            raise PlanError(
                f"{what} {size if math.isfinite(difference) else 'differ, or are not finite'}; this is "
                "a fault in edakari or in a rule of yours. Exclude the module with groups.exclude and report it."
            )
    return found.worst


def _differences(run: Run, plan: Plan) -> Differences:
    """Compare on the accelerator if it computes in float64, else on the CPU."""
    device = run.processes.device
    if device.type == "cuda":
        try:
            return _compared(run, plan, device)
        except (RuntimeError, ModelError):  # too little memory, or an operator without float64 there
            torch.cuda.empty_cache()
    return _compared(run, plan, torch.device("cpu"))


def _compared(run: Run, plan: Plan, device: torch.device) -> Differences:
    def moved(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.to(device)
        return tensor.double() if tensor.is_floating_point() else tensor

    network = copied(run.dense).to(device).double()
    inputs = [mapped(each, moved) for each in _inputs(run)]
    if not all(isinstance(each, torch.Tensor) for each in inputs):
        # a detector refuses targets whose boxes were shuffled to a height below 0
        inputs = [each for each in inputs if _accepted(network, each)] or [mapped(run.task.example(), moved)]
    return differences(network, plan, inputs, run.graph)


def check_zeros(model: nn.Module, masks: WeightMasks, what: str) -> None:
    """Check that masked weights of a network are zeros.

    Args:
        model: the network.
        masks: its masks.
        what: the network, for the message.

    Raises:
        PlanError: some are not; the message names a parameter.
    """
    for name, number in values_in_masks(model, masks):
        raise PlanError(
            f"{what} has {number} weights of {name!r} that are not zero, though its plan masks them; a training has "
            "filled them. Set them to zero by the masks of edakari.surgery.held_masks, or train with the masks held."
        )


def masked_counts(run: Run, plan: Plan) -> MaskedWeights | None:
    """Count what is left of the weights, by the plan's masks and those that the run's network had before."""
    before = held_masks(run.dense)
    whole = mask_weights(run.graph, before).then(plan)
    if plan.tokens() or not whole.packed_masks():
        return None
    found = sparse_counts(run.graph, whole)
    kept, weights = found.maskable
    return MaskedWeights(
        kept=kept,
        weights=weights,
        params=found.sparse_params,
        macs=found.sparse_macs,
        uniform_macs=found.uniform_macs,
        layers=tuple(layer for layer in found.layers if layer.maskable),
    )


def _accepted(network: nn.Module, inputs: Any) -> bool:
    """Return whether a network runs on these inputs."""
    try:
        with judging(network):
            call(network, inputs)
    except ModelError:
        return False
    return True


def _inputs(run: Run) -> Iterator[Any]:
    """Yield two different inputs: validation images if there are enough of the right shape, else random ones."""
    example = run.task.example()
    if not isinstance(example, torch.Tensor):
        for seed in (run.settings.seed, run.settings.seed + 1):
            yield other_inputs(example, seed)
        return
    generator = torch.Generator().manual_seed(run.settings.seed)
    batch = next(iter(run.task.batches("val")), None)
    images = batch[0] if isinstance(batch, (list, tuple)) else None
    if not isinstance(images, torch.Tensor) or images.shape[1:] != example.shape[1:]:
        if not example.is_floating_point():  # integers have a meaning, such as words
            yield from (other_inputs(example, run.settings.seed + each) for each in (0, 1))
            return
        images = torch.randn(2 * IMAGES, *example.shape[1:], generator=generator)
    some = images[:IMAGES].cpu()
    some = some.double() if some.is_floating_point() else some
    yield some
    others = images[IMAGES : 2 * IMAGES]
    yield others if len(others) else some + torch.randn(some.shape, generator=generator, dtype=some.dtype)


def cut_costs(run: Run, plan: Plan, pruned: nn.Module) -> dict[str, float]:
    """Count the costs of a cut network.

    They are those of its own graph. Where values decide how many regions a network looks at, as in two-stage detectors,
    they are counted for as many regions as the dense network has: the cut network finds others.

    Args:
        run: the run.
        plan: plan by which the network was cut.
        pruned: the cut network.
    """
    budget = run.settings.budget
    if run.graph.device != "meta" and not plan.tokens():
        return counted(run.graph, plan.sizes(), budget)
    return dense(fixed_graph(pruned, run.example), budget)
