"""What the stages of a run work on, made when first asked for."""

from __future__ import annotations

import dataclasses as dc
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from edakari.core.budget import Budget
from edakari.core.choosing import Chosen, choose
from edakari.core.copying import copied
from edakari.core.graph import Graph
from edakari.core.method import Outcome
from edakari.core.plan import KeepTokens, Plan
from edakari.core.protocols import Task
from edakari.core.space import Group
from edakari.cost import COSTS, dense
from edakari.graph import trace
from edakari.pipeline import processes
from edakari.pipeline.folder import RunFolder
from edakari.pipeline.load import dense_network
from edakari.pipeline.settings import Recipe
from edakari.surgery import load, load_plan
from edakari.tasks import task_from_settings
from edakari.train import FitSettings

__all__ = ["Notify", "Run", "costs_at", "stored_bytes"]

Notify = Callable[[str, str, Mapping[str, Any]], None]
"""Told of a stage, what became of it ("start", "done", "kept", "log"), and its result or figures."""


@dc.dataclass
class Run:
    """One run: the recipe, its folder, and the networks as they come to be.

    Args:
        recipe: what is asked.
        folder: where results go.
        notify: told as stages go on.
        outcome: of the method, in the process that ran it.
    """

    recipe: Recipe
    folder: RunFolder
    notify: Notify
    outcome: Outcome | None = None

    @functools.cached_property
    def main(self) -> bool:
        """Whether this process writes; under `accelerate launch` one of them does."""
        return processes.is_main(cpu=self.recipe.device == "cpu")

    @functools.cached_property
    def device(self) -> torch.device:
        """Where networks run."""
        return processes.device(cpu=self.recipe.device == "cpu")

    @functools.cached_property
    def dense(self) -> nn.Module:
        """The trained network as it came, in evaluation mode."""
        return dense_network(self.recipe).to(self.device)

    @functools.cached_property
    def task(self) -> Task:
        """Data, loss and metrics."""
        return task_from_settings(self.recipe.data, self.recipe.seed)

    @functools.cached_property
    def graph(self) -> Graph:
        """Graph of the dense network."""
        return trace(self.dense, self.task.example().to(self.device))

    @functools.cached_property
    def dense_costs(self) -> Mapping[str, float]:
        """Costs of the dense network by name."""
        return dense(self.graph)

    @functools.cached_property
    def budget(self) -> Budget:
        """The budget in figures; shares of a latency are of the dense network's as it was measured."""
        timed = self.folder.read("latency").get("dense")
        measured = {"latency": timed["median_ms"]} if timed else {}
        return self.recipe.budget.absolute({**self.dense_costs, **measured})

    @functools.cached_property
    def prunes_tokens(self) -> bool:
        """Whether the method's sizes are numbers of tokens."""
        return KeepTokens in self.recipe.method[1].emits

    @functools.cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups that the recipe lets be sized, or gives a size."""
        return self.chosen.every

    @functools.cached_property
    def chosen(self) -> Chosen:
        """What the recipe says of the groups."""
        return choose(self.graph, self.recipe.groups)

    @functools.cached_property
    def plan(self) -> Plan:
        """The plan that the method made."""
        return load_plan(self.folder.pruned)

    def pruned(self) -> nn.Module:
        """The network as pruned, before fine-tuning, with its weights from the folder."""
        return load(self.folder.pruned, copied(self.dense)).to(self.device)

    def final(self) -> nn.Module:
        """The finished network, with its weights from the folder."""
        return load(self.folder.path, copied(self.dense)).to(self.device)

    def fitting(self, stage: str) -> FitSettings:
        """Settings of a training inside of a stage."""
        return FitSettings(
            folder=self.folder.work(stage), seed=self.recipe.seed, device=self.recipe.device, title=stage
        )


def costs_at(graph: Graph, sizes: Mapping[str, int]) -> dict[str, float]:
    """Every counted cost at some sizes."""
    return {name: float(cost(graph).total(sizes)) for name, cost in COSTS.items()}


def stored_bytes(model: nn.Module) -> int:
    """Bytes that the parameters and buffers take when stored."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
