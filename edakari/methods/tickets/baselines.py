"""Baselines of tickets: masks in one shot by any score, and lottery tickets, which return to earlier weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from edakari.core.copying import copied
from edakari.core.networks import unwrapped
from edakari.core.processes import Processes
from edakari.core.protocols import Task
from edakari.core.weight_masks import WeightMasks
from edakari.errors import WeightsError
from edakari.graph import maskable_weights, trace
from edakari.methods.tickets.fixed_masks import with_zeros_
from edakari.methods.tickets.scores import ScoreName, ScoreSource, choose_weights
from edakari.methods.tickets.selecting import Scope

__all__ = ["one_shot", "rewind"]


def one_shot(
    model: nn.Module,
    task: Task,
    fraction: float,
    score: ScoreName = "magnitude",
    *,
    scope: Scope = "global",
    excluded: Sequence[str] = (),
    linear: bool = False,
    seed: int = 0,
) -> WeightMasks:
    """Choose masks of single weights at once, without training.

        masks = one_shot(model, task, 0.9, "snip")
        sparse = edakari.apply(model, edakari.mask_weights(graph, masks))
        edakari.train.fit(sparse, ..., hooks=[FixedMasks(sparse, masks)])

    Args:
        model: the network; it does not change.
        task: example, and data and loss for scores that need them.
        fraction: fraction of the maskable weights to mask.
        score: "magnitude", "random", "snip", "grasp" or "synflow"; see `edakari.methods.tickets.scores.score_weights`.
        scope: "global" compares the scores of all layers; "per_layer" masks the same fraction of each layer.
        excluded: names of weights or paths of modules that are not masked; they count in the fraction.
        linear: mask weights of linear layers and of attention too, not only of convolutions.
        seed: seed of random scores.

    Returns:
        A mask of each parameter that loses weights, equal on all processes.

    Raises:
        InfeasibleBudget: the excluded parameters leave too few weights to mask.
        EdakariError: the network cannot be traced, or scores cannot be computed.
    """
    network = unwrapped(model, "one_shot(model, task, fraction)")
    graph = trace(network, task.example())
    names = maskable_weights(graph, linear=linear)
    left = maskable_weights(graph, excluded, linear=linear)

    def chosen() -> dict[str, torch.Tensor]:
        source, stay = ScoreSource(task, seed=seed), [name for name in names if name not in left]
        masks = choose_weights(network, names, fraction, score, source, scope=scope, excluded=stay)
        return {name: mask.cpu() for name, mask in masks.items() if not bool(mask.all())}

    here = Processes.here()
    with here.ending_together():
        masks = chosen()
    return WeightMasks(here.agreed(masks))


def rewind(model: nn.Module, weights: Mapping[str, torch.Tensor], masks: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return a network to earlier weights, and set masked ones to zero: the lottery ticket of a trained network.

    Frankle & Carbin, The Lottery Ticket Hypothesis, ICLR 2019. Train the result with `FixedMasks`.

    Args:
        model: the network; it does not change.
        weights: its earlier weights and statistics, as `state_dict` returned them.
        masks: bool masks by parameter, True where a weight stays.

    Returns:
        A copy of the network with these weights.

    Raises:
        WeightsError: the weights are of another network; says what differs.
    """
    network = copied(model)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise WeightsError(f"rewind(model, weights, masks): these are no weights of the network: {error}") from None
    return with_zeros_(network, masks)
