"""Tries a network and its task on one batch, with errors that say what failed and what was given; changes nothing."""

from __future__ import annotations

import contextlib
import copy
import dataclasses as dc
import numbers
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from edakari.core.arguments import found_as
from edakari.core.finite import finite, require_finite
from edakari.core.modes import judging
from edakari.core.processes import ALONE, Processes
from edakari.core.protocols import Batch, Objective, Split, Task
from edakari.core.user_code import cause
from edakari.errors import DataError, EdakariError, ModelError, WrongArgument
from edakari.graph import call
from edakari.tasks.own import Task as OwnTask
from edakari.train.terms import loss_terms, total_loss

__all__ = ["Trial", "described"]

SHOWN = 6
"""Entries of a batch that an error describes."""


@dc.dataclass(frozen=True)
class Trial:
    """A network and its task, to be tried on one batch.

    Args:
        dense: network in evaluation mode.
        task: its task.
        example: an input of batch size 1.
        processes: processes that take part.
    """

    dense: nn.Module
    task: Task
    example: Any
    processes: Processes = ALONE

    @property
    def where(self) -> str:
        """The task, as the subject of an error."""
        return "Task.of" if isinstance(self.task, OwnTask) else f"task {type(self.task).__name__}"

    @property
    def judges(self) -> bool:
        """Whether the task must have batches to evaluate on: one of a user's own need not evaluate."""
        return not isinstance(self.task, OwnTask) or self.task.judge is not None

    def first_batch(self, split: Split, *, asked: bool) -> Batch | None:
        """Read the first batch of a split; generators of loaders stay as they were.

        Args:
            split: the split.
            asked: whether the split must have batches.

        Raises:
            DataError: reading it fails, or there is none although it is asked for.
        """
        with self.telling(f"reading the first batch of {split!r}"):
            batches = self.task.batches(split)
            with _loader_kept(batches):
                iterator = iter(batches)
                try:
                    found = next(iterator, None)
                finally:
                    del iterator  # its workers end with it
        if found is None and asked:
            raise DataError(f"{self.where}: there are no batches in the split {split!r}, which this run needs")
        return found

    def outputs(self, model: nn.Module, split: Split, batch: Batch | None) -> None:
        """Run a network on a batch in evaluation mode, if there is one."""
        if batch is not None:
            with self.telling(f"the network, run on the first batch of {split!r},", batch), judging(model):
                self.task.outputs(model, batch)

    def finite_outputs(self, batch: Batch | None) -> None:
        """Run the network on a batch, or on the example without one, and require finite weights and outputs.

        Raises:
            ModelError: a value is not finite.
            DataError: the network cannot be run on it.
        """
        what = "the example" if batch is None else "the first batch of 'calibration'"
        with self.telling(f"the network, run on {what},", batch):
            again = call if batch is None else self.task.outputs
            given = self.example if batch is None else batch
            require_finite(self.dense, lambda: again(self.dense, given), "the dense network")

    def step(self, model: nn.Module, batch: Batch, objective: Objective) -> float:
        """Take the loss and its gradients of a training batch; both must be finite.

        Args:
            model: copy of the network; its gradients and statistics change.
            batch: a batch of the training data.
            objective: the loss.

        Returns:
            The seconds that this took.
        """
        start = time.perf_counter()
        with self.telling("the loss of the first training batch", batch), torch.enable_grad():
            model.train()
            terms = loss_terms(objective(model, batch))
        self._require_finite_terms(terms)
        with self.telling("the gradient of the first training batch's loss"):
            total_loss(terms).backward()  # type: ignore[no-untyped-call]
        grads = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
        if not grads:
            raise ModelError(
                f"{self.where}: no parameter of the network gets a gradient from the loss; compute it from the network "
                "that the loss is given"
            )
        wrong = next((name for name, grad in grads.items() if not finite(grad)), None)
        if wrong is not None:
            raise ModelError(
                f"{self.where}: the loss of the first training batch is finite ({_shown(terms)}), but its gradient in "
                f"{wrong!r} is not; a square root or a logarithm at 0 is a usual reason"
            )
        return time.perf_counter() - start

    def _require_finite_terms(self, terms: Mapping[str, torch.Tensor]) -> None:
        wrong = [name for name, term in terms.items() if not finite(term)]
        if wrong:
            raise ModelError(
                f"{self.where}: the loss {wrong[0]!r} of the first training batch is "
                f"{float(terms[wrong[0]].detach())}; check the batch (are its values and labels finite and in range?) "
                "and the loss"
            )

    def evaluation(self, model: nn.Module, batch: Batch | None) -> float:
        """Evaluate on one batch, or on all where a task cannot do with one; what comes must be numbers.

        Returns:
            Seconds of one batch; 0 if there is none.
        """
        task, found, start = self.task, None, time.perf_counter()
        if batch is not None:
            try:
                found = (_of_one_batch(task, batch).evaluate(model),)
            except WrongArgument:  # no numbers
                raise
            except Exception:
                found = None  # it may ask for more than one batch
        seconds = 0.0 if found is None else time.perf_counter() - start
        if not all(self.processes.gathered_objects(found is not None)):  # an evaluation may need all processes
            self.outputs(model, "val", batch)
            how = "evaluate(network, batches)" if isinstance(task, OwnTask) else "evaluate(network)"
            with self.telling(how, batch):
                found = (task.evaluate(model),)
        if found is not None and not isinstance(task, OwnTask):  # one that is said in Python is checked when asked
            self._require_figures(*found)
        return seconds

    def _require_figures(self, found: Any) -> None:
        named = isinstance(found, Mapping)
        wrong = [(name, value) for name, value in found.items() if not _number(value)] if named else []
        if not named or wrong:
            given = f"{wrong[0][0]!r} is {found_as(wrong[0][1])}" if wrong else f"gave {found_as(found)}"
            raise WrongArgument(f"{self.where}: evaluate(network) gives a dict of named numbers, but {given}")
        if found and self.task.metric not in found:
            raise WrongArgument(
                f"{self.where}: its metric {self.task.metric!r} is none of the numbers that evaluate(network) gives: "
                f"{', '.join(map(str, found))}"
            )

    @contextlib.contextmanager
    def telling(self, what: str, batch: Batch | None = None) -> Iterator[None]:
        """Context that turns errors of the user's own code into one that says where they came from and what was given.

        Args:
            what: what is tried, as the subject of an error.
            batch: batch that is given, if any.
        """
        try:
            yield
        except (EdakariError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            example = described(self.example)
            given = "" if batch is None else f". The batch is {described(batch)}; the example is {example}"
            raise DataError(f"{self.where}: {what} fails: {cause(error)}{given}") from error


def _of_one_batch(task: Task, batch: Batch) -> Task:
    """Return a copy of a task whose validation data is one batch."""
    if isinstance(task, OwnTask):
        return dc.replace(task, data={**task.data, "val": (batch,)}, seen=[])
    short: Any = copy.copy(task)
    object.__setattr__(short, "batches", lambda split: (batch,))  # whether it is frozen or not
    return cast(Task, short)


def _shown(terms: Mapping[str, torch.Tensor]) -> str:
    return ", ".join(f"{name} {float(term.detach()):.4g}" for name, term in terms.items())


def _number(value: Any) -> bool:
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.size == 1 if isinstance(value, np.ndarray) else value.numel() == 1
    return isinstance(value, numbers.Real)


def described(value: Any, depth: int = 3) -> str:
    """Describe a batch by the forms of its tensors.

    Args:
        value: tensors in tuples, lists and mappings.
        depth: number of levels that are described.
    """
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if depth and isinstance(value, Mapping):
        entries = [f"{key!r}: {described(each, depth - 1)}" for key, each in [*value.items()][:SHOWN]]
        return "{" + ", ".join(entries) + (", …" if len(value) > SHOWN else "") + "}"
    if depth and isinstance(value, list | tuple):
        entries = [described(each, depth - 1) for each in value[:SHOWN]]
        inside = ", ".join(entries) + (", …" if len(value) > SHOWN else "")
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return repr(value) if isinstance(value, int | float | None) else f"a {type(value).__name__}"


@contextlib.contextmanager
def _loader_kept(batches: Iterable[Batch]) -> Iterator[None]:
    """Context that restores the generators of a `DataLoader`, so that its order in training stays the same."""
    owners: list[Any] = [batches, getattr(batches, "batches", None)]
    owners += [getattr(each, "batch_sampler", None) for each in owners]
    owners += [getattr(each, "sampler", None) for each in owners]
    found = {id(each.generator): each.generator for each in owners
             if isinstance(getattr(each, "generator", None), torch.Generator)}  # fmt: skip
    states = [(generator, generator.get_state()) for generator in found.values()]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)
