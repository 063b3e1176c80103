"""Scores of single weights: magnitude, random, SNIP, GraSP and SynFlow; larger means keep."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from edakari.core.copying import copied
from edakari.core.modes import judging
from edakari.core.objective import task_objective
from edakari.core.processes import Processes
from edakari.core.protocols import Batch, Task
from edakari.cost.example import arguments, mapped
from edakari.errors import DataError, ModelError, UnknownName
from edakari.methods.tickets.selecting import Scope, select
from edakari.train.scope import random_state_kept
from edakari.train.terms import loss_terms, total_loss

__all__ = [
    "SYNFLOW_ROUNDS",
    "WEIGHTS_ONLY",
    "ScoreName",
    "ScoreSource",
    "WeightScores",
    "choose_weights",
    "score_weights",
]

WeightScores = Mapping[str, torch.Tensor]
"""Scores by the name of the parameter, each in the shape of its parameter."""
ScoreName = Literal["magnitude", "random", "snip", "grasp", "synflow"]
SYNFLOW_ROUNDS = 100
NORMS = (nn.modules.batchnorm._BatchNorm,)


@dc.dataclass(frozen=True)
class ScoreSource:
    """What scores of weights are computed from, besides the weights.

    Args:
        task: data and loss for SNIP and GraSP, and the example for SynFlow; None suffices for magnitude and random.
        batches: number of training batches for SNIP and GraSP; processes that have parts of the data take as many each.
        seed: seed of random scores, and of dropout while gradients are computed.
    """

    task: Task | None = None
    batches: int = 1
    seed: int = 0

    def required(self, score: str) -> Task:
        """Return the task.

        Raises:
            DataError: there is none.
        """
        if self.task is None:
            raise DataError(f"the score {score!r} needs a task: data and loss, or an example; 'magnitude' needs none")
        return self.task


WEIGHTS_ONLY = ScoreSource()
"""A source of scores that need only weights."""


def score_weights(
    model: nn.Module, names: Sequence[str], score: ScoreName = "magnitude", source: ScoreSource = WEIGHTS_ONLY
) -> WeightScores:
    """Score single weights; the network, its statistics and all random states stay as they are.

    SNIP and GraSP share their batches among the processes of a job: all of them call this function.

    Args:
        model: the network.
        names: names of its parameters to score.
        score: "magnitude" is the absolute value. "random" is uniform. "snip" (Lee et al., SNIP, ICLR 2019) is the
            absolute value of weight times gradient of the loss. "grasp" (Wang et al., Picking Winning Tickets Before
            Training by Preserving Gradient Flow, ICLR 2020, equation 8) is weight times Hg, where H is the Hessian of
            the loss and g its gradient: the negative of the paper's score, whose largest weights go. "synflow"
            (Tanaka et al., Pruning Neural Networks without Any Data by Iteratively Conserving Synaptic Flow, NeurIPS
            2020) is weight times gradient of the summed outputs, for inputs of ones in the network of absolute weights.
        source: data and seed; see `ScoreSource`.

    Raises:
        DataError: the score needs data that `source` lacks.
        ModelError: scores are not finite.
        UnknownName: there is no such score.
    """
    if score not in SCORES:
        raise UnknownName("score of weights", score, get_args(ScoreName))
    with random_state_kept():
        torch.manual_seed(source.seed)
        found = SCORES[score](model, names, source)
    for name, each in found.items():
        if not bool(each.isfinite().all()):
            raise ModelError(
                f"the score {score!r} of {name!r} is not finite; are the network's weights finite? A very deep network "
                "may be too large for 'synflow': take another score"
            )
    return found


def choose_weights(
    model: nn.Module,
    names: Sequence[str],
    fraction: float,
    score: ScoreName = "magnitude",
    source: ScoreSource = WEIGHTS_ONLY,
    *,
    scope: Scope = "global",
    excluded: Sequence[str] = (),
) -> dict[str, torch.Tensor]:
    """Choose the weights that stay, in one round; in a hundred rounds for SynFlow, as its paper does.

    In round k of n, SynFlow masks all but (1 - fraction)^(k/n) of the weights and scores the others again.

    Args:
        model: the network; it does not change.
        names: names of its maskable parameters.
        fraction: fraction of their weights to mask.
        score: see `score_weights`.
        source: see `ScoreSource`.
        scope: see `edakari.methods.tickets.selecting.Scope`.
        excluded: names of parameters that count, but are not masked.

    Returns:
        For each parameter, bool in its shape: True where the weight stays.

    Raises:
        InfeasibleBudget: the excluded parameters leave too few weights to mask.
        EdakariError: see `score_weights`.
    """
    rounds = SYNFLOW_ROUNDS if score == "synflow" else 1
    now = copied(model) if rounds > 1 else model
    masks: dict[str, torch.Tensor] = {}
    for index in range(1, rounds + 1):
        scores = score_weights(now, names, score, source)
        # what was masked has a score of 0, as other weights may have
        scores = {name: each.masked_fill(~masks[name], -torch.inf) if masks else each for name, each in scores.items()}
        part = fraction if index == rounds else 1 - (1 - fraction) ** (index / rounds)
        masks = select(scores, part, scope, excluded)
        if rounds > 1:
            with torch.no_grad():
                for name, mask in masks.items():
                    now.get_parameter(name).mul_(mask)
    return masks


def _magnitude(model: nn.Module, names: Sequence[str], source: ScoreSource) -> WeightScores:
    return {name: model.get_parameter(name).detach().abs() for name in names}


def _random(model: nn.Module, names: Sequence[str], source: ScoreSource) -> WeightScores:
    generator = torch.Generator().manual_seed(source.seed)
    weights = {name: model.get_parameter(name) for name in names}
    return {name: torch.rand(weight.shape, generator=generator).to(weight.device) for name, weight in weights.items()}


def _snip(model: nn.Module, names: Sequence[str], source: ScoreSource) -> WeightScores:
    weights, losses = _losses(model, names, source, "snip")
    mean = _mean(weights, "snip", (_gradients(loss, weights) for loss in losses()))
    return {name: (weight * each).detach().abs() for name, weight, each in zip(names, weights, mean, strict=True)}


def _grasp(model: nn.Module, names: Sequence[str], source: ScoreSource) -> WeightScores:
    weights, losses = _losses(model, names, source, "grasp")
    # the gradient over all batches first, since H g of their mean is no mean of products over batches
    fixed = _mean(weights, "grasp", (_gradients(loss, weights) for loss in losses()))

    def product(loss: torch.Tensor) -> list[torch.Tensor]:
        flow = sum((g * h).sum() for g, h in zip(_gradients(loss, weights, graph=True), fixed, strict=True))
        return _gradients(flow, weights)

    products = _mean(weights, "grasp", map(product, losses()))
    return {name: (weight * each).detach() for name, weight, each in zip(names, weights, products, strict=True)}


@torch.no_grad()
def _synflow(model: nn.Module, names: Sequence[str], source: ScoreSource) -> WeightScores:
    """The flow through a copy in float64, as sums of products over a deep network's layers are very large."""
    linear = _linearised(copied(model).double())
    example = source.required("synflow").example()
    device = next(linear.parameters()).device
    ones = mapped(example, lambda each: torch.ones_like(each, dtype=_wide(each), device=device))
    weights = [linear.get_parameter(name).requires_grad_() for name in names]
    args, keywords = arguments(ones)
    with judging(linear), torch.enable_grad():
        leaves = [each for each in tree_leaves(linear(*args, **keywords)) if isinstance(each, torch.Tensor)]
        flow = sum(each.sum() for each in leaves if each.requires_grad)
        if not isinstance(flow, torch.Tensor):
            raise ModelError("the score 'synflow' found no output of the network that depends on its weights")
        grads = _gradients(flow, weights)
    return {name: (weight * grad).detach() for name, weight, grad in zip(names, weights, grads, strict=True)}


SCORES: Mapping[str, Callable[[nn.Module, Sequence[str], ScoreSource], WeightScores]] = {
    "magnitude": _magnitude,
    "random": _random,
    "snip": _snip,
    "grasp": _grasp,
    "synflow": _synflow,
}


def _losses(
    model: nn.Module, names: Sequence[str], source: ScoreSource, score: str
) -> tuple[list[torch.Tensor], Callable[[], Iterator[torch.Tensor]]]:
    """The weights of a copy in training mode, and a function that yields its loss on each of this process's batches."""
    task, network = source.required(score), copied(model).train()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    weights: list[torch.Tensor] = [network.get_parameter(name).requires_grad_() for name in names]
    objective, device = task_objective(task), weights[0].device
    batches: list[tuple[int, Batch]] = list(Processes.here().numbered(task.batches("train"), source.batches))

    def losses() -> Iterator[torch.Tensor]:
        for index, batch in batches:
            torch.manual_seed(source.seed + index)
            with torch.enable_grad():
                yield total_loss(loss_terms(objective(network, _moved(batch, device))))

    return weights, losses


def _mean(weights: Sequence[torch.Tensor], score: str, found: Iterable[list[torch.Tensor]]) -> list[torch.Tensor]:
    """The mean of what was found for each batch of all processes.

    Raises:
        DataError: no process has a batch.
    """
    sums, count = [torch.zeros_like(weight) for weight in weights], 0
    for each in found:
        sums = [total + value for total, value in zip(sums, each, strict=True)]
        count += 1
    here = Processes.here()
    batches = int(here.reduced(torch.tensor(count)))
    if not batches:
        raise DataError(f"the score {score!r} needs a training batch, but the task has none")
    return [here.reduced(total.detach()) / batches for total in sums]


def _moved(batch: Batch, device: torch.device) -> Batch:
    return mapped(batch, lambda each: each.to(device))


def _gradients(value: Any, weights: Sequence[torch.Tensor], graph: bool = False) -> list[torch.Tensor]:
    """Gradients; zeros for weights that have no part in the value."""
    found = torch.autograd.grad(value, weights, create_graph=graph, allow_unused=True)
    return [torch.zeros_like(weight) if grad is None else grad for weight, grad in zip(weights, found, strict=True)]


def _linearised(network: nn.Module) -> nn.Module:
    """Take absolute weights and leave out what is added, so that the outputs are sums of products of weights.

    A batch norm becomes the factor by which it multiplies, of weight and running deviation.
    """
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(False)
        parameter.abs_()
        if name.endswith("bias"):
            parameter.zero_()
    for module in network.modules():
        if isinstance(module, NORMS) and module.running_mean is not None:
            module.running_mean.zero_()
    return network


def _wide(tensor: torch.Tensor) -> torch.dtype:
    return torch.float64 if tensor.is_floating_point() else tensor.dtype
