"""What the dense and the pruned network answer on the same validation data, as plain values."""

from __future__ import annotations

import dataclasses as dc
from typing import ClassVar, Literal

from edakari.core.settings import NonNegative, Whole
from edakari.errors import SettingsError

__all__ = ["AnswersResult", "ChangedImage", "ClassAnswers", "Confusion", "Outcomes"]


@dc.dataclass(frozen=True, kw_only=True)
class ClassAnswers:
    """A figure of one class.

    Args:
        name: name of the class.
        count: number of its validation images, pixels or objects.
        dense: figure of the dense network, in 0 to 1.
        pruned: figure of the pruned network, in 0 to 1.
    """

    name: str
    count: Whole
    dense: NonNegative
    pruned: NonNegative


@dc.dataclass(frozen=True, kw_only=True)
class Confusion:
    """How often each network answers one class for images of another or of the same class."""

    label: str
    answer: str
    dense: Whole
    pruned: Whole


@dc.dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Numbers of images that both, only one, or none of the networks classify correctly."""

    both: Whole
    only_dense: Whole
    only_pruned: Whole
    neither: Whole


@dc.dataclass(frozen=True, kw_only=True)
class ChangedImage:
    """A validation image for which the networks answer different classes.

    Args:
        index: its index in the validation split.
        label: name of its class.
        dense: answer of the dense network.
        pruned: answer of the pruned network.
    """

    index: Whole
    label: str
    dense: str
    pruned: str


@dc.dataclass(frozen=True, kw_only=True)
class AnswersResult:
    """Answers of the dense and the finished network, compared; empty for tasks that do not compare them.

    Args:
        images: number of compared images.
        figure: what is given of each class: "accuracy", "iou" or "ap", or empty.
        classes: classes whose figures differ most, the largest loss first.
        class_count: number of all classes.
        outcomes: of classification, how often the networks are right; else None.
        confusions: of classification, all pairs of few classes, or those pairs whose counts differ most.
        changed: of classification, some images whose answer differs.
        dense_precision: of detection, mean precision of the classes at IoU 0.5, at recalls 0, 0.01 to 1.
        pruned_precision: that of the pruned network.
        seconds: duration of the stage, s.
    """

    stage: ClassVar[str] = "answers"
    images: Whole = 0
    figure: Literal["", "accuracy", "iou", "ap"] = ""
    classes: tuple[ClassAnswers, ...] = ()
    class_count: Whole = 0
    outcomes: Outcomes | None = None
    confusions: tuple[Confusion, ...] = ()
    changed: tuple[ChangedImage, ...] = ()
    dense_precision: tuple[float, ...] = ()
    pruned_precision: tuple[float, ...] = ()
    seconds: NonNegative = 0.0

    def __post_init__(self) -> None:
        if self.classes and not self.figure:
            raise SettingsError("its classes have figures without a name")
        if any(max(each.dense, each.pruned) > 1 for each in self.classes):
            raise SettingsError("a figure of a class is above 1")
        counts = self.outcomes
        if counts and counts.both + counts.only_dense + counts.only_pruned + counts.neither != self.images:
            raise SettingsError(f"its outcomes are not those of {self.images} images")
        if 1 in (len(self.dense_precision), len(self.pruned_precision)):
            raise SettingsError("a curve has one point")
