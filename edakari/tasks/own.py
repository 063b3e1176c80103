"""A task of a user's own: loaders, a loss and an evaluation as they are, without a recipe."""

from __future__ import annotations

import dataclasses as dc
import itertools
import json
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypedDict, Unpack, get_args

import torch
from torch import nn

from edakari.core.arguments import found_as, require, require_methods
from edakari.core.comparing import Compare, Kept, captured
from edakari.core.feeding import feed, moved_to
from edakari.core.memory_format import AnyFormat
from edakari.core.modes import judging
from edakari.core.protocols import Batch, Split
from edakari.errors import DataError, ModelError, UnknownName, WrongArgument
from edakari.tasks.teaching import Features, Teacher, Teaching, teaching_of

__all__ = ["Task"]

CALIBRATION = 16
"""Batches of the training data that calibrate where nothing else is given."""

Loss = Callable[[nn.Module, Batch], torch.Tensor | Mapping[str, torch.Tensor]]
Judge = Callable[[nn.Module, Iterable[Batch]], Mapping[str, float]]
Inputs = Callable[[Batch], Any]
Draw = Callable[[torch.Tensor, Any], torch.Tensor]
"""From a picture, uint8 [3, H, W], and an image's entry in the batch or in the outputs to a picture with it."""


class Others(TypedDict, total=False):
    """Further keyword arguments of `Task.of`."""

    teacher: Teacher | Literal["dense"] | None
    distill: Compare | Literal["kl", "mse"] | None
    features: Features
    inputs: Inputs | None
    classes: Sequence[str]
    preprocessing: Mapping[str, Any]
    drawn: Draw | None
    memory_format: AnyFormat


@dc.dataclass(frozen=True)
class Task:
    """What a network is for, said in Python; make one with `Task.of`. Fulfils `edakari.core.protocols.Task`.

    Args:
        given: the example input.
        data: batches of the splits that there are.
        loss_of: the loss of a network on a batch; None where nothing can be trained.
        judge: figures of a network on batches; None where it cannot be judged.
        larger_is_better: whether that holds for the first of them.
        teaching: teacher, and what is compared with it; None without a teacher.
        inputs: gives the inputs of the network in a batch; None takes what the example shows.
        classes: names of the classes.
        preprocessing: what is done with images before they enter the network, for the run folder.
        drawn: draws what an image shows, for `edakari explain predictions`; None where nothing can be drawn.
        memory_format: memory format in which networks are trained and evaluated.
        seen: name of the first figure, once `judge` was asked; state.
    """

    given: Any
    data: Mapping[str, Iterable[Batch]] = dc.field(default_factory=dict)
    loss_of: Loss | None = None
    judge: Judge | None = None
    larger_is_better: bool = True
    teaching: Teaching | None = None
    inputs: Inputs | None = None
    classes: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = dc.field(default_factory=dict)
    drawn: Draw | None = None
    memory_format: AnyFormat = "auto"
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
        **others: Unpack[Others],
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
            others: `teacher` (a network, a function from a batch to outputs, or "dense", the network before pruning;
                its loss is added to `loss`, and without one the data needs no labels), `distill` (from the outputs of
                the network, those of the teacher, and the batch to one scalar tensor; "kl" compares logits [N, C] by
                their softmax, other tensors by squared difference, mappings and tuples by the sum over entries; "mse"
                takes squared differences; by default "kl", or nothing if there are `features`), `features` (dotted
                paths of modules whose outputs are compared by squared difference, with or without weights, such as
                {"layer3": 0.5}), `inputs` (from a batch to what the network gets: a tensor, a tuple or a dict; by
                default the entries that the example shows), `classes` (their names, for the run folder),
                `preprocessing` (what is done with images before they enter the network, for the run folder, such as
                {"mean": [0.5], "std": [0.2], "size": [224, 224]}), `drawn` (from a picture, uint8 [3, H, W], and an
                image's entry in the second part of a batch, or in the outputs, to a picture of it) and `memory_format`
                ("contiguous" or "channels_last", in which networks are trained and evaluated; by default "auto", which
                chooses).

        Raises:
            WrongArgument: a part is of another kind than what belongs there.
            DataError: batches can be gone through only once, or `evaluate` or a comparison has nothing to work on.
            UnknownName: the teacher has no module of the name in `features`, or there is no such argument.
        """
        call = "Task.of(example, ...)"
        unknown = others.keys() - Others.__annotations__.keys()
        if unknown:
            raise UnknownName("argument of Task.of", min(unknown), Others.__annotations__)
        splits = {"train": train, "val": val, "calibration": calibration}
        data = {name: batches for name, batches in splits.items() if batches is not None}
        for name, batches in data.items():
            require(call, **{name: (batches, Iterable)})
            if iter(batches) is batches:
                raise DataError(f"{call}: {name} can be gone through only once; give a list or a DataLoader")
        inputs, drawn = others.get("inputs"), others.get("drawn")
        for name, function in (("loss", loss), ("evaluate", evaluate), ("inputs", inputs), ("drawn", drawn)):
            if function is not None:
                require_methods(call, name, function, ("__call__",))
        if (evaluate is None) != (val is None):
            raise DataError(
                f"{call}: evaluate and val belong together, but {'val' if evaluate else 'evaluate'} is missing"
            )
        if train is not None and calibration is None:
            data["calibration"] = _First(train, CALIBRATION)
        teaching = teaching_of(call, others.get("teacher"), others.get("distill"), others.get("features", ()))
        about = _plain(call, others.get("classes", ()), others.get("preprocessing", {}))
        form = others.get("memory_format", "auto")
        if form not in get_args(AnyFormat):
            raise WrongArgument(f"{call}: memory_format is one of {', '.join(get_args(AnyFormat))}, but got {form!r}")
        return cls(example, data, loss, evaluate, larger_is_better, teaching, inputs, *about, drawn, form)

    def taught_by(self, dense: nn.Module) -> Task:
        """Return the task with this network as its teacher, if its teacher is the network before pruning."""
        if self.teaching is None or self.teaching.teacher is not None:
            return self
        with captured(dense, self.teaching.features):
            return dc.replace(self, teaching=dc.replace(self.teaching, teacher=dense, itself=True))

    def narrowed(self, kept: Kept) -> Task:
        """Return the task for a cut network: of the teacher's features, only those that the cut kept are compared."""
        return self if self.teaching is None else dc.replace(self, teaching=dc.replace(self.teaching, kept=kept))

    @property
    def has_loss(self) -> bool:
        """Whether a network can be trained: by a loss, or by a teacher."""
        return self.loss_of is not None or self.teaching is not None

    @property
    def num_outputs(self) -> int | None:
        """Number of classes; None if they were not named."""
        return len(self.classes) or None

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
        if self.inputs is not None:
            found = self.inputs(batch)
            return feed(model, found, found)
        return feed(model, batch, self.given)

    def objective(self, model: nn.Module, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Named loss terms of a batch, which `edakari.core.objective.objective_of` prefers to outputs and their loss.

        Raises:
            DataError: the task has no loss.
        """
        batch, teaching = moved_to(model, batch), self.teaching
        if teaching is None:
            return self._own_terms(model, batch)
        terms: dict[str, torch.Tensor] = {}
        outputs, asked = None, teaching.compare is not None or self.loss_of is None
        # the forward pass of the loss may be one of training, with other outputs than the teacher's
        with captured(model, () if asked else teaching.features) as seen:
            if self.loss_of is not None:
                terms |= self._own_terms(model, batch)
        if asked:
            with captured(model, teaching.features) as seen:
                outputs = self.outputs(model, batch)
        return {**terms, **teaching.terms(outputs, seen, batch, self.outputs)}

    def _own_terms(self, model: nn.Module, batch: Batch) -> Mapping[str, torch.Tensor]:
        if self.loss_of is None:
            raise DataError("this task has no loss to train or score by; give one: Task.of(example, loss=...)")
        found: Any = self.loss_of(model, batch)
        return found if isinstance(found, Mapping) else {"loss": found}

    def loss(self, outputs: Any, batch: Batch) -> Mapping[str, torch.Tensor]:
        """See `edakari.core.protocols.Task`: the loss is given a network that gives these outputs.

        Raises:
            ModelError: the loss asks more of the network than its outputs, or features of it are compared.
        """
        given, teaching = _Given(outputs), self.teaching
        if teaching is None:
            return self._own_terms(given, batch)
        if teaching.features:
            raise ModelError(
                f"features of {', '.join(teaching.features)} are compared with the teacher's, but a method has only "
                "outputs of the network; use a method that trains and scores by the loss as it is, such as 'taylor'"
            )
        terms = {} if self.loss_of is None else self._own_terms(given, batch)
        return {**terms, **teaching.terms(outputs, {}, batch, self.outputs)}

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


def _plain(
    call: str, classes: Sequence[str], preprocessing: Mapping[str, Any]
) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """What is stored in the run folder, as plain values."""
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise WrongArgument(f"{call}: classes takes a list of names, but got {classes!r}")
    try:
        return tuple(classes), json.loads(json.dumps(dict(preprocessing)))
    except (TypeError, ValueError) as error:
        raise WrongArgument(f"{call}: preprocessing takes texts, numbers and lists by name: {error}") from None


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
    """The first batches of the training, which are divided among processes as the training's are."""

    batches: Iterable[Batch]
    most: int
    divided: ClassVar[bool] = True

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
