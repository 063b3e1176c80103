"""Protocols between the packages: costs, solvers, criteria, tasks and training hooks."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeGuard, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edakari.core.budget import Limits
from edakari.core.costs import Cost
from edakari.core.graph import Graph
from edakari.core.schedule import Precision, Schedule
from edakari.core.space import Group, Scores, Sizes

__all__ = [
    "Allocator",
    "Batch",
    "Cost",
    "Criterion",
    "Fit",
    "Hook",
    "IndexedTask",
    "Objective",
    "Precision",
    "Schedule",
    "Search",
    "Split",
    "StepState",
    "Task",
    "Values",
    "is_indexed",
]

Batch = Any
"""An item of a task's loader: tensors in tuples, lists and dicts."""

Split = Literal["train", "calibration", "val"]

Objective = Callable[[nn.Module, Batch], Mapping[str, torch.Tensor]]
"""Named loss terms of one batch, each a scalar tensor; `fit` minimises their sum."""

Values = Mapping[str, npt.NDArray[np.float64]]
"""For each group, the value of keeping its k best channels at entry k, float64 [size + 1]; non-decreasing."""


class Allocator(Protocol):
    """Distributes a budget over groups with additive values."""

    def allocate(self, groups: Sequence[Group], values: Values, limits: Limits) -> Sizes:
        """Find the sizes of largest value within the limits.

        The result is legal (`legal_sizes`), within the limits by `limits.excess`, names every group, and is the same
        for the same arguments.

        Raises:
            InfeasibleBudget: no legal sizes are within the limits; the message gives the smallest reachable cost.
        """


class Search(Protocol):
    """Searches for good sizes by evaluating candidates."""

    def search(
        self,
        groups: Sequence[Group],
        limits: Limits,
        evaluate: Callable[[Sizes], float],
        rng: np.random.Generator,
    ) -> Iterator[tuple[Sizes, float]]:
        """Yield accepted sizes with their values, in order; the last ones are within the limits."""


class Criterion(Protocol):
    """Scores the importance of each channel of each group."""

    def score(self, model: nn.Module, graph: Graph, batches: Iterable[Batch], task: Task | None) -> Scores:
        """Compute the scores of all groups.

        Does not change weights, buffers, training mode or random state; the scores are equal on all ranks.

        Args:
            model: the network that `graph` was traced from.
            graph: its graph.
            batches: data for criteria that need data; others do not iterate it. With several processes, they are the
                same on all, and each process scores its part.
            task: task with the loss, for criteria that need one.
        """


class Task(Protocol):
    """Task of a network: data, loss and metrics.

    A task whose loss is not a function of only the outputs has an additional method `objective(model, batch)`. It
    returns the named loss terms, and training and gradients use it. If one forward pass gives both, a method
    `outputs_and_terms(model, batch)` returns them for distillation.
    """

    @property
    def metric(self) -> str:
        """Name of the main metric in the result of `evaluate`; larger is better."""

    def example(self) -> Any:
        """Return an input of batch size 1 for `edakari.trace`, with the right shapes and dtypes."""

    def batches(self, split: Split) -> Iterable[Batch]:
        """Return the batches of a split; one pass is one epoch. "calibration" is a part of the training data.

        With several processes, each gets its part of "train" and "val", and all of "calibration": whoever goes through
        these takes its part of them by `edakari.core.processes.Processes.own`. Batches of "calibration" that are the
        part of a process already have a true attribute `divided`.
        """

    def outputs(self, model: nn.Module, batch: Batch) -> Any:
        """Compute the network's outputs for a batch."""

    def loss(self, outputs: Any, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Compute the named loss terms, each a scalar tensor."""

    def evaluate(self, model: nn.Module, split: Split = "val") -> Mapping[str, float]:
        """Compute metrics over a split, with the network in evaluation mode; restores its mode."""


@runtime_checkable
class IndexedTask(Task, Protocol):
    """A classification task with indexed examples, so that subsets can be drawn and per-example data cached."""

    @property
    def held_out(self) -> bool:
        """Whether no example of "calibration" is in "train"."""

    def labels(self, split: Split) -> npt.NDArray[np.int64]:
        """Return the class of each example of a split, int64 [examples]."""

    def batches_at(
        self, split: Split, parts: Sequence[npt.NDArray[np.int64]], *, augmented: bool = False
    ) -> Iterable[Batch]:
        """Return a batch (inputs, labels, indices) for each array of indices; every process gets all batches.

        Args:
            split: split of the examples.
            parts: indices of the examples of each batch.
            augmented: whether to augment as in training, equally in every epoch.
        """

    def with_indices(self, views: int = 1) -> Iterable[Batch]:
        """Return the batches of "train" with indices as their third entry.

        Each view is another random augmentation of the same examples. Views are concatenated: inputs, labels and
        indices have length views * examples.
        """

    def digest(self) -> str:
        """Compute the SHA-256 of the training examples, their order, and their preprocessing."""


def is_indexed(task: Task) -> TypeGuard[IndexedTask]:
    """Whether a task's examples have indices.

    Its other attributes are not asked: a metric, for example, may be known only after an evaluation.
    """
    return all(callable(getattr(task, name, None)) for name in ("labels", "batches_at", "with_indices", "digest"))


@dc.dataclass
class StepState:
    """State of a training, for hooks.

    Args:
        model: the network itself, not a wrapper around it.
        optimizer: its optimizer; `edakari.train.with_gradients` calls a function between gradients and update.
        step: index of the optimizer step, from 0 over all epochs.
        epoch: index of the epoch, from 0.
        loss: the objective's sum: of the step in `after_step`, as a detached tensor or a number, the mean over the
            epoch's steps in `end_epoch`; None before the forward pass, and in loops that do not tell it.
        averages: objects with which the loop itself averages weights, for `edakari.shrink`.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int
    epoch: int
    loss: float | torch.Tensor | None = None
    averages: tuple[Any, ...] = ()


class Hook:
    """Callbacks inside `fit`; all methods do nothing by default, so override what you need.

    In `end_epoch` a hook may make the network smaller, by `edakari.shrink(state.model, plan, state.optimizer,
    *state.averages)`, and on all processes alike. It then overrides `reshape`, too.
    """

    def before_step(self, state: StepState) -> None:
        """Run before the forward pass of an optimizer step."""

    def after_step(self, state: StepState) -> None:
        """Run after the optimizer step, before gradients are reset."""

    def end_epoch(self, state: StepState) -> None:
        """Run after the last step of an epoch."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state for a resumed run: tensors, numbers and strings in dicts and lists."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""

    def reshape(self, model: nn.Module) -> None:
        """Give a network the structure that it had when the loaded state was stored.

        A resumed training calls this after `load_state_dict` of all hooks, and loads the weights afterwards. Only a
        hook that makes the network smaller needs it.

        Args:
            model: the network as it was at the start of the training, changed in place.
        """


class Fit(Protocol):
    """Trains a network in place on the job's training data or other batches; methods train only through it.

    A training loop of any library becomes a `Fit` if it keeps these promises:

    - For each optimizer step, in this order: `before_step` of each hook, forward and backward passes of
      `schedule.accumulate` batches (fewer at the end of an epoch), clipping, `optimizer.step()`, `after_step` of each
      hook, and only then resets of gradients. `end_epoch` follows the last step of each epoch. Hooks are called in
      order. `StepState` says what they are given.
    - `len(batches)` batches are one epoch. If the batches have a method `set_epoch(epoch)`, it is called before each.
    - In `end_epoch` a hook may make the network smaller (`edakari.shrink`). The optimizer follows; a loop that keeps a
      list of parameters, such as for clipping, takes it from the optimizer or the network again.
    - Only `params` change, whether they belong to the network or not, and whatever their `requires_grad` was before;
      and statistics of batch normalisations that have a trained parameter, unless `params` is None: then all of them.
    - Whatever the schedule says is done or refused with an error; nothing is left out without a word.
      `edakari.train.set_rates` sets the learning rate and the momentum of a step in any optimizer.

    A fit that a user hands in (`edakari.prune(..., fit=...)`) is called with batches, and need not care for the rest:
    edakari sets `requires_grad` and training mode, seeds each step, adds the schedule's `l2` to the gradients by a hook
    (the fit is told no `l2`), stops a training whose values are no longer finite, restores modes and random states, and
    keeps the result of each finished call in the run folder. A call that was
    interrupted begins again from its first step. A fit that does not call the hooks is an error.
    """

    def __call__(
        self,
        model: nn.Module,
        objective: Objective,
        schedule: Schedule,
        *,
        hooks: Sequence[Hook] = (),
        params: Sequence[torch.Tensor] | None = None,
        batches: Iterable[Batch] | None = None,
    ) -> None:
        """Minimise the objective.

        Args:
            model: the network, trained in place.
            objective: function that returns the named loss terms of a batch.
            schedule: schedule and optimizer settings.
            hooks: hooks that are called around every step.
            params: parameters to train; None trains every parameter with `requires_grad`.
            batches: training batches with a length; one pass is one epoch. None takes the job's training data.
        """
