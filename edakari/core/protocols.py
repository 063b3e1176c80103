"""The contracts between the parts: what a cost, a solver, a criterion, a task and a training hook promise."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edakari.core.budget import Limits
from edakari.core.costs import Cost
from edakari.core.graph import Graph
from edakari.core.settings import (
    BelowOne,
    Count,
    Fraction,
    LearningRate,
    NonNegative,
    OpenFraction,
    PositiveFraction,
    Whole,
    settings,
)
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
]

Batch = Any
"""Whatever a task's loader yields: tensors in tuples, lists and dicts."""

Split = Literal["train", "calibration", "val"]

Precision = Literal["auto", "fp32", "bf16", "fp16"]
"""Of a training; "auto" is bf16 where the device computes it, else fp32."""

Objective = Callable[[nn.Module, Batch], Mapping[str, torch.Tensor]]
"""Named loss terms of one batch, each a scalar tensor; `fit` minimises their sum."""

Values = Mapping[str, npt.NDArray[np.float64]]
"""For each group, the value of keeping its k best channels at entry k, float64 [size + 1]; non-decreasing."""


class Allocator(Protocol):
    """Spends a budget on groups whose values add up."""

    def allocate(self, groups: Sequence[Group], values: Values, limits: Limits) -> Sizes:
        """Sizes of most value within the limits.

        The result is legal (`legal_sizes`), within the limits by `limits.excess`, names every group, and is the same
        for the same arguments.

        Raises:
            InfeasibleBudget: no legal sizes are within the limits; says the smallest cost that can be reached.
        """


class Search(Protocol):
    """Looks for good sizes by trying them out."""

    def search(
        self,
        groups: Sequence[Group],
        limits: Limits,
        evaluate: Callable[[Sizes], float],
        rng: np.random.Generator,
    ) -> Iterator[tuple[Sizes, float]]:
        """The accepted sizes with their values, in order; the last ones are within the limits."""


class Criterion(Protocol):
    """Says how much each channel of each group matters."""

    def score(self, model: nn.Module, graph: Graph, batches: Iterable[Batch], task: Task | None) -> Scores:
        """Scores of all groups.

        Leaves weights, buffers, training mode and random state as found; equal on all ranks.

        Args:
            model: the network that `graph` was traced from.
            graph: its graph.
            batches: data for criteria that need some; others do not touch it.
            task: loss for criteria that need one.
        """


class Task(Protocol):
    """What the network is for: its data, its loss and its metrics.

    A task whose loss is not a function of the outputs alone has a method `objective(model, batch)` besides, which gives
    the named terms, and which training and gradients then go by.
    """

    @property
    def metric(self) -> str:
        """Name of the main figure in `evaluate`'s result; larger is better."""

    def example(self) -> Any:
        """An input of batch size 1 as `edakari.trace` takes it, with the right shapes and dtypes."""

    def batches(self, split: Split) -> Iterable[Batch]:
        """Batches of a split; one pass is one epoch. "calibration" is a part of the training data, never of "val"."""

    def outputs(self, model: nn.Module, batch: Batch) -> Any:
        """The network's outputs for a batch."""

    def loss(self, outputs: Any, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Named loss terms, each a scalar tensor."""

    def evaluate(self, model: nn.Module, split: Split = "val") -> Mapping[str, float]:
        """Metrics over a split, with the network in evaluation mode; leaves its mode as found."""


@runtime_checkable
class IndexedTask(Task, Protocol):
    """A task of classes whose examples have numbers, so that some can be chosen, and something kept for each."""

    @property
    def held_out(self) -> bool:
        """Whether no example of "calibration" is in "train"."""

    def labels(self, split: Split) -> npt.NDArray[np.int64]:
        """Class of each example of a split, int64 [examples]."""

    def batches_at(
        self, split: Split, parts: Sequence[npt.NDArray[np.int64]], *, augmented: bool = False
    ) -> Iterable[Batch]:
        """A batch (inputs, labels, numbers) for each array of numbers; every process gets all of it.

        Args:
            split: whose examples are numbered.
            parts: numbers of the examples of each batch.
            augmented: as in training, in the same way in every epoch.
        """

    def with_indices(self, views: int = 1) -> Iterable[Batch]:
        """The batches of "train", with numbers as their third entry.

        Several views are several draws of the augmentation of the same examples, one view after another: inputs, labels
        and numbers [views · examples].
        """

    def digest(self) -> str:
        """SHA-256 of the training examples, their order, and how they become inputs."""


@settings
class Schedule:
    """How long and how fast to train.

    Args:
        epochs: number of passes over the training data.
        lr: peak learning rate.
        optimizer: "sgd" (Nesterov momentum) or "adamw".
        momentum: momentum of SGD.
        weight_decay: weight decay of weights with two or more dimensions; norms and biases have none.
        warmup: fraction of all steps in which the learning rate rises linearly.
        final_lr: learning rate at the end of the cosine, as a fraction of `lr`.
        drops: positions, as fractions of all steps, at which the learning rate is multiplied by `drop`; if empty, it
            falls along a cosine.
        drop: factor of the learning rate at each of `drops`.
        accumulate: number of batches per optimizer step.
        clip: largest gradient norm; 0 does not clip.
        ema: decay of the averaged weights that are returned; 0 does not average.
        precision: "fp32", "bf16" or "fp16" autocast; "auto" is "bf16" where the device computes it, else "fp32".
    """

    epochs: Whole = 1
    lr: LearningRate = 0.01
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: BelowOne = 0.9
    weight_decay: NonNegative = 5e-4
    warmup: Fraction = 0.05
    final_lr: Fraction = 0.0
    drops: tuple[OpenFraction, ...] = ()
    drop: PositiveFraction = 0.2
    accumulate: Count = 1
    clip: NonNegative = 0.0
    ema: BelowOne = 0.0
    precision: Precision = "fp32"


@dc.dataclass
class StepState:
    """Where training stands, as hooks see it."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int
    epoch: int


class Hook:
    """What a method does inside of `fit`; every method does nothing here, override what you need."""

    def before_step(self, state: StepState) -> None:
        """Before the forward pass of an optimizer step."""

    def after_step(self, state: StepState) -> None:
        """After the optimizer step, gradients still there."""

    def end_epoch(self, state: StepState) -> None:
        """After the last step of an epoch."""

    def state_dict(self) -> Mapping[str, Any]:
        """Tensors, numbers and strings (in dicts and lists) that a resumed run needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""


class Fit(Protocol):
    """Trains a network in place, on the job's training data or other batches; the only way in which a method trains."""

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
            model: trained in place.
            objective: named loss terms of a batch.
            schedule: how long and how fast.
            hooks: called around every step.
            params: what to train; None is every parameter that requires a gradient.
            batches: what to train on, with a length; one pass is one epoch. None is the training data.
        """
