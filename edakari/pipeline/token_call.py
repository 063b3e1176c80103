"""One call that prunes the tokens of a network to a budget, without data and without training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from edakari.core.arguments import require
from edakari.core.budget import Budget
from edakari.core.method import method_named, registered
from edakari.core.networks import unwrapped
from edakari.core.plan import KeepTokens, Plan
from edakari.errors import ModelError, UnknownName
from edakari.latency.bench import Tell
from edakari.latency.calibrate import FEWEST
from edakari.pipeline.runner import run_given
from edakari.pipeline.settings import LatencySettings, PruneSettings
from edakari.tasks.own import Task

__all__ = ["prune_tokens"]


def prune_tokens(
    model: nn.Module,
    example: torch.Tensor,
    budget: Budget | str,
    *,
    by: str = "tome",
    blocks: Sequence[int] = (),
    runtime: str = "onnxruntime",
    threads: int = 1,
    tell: Tell = lambda text: None,
) -> tuple[nn.Module, Plan]:
    """Fewer tokens in a trained vision transformer, as it is: no data, no training.

    Args:
        model: the network; stays as it is.
        example: its input, [1, ...]; tokens are pruned for this size of images.
        budget: such as "macs<=60%" or "latency<=12ms"; a latency is measured here, and met by measurement.
        by: method: "tome" merges similar tokens, "spvit" keeps the tokens that differ most from the mean of all and
            packs the others, "dynamicvit" keeps the same and drops the others, "evit" keeps those that the class token
            attends to and packs the others, "random_tokens" drops tokens at random.
        blocks: indices of the blocks in front of which tokens go; empty is the method's own choice.
        runtime: in which a latency is to be met.
        threads: CPU threads of one call.
        tell: told in words how it goes; `print` will do.

    Returns:
        The pruned network in evaluation mode, and its plan, for `edakari.save`.

    Raises:
        UnknownName: `by` is no method that prunes tokens.
        ModelError: the network has no tokens, or its attention cannot be wrapped, or its outputs are not finite.
        InfeasibleBudget: the budget cannot be met by fewer tokens.
        MeasurementError: the latency could not be measured or met.
    """
    require("prune_tokens(model, example, budget)", budget=(budget, (Budget, str)))
    if not isinstance(example, torch.Tensor):
        raise ModelError(f"tokens are pruned for one tensor as input, but the example is a {type(example).__name__}")
    able = [name for name, cls in registered().items() if KeepTokens in cls.emits]
    if by not in able:
        raise UnknownName("method that prunes tokens", by, able)
    method: Any = method_named(by)
    asked = Budget.parse(budget) if isinstance(budget, str) else budget
    timed = LatencySettings(runtime=runtime, threads=threads, networks=FEWEST) if asked.term("latency") else None
    settings = PruneSettings(method=method(blocks=tuple(blocks)), budget=asked, latency=timed, device="cpu")

    def notify(stage: str, state: str, figures: Any) -> None:
        if state == "log":
            tell(", ".join(f"{name} {value}" for name, value in figures.items()).removeprefix("stage "))

    result = run_given(
        unwrapped(model, "prune_tokens(model, example, budget)"), Task.of(example), settings, notify=notify
    )
    return result.model.eval(), result.plan
