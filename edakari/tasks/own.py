"""A task of a user's own: loaders, a loss and an evaluation as they are, without a recipe."""

from __future__ import annotations

import dataclasses as dc
import itertools
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from edakari.core.arguments import found_as, require, require_methods
from edakari.core.feeding import feed, moved_to
from edakari.core.modes import judging
from edakari.core.protocols import Batch, Split
from edakari.errors import DataError, ModelError, WrongArgument

__all__ = ["Task"]

CALIBRATION = 16
"""Batches of the training data that calibrate where nothing else is given."""

Loss = Callable[[nn.Module, Batch], torch.Tensor | Mapping[str, torch.Tensor]]
Judge = Callable[[nn.Module, Iterable[Batch]], Mapping[str, float]]


@dc.dataclass(frozen=True)
class Task:
    """What a network is for, said in Python; make one with `Task.of`. Fulfils `edakari.core.protocols.Task`.

    Args:
        given: the example input.
        data: batches of the splits that there are.
        loss_of: the loss of a network on a batch; None where nothing can be trained.
        judge: figures of a network on batches; None where it cannot be judged.
        larger_is_better: whether that holds for the first of them.
        seen: name of the first figure, once `judge` was asked; state.
    """

    given: Any
    data: Mapping[str, Iterable[Batch]] = dc.field(default_factory=dict)
    loss_of: Loss | None = None
    judge: Judge | None = None
    larger_is_better: bool = True
    seen: list[str] = dc.field(default_factory=list, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        example: Any,
        *,
        train: Iterable[Batch] | None = None,
        val: Iterable[Batch] | None = None,
        loss: Loss | None = None,
        evaluate: Judge | None = None,
        calibration: Iterable[Batch] | None = None,
        larger_is_better: bool = True,
    ) -> Task:
        """A task of what there is; each part may be left out, and what needs it says so before anything runs.

        Args:
            example: an input of the network as `edakari.trace` takes it: a tensor, a tuple of positional arguments, or
                a dict of keyword arguments.
            train: batches to train on, with a length; one pass is one epoch.
            val: batches to judge on.
            loss: from a network and a batch to the loss, one scalar tensor or several by name, which are added up.
                Batches are where the network is.
            evaluate: from a network in evaluation mode and batches to figures by name; the first one is the metric.
            calibration: batches for scores and statistics; None takes the first 16 batches of `train`.
            larger_is_better: False where a smaller metric is better; it then counts by its negative, `minus_NAME`.

        Raises:
            WrongArgument: a part is of another kind than what belongs there.
            DataError: batches can be gone through only once, or `evaluate` has nothing to judge on.
        """
        call = "Task.of(example, ...)"
        splits = {"train": train, "val": val, "calibration": calibration}
        data = {name: batches for name, batches in splits.items() if batches is not None}
        for name, batches in data.items():
            require(call, **{name: (batches, Iterable)})
            if iter(batches) is batches:
                raise DataError(f"{call}: {name} can be gone through only once; give a list or a DataLoader")
        for name, function in (("loss", loss), ("evaluate", evaluate)):
            if function is not None:
                require_methods(call, name, function, ("__call__",))
        if (evaluate is None) != (val is None):
            raise DataError(
                f"{call}: evaluate and val belong together, but {'val' if evaluate else 'evaluate'} is missing"
            )
        if train is not None and calibration is None:
            data["calibration"] = _First(train, CALIBRATION)
        return cls(example, data, loss, evaluate, larger_is_better)

    @property
    def metric(self) -> str:
        """See `edakari.core.protocols.Task`; known once `evaluate` was asked."""
        if not self.seen:
            raise DataError("this task has no metric before its `evaluate` was called")
        return self.seen[0]

    def example(self) -> Any:
        """See `edakari.core.protocols.Task`."""
        return self.given

    def batches(self, split: Split) -> Iterable[Batch]:
        """See `edakari.core.protocols.Task`; empty where there is no such split."""
        return self.data.get(split, ())

    def outputs(self, model: nn.Module, batch: Batch) -> Any:
        """See `edakari.core.protocols.Task`; of a batch, the network gets what the example shows."""
        return feed(model, batch, self.given)

    def objective(self, model: nn.Module, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Named loss terms of a batch, which `edakari.core.objective.objective_of` prefers to outputs and their loss.

        Raises:
            DataError: the task has no loss.
        """
        if self.loss_of is None:
            raise DataError("this task has no loss to train or score by; give one: Task.of(example, loss=...)")
        found = self.loss_of(model, moved_to(model, batch))
        return {"loss": found} if isinstance(found, torch.Tensor) else found

    def loss(self, outputs: Any, batch: Batch) -> Mapping[str, torch.Tensor]:
        """See `edakari.core.protocols.Task`: the loss is given a network that gives these outputs.

        Raises:
            ModelError: the loss asks more of the network than its outputs.
        """
        return self.objective(_Given(outputs), batch)

    def evaluate(self, model: nn.Module, split: Split = "val") -> Mapping[str, float]:
        """See `edakari.core.protocols.Task`; no figures where the task cannot judge.

        Raises:
            WrongArgument: the user's `evaluate` gives no figures.
        """
        if self.judge is None:
            return {}
        with judging(model):
            found = self.judge(model, _Moved(self.batches(split), model))
        figures = _figures(found)
        first = next(iter(figures))
        if not self.larger_is_better:
            figures = {f"minus_{first}": -figures[first], **figures}
        self.seen[:] = [next(iter(figures))]
        return figures


def _figures(found: Any) -> dict[str, float]:
    one = isinstance(found, numbers.Real) or (isinstance(found, torch.Tensor) and found.numel() == 1)
    named = {"score": found} if one else found
    try:
        figures = {str(name): float(value) for name, value in named.items()}
    except (AttributeError, TypeError, ValueError):
        figures = {}
    if not figures:
        raise WrongArgument(f"Task.of: evaluate gives a dict of named numbers, but gave {found_as(found)}")
    return figures


class _Given(nn.Module):
    """A network that has given its outputs already."""

    def __init__(self, outputs: Any) -> None:
        super().__init__()
        self.outputs = [outputs]  # no module, parameter or buffer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs, whatever comes in."""
        return self.outputs[0]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise ModelError(
                f"the loss of this task asks for {name!r} of the network, where a method has its outputs alone; use a "
                "loss that only calls the network, or a method that trains and scores by the loss as it is, such as "
                "'taylor'"
            ) from None


@dc.dataclass(frozen=True)
class _First:
    """The first batches of some."""

    batches: Iterable[Batch]
    most: int

    def __iter__(self) -> Iterator[Batch]:
        return itertools.islice(self.batches, self.most)


@dc.dataclass(frozen=True)
class _Moved:
    """Batches where a network is."""

    batches: Iterable[Batch]
    model: nn.Module

    def __iter__(self) -> Iterator[Batch]:
        return (moved_to(self.model, batch) for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]
