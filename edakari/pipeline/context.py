"""What the stages of a run work on, made when first asked for."""

from __future__ import annotations

import dataclasses as dc
import fnmatch
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from edakari.core.budget import Budget
from edakari.core.copying import copied
from edakari.core.graph import Graph
from edakari.core.method import Outcome
from edakari.core.plan import KeepTokens, Plan
from edakari.core.protocols import Task
from edakari.core.space import Group, limited
from edakari.cost import COSTS, dense
from edakari.errors import RecipeError, nearest
from edakari.graph import trace
from edakari.pipeline import processes
from edakari.pipeline.folder import RunFolder
from edakari.pipeline.load import dense_network
from edakari.pipeline.settings import GroupSettings, Recipe
from edakari.surgery import load, load_plan
from edakari.tasks import task_from_settings
from edakari.train import FitSettings

__all__ = ["Notify", "Run", "chosen_groups", "costs_at", "stored_bytes"]

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
        """The groups that the recipe lets be sized."""
        return chosen_groups(self.graph, self.recipe.groups)

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


def chosen_groups(graph: Graph, settings: GroupSettings) -> tuple[Group, ...]:
    """The groups that may be sized, with their legal sizes.

    A pattern is met by a group's name, or by the dotted path of a module that has the group in the first dimension of
    a parameter, which is the width that the module gives out.

    Raises:
        RecipeError: a pattern is met by no group; says the nearest name.
    """

    def names(group: Group) -> set[str]:
        return {group.name, *(m.tensor.rpartition(".")[0] for m in graph.members(group.name) if m.dim == 0)}

    by_group = {group.name: names(group) for group in graph.groups}
    for key in ("include", "exclude"):
        for pattern in getattr(settings, key):
            if not any(fnmatch.filter(found, pattern) for found in by_group.values()):
                known = sorted(set().union(*by_group.values()) - {""})
                hint = nearest(pattern, known)
                raise RecipeError(
                    f"groups.{key}: {pattern!r} is met by no group or module"
                    + (f"; did you mean {hint!r}?" if hint else "")
                    + " `edakari inspect` lists the groups."
                )

    def met(group: Group, patterns: tuple[str, ...]) -> bool:
        return any(fnmatch.filter(by_group[group.name], pattern) for pattern in patterns)

    chosen = [
        group
        for group in graph.groups
        if (not settings.include or met(group, settings.include)) and not met(group, settings.exclude)
    ]
    return limited(chosen, round_to=settings.round_to, min_channels=settings.min_channels)


def costs_at(graph: Graph, sizes: Mapping[str, int]) -> dict[str, float]:
    """Every counted cost at some sizes."""
    return {name: float(cost(graph).total(sizes)) for name, cost in COSTS.items()}


def stored_bytes(model: nn.Module) -> int:
    """Bytes that the parameters and buffers take when stored."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
