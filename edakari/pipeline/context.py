"""The inputs of a run's stages. All of it follows from the arguments alone, whatever stages have run.

It separates what a run is asked for from how it is carried out:

- `Subject`: the network and its task, from a recipe (`RecipeSubject`) or from the caller (`GivenSubject`).
- `PruneSettings`: method, budget, groups, fine-tuning and the like.
- `Store`: where results are stored, a `RunFolder` or a `MemoryStore`.
- `Processes`: the processes of the run, and the device of this one.

`Run` holds these four, and `edakari.pipeline.runner.run_stages(run)` carries it out. `edakari.run(recipe, folder)` and
`edakari.prune(model, task, ...)` only differ in how they make a `Run`.
"""

from __future__ import annotations

import contextlib
import dataclasses as dc
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from torch import nn

from edakari.core.choosing import Chosen, choose
from edakari.core.copying import copied
from edakari.core.graph import Graph
from edakari.core.memory_format import MemoryFormat, in_memory_format, memory_format_of
from edakari.core.plan import KeepChannels, KeepTokens
from edakari.core.processes import ALONE, Processes
from edakari.core.protocols import Task
from edakari.core.space import Group
from edakari.core.watching import listening
from edakari.cost import dense
from edakari.cost.example import mapped
from edakari.graph import trace
from edakari.models.weights import weights_digest
from edakari.pipeline.load import dense_network
from edakari.pipeline.settings import PruneSettings, Recipe
from edakari.pipeline.sharing import SharedResults
from edakari.pipeline.store import Store, Version
from edakari.results import TraceResult
from edakari.surgery.differences import other_inputs
from edakari.tasks import task_from_settings
from edakari.tasks.own import Task as OwnTask
from edakari.tasks.sources.together import reading_together
from edakari.train import FitSettings, History, fit
from edakari.train.fits import fit_by
from edakari.train.folding import folded

__all__ = [
    "GivenSubject",
    "Notify",
    "RecipeSubject",
    "Run",
    "Subject",
    "frozen_teacher",
    "stored_bytes",
    "training_loop",
    "watching",
]

Notify = Callable[[str, str, Any], None]
"""Callback that takes a stage, what happens in it, and values.

What happens is "start", "done" or "kept" with the stage's result, "log" with an entry of the method's log, or "step"
and "epoch" with the values that `edakari.core.watching.Steps` explains: of a training, its epoch, step, loss, metrics
and learning rate.
"""


class Subject(Protocol):
    """A trained network and its task."""

    @property
    def name(self) -> str:
        """Name of the network in errors."""

    def model(self) -> nn.Module:
        """Return the trained network in evaluation mode, which the run does not change; called once."""

    def task(self) -> Task:
        """Return its data, loss and metrics; called once."""


@dc.dataclass(frozen=True)
class RecipeSubject:
    """The network and task of a recipe: the network is built and the data is opened on demand."""

    recipe: Recipe

    @property
    def name(self) -> str:
        """See `Subject`."""
        return f"{self.recipe.model.name} (model.weights: {self.recipe.model.weights})"

    def model(self) -> nn.Module:
        """See `Subject`."""
        return dense_network(self.recipe, self.opened if self.recipe.transfer is not None else None)

    def task(self) -> Task:
        """See `Subject`."""
        return self.opened

    @functools.cached_property
    def opened(self) -> Task:
        """The task; its data is opened once."""
        return task_from_settings(self.recipe.data, self.recipe.seed)


@dc.dataclass(frozen=True)
class GivenSubject:
    """A network and a task that the caller passes.

    Args:
        network: trained network; a copy in evaluation mode is pruned.
        given: task of the network.
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
    """One run; see the module's docstring.

    Args:
        settings: settings of the run.
        subject: network and task.
        store: store of the results.
        processes: processes that take part.
        notify: callback for the progress of the stages.
        shared: results that it shares with other runs; None shares nothing.
    """

    settings: PruneSettings
    subject: Subject
    store: Store
    processes: Processes = ALONE
    notify: Notify = silent
    shared: SharedResults | None = None

    @functools.cached_property
    def dense(self) -> nn.Module:
        """The unpruned network in evaluation mode, on the device of this process."""
        return self.subject.model().to(self.processes.device)

    @functools.cached_property
    def task(self) -> Task:
        """Data, loss and metrics; the dense network teaches where the task asks for it."""
        found = self.subject.task()
        if isinstance(found, OwnTask) and found.teaching is not None:
            return found.taught_by(frozen_teacher(self.dense, self._placed(found.example()), found.teaching.features))
        return found

    @functools.cached_property
    def example(self) -> Any:
        """An input of the network with batch size 1, on the device of this process."""
        return self._placed(self.task.example())

    def open_data(self) -> None:
        """Open the data of the task, which all processes must do at the same time; one of them lists files for all."""
        with reading_together(self.processes):
            _ = self.task

    def watched(self, stage: str) -> contextlib.AbstractContextManager[None]:
        """Context in which the steps of a stage go to the run's callback, if it has one."""
        return watching(stage, self.notify)

    def _placed(self, example: Any) -> Any:
        return mapped(example, lambda tensor: tensor.to(self.processes.device))

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

    @property
    def prunes_both(self) -> bool:
        """Whether the method's sizes are numbers of tokens and of channels."""
        return self.prunes_tokens and KeepChannels in self.settings.method.emits

    @functools.cached_property
    def groups(self) -> tuple[Group, ...]:
        """Groups that may be pruned according to the settings, or whose size the settings set."""
        return self.chosen.every

    @functools.cached_property
    def chosen(self) -> Chosen:
        """The groups' settings, applied to the network."""
        return choose(self.graph, self.settings.groups)

    def network(self, version: Version) -> nn.Module:
        """Read a network of the run from its store, on the device of this process."""
        return self.store.network(version, self.dense).to(self.processes.device)

    def inputs(self, *keys: str) -> dict[str, Any]:
        """Return what a shared result depends on: the network with its weights, its data, and keys of the recipe."""
        content = self.settings.content
        every = ("model", "transfer", "data", "device", "tf32", *keys)
        found = {key: content.get(key) for key in every}
        return {**found, "weights": weights_digest(self.dense), "memory_format": self.memory_format}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Compute the task's metrics of a network, as plain numbers whatever kind of number the task gives."""
        with in_memory_format(model, self.memory_format):
            return {str(name): float(value) for name, value in self.task.evaluate(model).items()}

    @property
    def memory_format(self) -> MemoryFormat:
        """Memory format of networks in training and evaluation, as the trace stage has chosen it."""
        if not self.store.done(TraceResult.stage):
            return memory_format_of(self.dense)
        return self.store.result(TraceResult).memory_format

    @property
    def train(self) -> Callable[..., History]:
        """The training loop, with the arguments of `edakari.train.fit`."""
        return training_loop(self.settings)

    def fitting(self, stage: str) -> FitSettings:
        """Settings of a training inside a stage."""
        return FitSettings(
            folder=self.store.work(stage),
            seed=self.settings.seed,
            device=self.settings.device,
            memory_format=self.memory_format,
            gradient_checkpointing=bool(self.settings.gradient_checkpointing),
            sync_bn=bool(self.settings.sync_bn),
            tf32=self.settings.tf32 is not False,
            title=stage,
        )


def watching(stage: str, notify: Notify) -> contextlib.AbstractContextManager[None]:
    """Context in which the steps of a stage go to a callback, unless it is `silent`.

    Args:
        stage: name of the stage.
        notify: the callback.
    """
    return contextlib.nullcontext() if notify is silent else listening(functools.partial(notify, stage))


def training_loop(settings: PruneSettings) -> Callable[..., History]:
    """The training loop of some settings, with the arguments of `edakari.train.fit`: edakari's own, or another."""
    return fit if settings.fit is None else fit_by(settings.fit)


def frozen_teacher(model: nn.Module, example: Any, untouched: Collection[str] = ()) -> nn.Module:
    """Copy a network to teach others, with folded batch normalisations.

    Args:
        model: the network; it does not change.
        example: an input of batch size 1, where the network is.
        untouched: modules whose outputs are compared with those of the network that is taught.
    """
    return folded(model, other_inputs(example), untouched)


def stored_bytes(model: nn.Module) -> int:
    """Number of bytes of the parameters and buffers when stored."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
