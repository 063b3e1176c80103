"""What the stages of a run work on. Everything here follows from the inputs alone, whatever stage has been run.

The seam between what was asked for and how it is carried out:

- `Subject`: which network, and what it is for; made of a recipe (`RecipeSubject`) or handed in (`GivenSubject`).
- `PruneSettings`: method, budget, groups, fine-tuning and the like.
- `Store`: where results are kept, a `RunFolder` or a `MemoryStore`.
- `Processes`: which processes there are, and where this one computes.

`Run` holds these four, and `edakari.pipeline.runner.run_stages(run)` carries it out: `edakari.run(recipe, folder)` and
`edakari.prune(model, task, ...)` differ in how they make a `Run`, and in nothing else.
"""

from __future__ import annotations

import dataclasses as dc
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import nn

from edakari.core.choosing import Chosen, choose
from edakari.core.copying import copied
from edakari.core.graph import Graph
from edakari.core.plan import KeepTokens
from edakari.core.processes import ALONE, Processes
from edakari.core.protocols import Task
from edakari.core.space import Group
from edakari.cost import dense
from edakari.cost.example import mapped
from edakari.graph import trace
from edakari.pipeline.load import dense_network
from edakari.pipeline.settings import PruneSettings, Recipe
from edakari.pipeline.store import Store, Version
from edakari.tasks import task_from_settings
from edakari.train import FitSettings

__all__ = ["GivenSubject", "Notify", "RecipeSubject", "Run", "Subject", "stored_bytes"]

Notify = Callable[[str, str, Any], None]
"""Told of a stage, what became of it ("start", "done", "kept", "log"), and its result, or named figures of a log."""


class Subject(Protocol):
    """A trained network, and what it is for."""

    @property
    def name(self) -> str:
        """What errors call the network."""

    def model(self) -> nn.Module:
        """The trained network in evaluation mode, which the run leaves as it is; asked once."""

    def task(self) -> Task:
        """Its data, loss and metrics; asked once."""


@dc.dataclass(frozen=True)
class RecipeSubject:
    """What a recipe names: the network is built, and the data opened, when they are asked for."""

    recipe: Recipe

    @property
    def name(self) -> str:
        """See `Subject`."""
        return f"{self.recipe.model.name} (model.weights: {self.recipe.model.weights})"

    def model(self) -> nn.Module:
        """See `Subject`."""
        return dense_network(self.recipe)

    def task(self) -> Task:
        """See `Subject`."""
        return task_from_settings(self.recipe.data, self.recipe.seed)


@dc.dataclass(frozen=True)
class GivenSubject:
    """A network and a task that are there.

    Args:
        network: trained; a copy in evaluation mode is pruned.
        given: what it is for.
    """

    network: nn.Module
    given: Task

    @property
    def name(self) -> str:
        """See `Subject`."""
        return f"the {type(self.network).__name__}"

    def model(self) -> nn.Module:
        """See `Subject`."""
        return copied(self.network).eval()

    def task(self) -> Task:
        """See `Subject`."""
        return self.given


def silent(stage: str, state: str, figures: Any) -> None:
    """Says nothing."""


@dc.dataclass(frozen=True)
class Run:
    """One run; see the module.

    Args:
        settings: what is asked for.
        subject: of which network.
        store: where results are kept.
        processes: that take part.
        notify: told as stages go on.
    """

    settings: PruneSettings
    subject: Subject
    store: Store
    processes: Processes = ALONE
    notify: Notify = silent

    @functools.cached_property
    def dense(self) -> nn.Module:
        """The trained network as it came, in evaluation mode, where this process computes."""
        return self.subject.model().to(self.processes.device)

    @functools.cached_property
    def task(self) -> Task:
        """Data, loss and metrics."""
        return self.subject.task()

    @functools.cached_property
    def example(self) -> Any:
        """An input of the network, of batch size 1, where this process computes."""
        return mapped(self.task.example(), lambda tensor: tensor.to(self.processes.device))

    @functools.cached_property
    def graph(self) -> Graph:
        """Graph of the dense network."""
        return trace(self.dense, self.example)

    @functools.cached_property
    def dense_costs(self) -> Mapping[str, float]:
        """Costs of the dense network by name."""
        return dense(self.graph, self.settings.budget)

    @property
    def prunes_tokens(self) -> bool:
        """Whether the method's sizes are numbers of tokens."""
        return KeepTokens in self.settings.method.emits

    @functools.cached_property
    def groups(self) -> tuple[Group, ...]:
        """The groups that the settings let be sized, or give a size."""
        return self.chosen.every

    @functools.cached_property
    def chosen(self) -> Chosen:
        """What the settings say of the groups."""
        return choose(self.graph, self.settings.groups)

    def network(self, version: Version) -> nn.Module:
        """A network of the run from its store, where this process computes."""
        return self.store.network(version, self.dense).to(self.processes.device)

    def fitting(self, stage: str) -> FitSettings:
        """Settings of a training inside of a stage."""
        return FitSettings(
            folder=self.store.work(stage), seed=self.settings.seed, device=self.settings.device, title=stage
        )


def stored_bytes(model: nn.Module) -> int:
    """Bytes that the parameters and buffers take when stored."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
