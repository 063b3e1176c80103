"""Finds methods and teachers of a recipe that do not suit its task, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edakari.core.method import METHODS, parts_of
from edakari.core.output_kinds import OUTPUT_KINDS, OutputKind, Suits
from edakari.criteria import CRITERIA, FeatureDiscrimination, ResponseSettings
from edakari.errors import DataError
from edakari.pipeline.problems import Problem
from edakari.pipeline.settings import FinetuneSettings, Recipe, TransferSettings
from edakari.tasks import TASKS, DataSettings

__all__ = ["require_classes", "unsuited"]

HEADS: Mapping[str, tuple[OutputKind, ...]] = {
    "classification": ("class", "classes", "vector", "numbers"),
    "segmentation": ("map", "depth"),
    "pose": ("heatmaps",),
}
"""Answers for which each head of `edakari:supernet` is."""


def unsuited(recipe: Recipe) -> Iterator[Problem]:
    """Yield the parts of a recipe that need other answers of the network than its task has.

    A task of your own that does not name its `output_kind` suits everything here; methods check its batches later.

    Args:
        recipe: recipe to check.
    """
    task = recipe.data.task
    kind: OutputKind | None = getattr(task, "output_kind", None)
    name = TASKS.name_of(task)
    if kind is not None:
        yield from _method(recipe.method, kind, f"data.task {name!r} has {OUTPUT_KINDS[kind]}")
    if recipe.transfer is not None and kind is not None:
        yield from _transfer(recipe.transfer, kind, f"found {name!r} as data.task")
    if recipe.finetune is not None:
        yield from _teacher(recipe.finetune, task, kind, f"found {name!r}")


def require_classes(data: DataSettings) -> None:
    """Raise an error for a task whose filters cannot be told apart by classes.

    Args:
        data: settings of the data, with the task.

    Raises:
        DataError: its networks answer something else.
    """
    kind: OutputKind | None = getattr(data.task, "output_kind", None)
    if kind is not None and kind not in FeatureDiscrimination.suits.kinds:
        raise DataError(
            f"filters are shown by the classes of what excites them, but data.task {TASKS.name_of(data.task)!r} has "
            f"{OUTPUT_KINDS[kind]}"
        )


def _method(method: Any, kind: OutputKind, found: str) -> Iterator[Problem]:
    for key, part in parts_of(method):
        suits: Suits | None = getattr(part, "suits", None)
        if suits is not None and kind not in suits.kinds:
            needed = " or ".join(OUTPUT_KINDS[each] for each in suits.kinds)
            name = METHODS.name_of(part) or CRITERIA.name_of(part) or METHODS.name_of(method)
            yield Problem(
                key,
                f"{name!r} {suits.reason}, and needs {needed}, but {found}; take a method that goes by the loss or the "
                "weights, such as 'taylor' or 'magnitude'",
            )
            return
        if isinstance(part, ResponseSettings) and kind == "map" and part.reduce != "max":
            yield Problem(
                f"{key}.reduce",
                "labels at every pixel are counted at the place of the largest response, so it must be set to 'max', "
                f"found {part.reduce!r}",
            )


def _transfer(asked: TransferSettings, kind: OutputKind, found: str) -> Iterator[Problem]:
    kinds = HEADS.get(asked.head or "", (kind,))
    if kind not in kinds:
        wanted = " or ".join(OUTPUT_KINDS[each] for each in kinds)
        yield Problem("transfer.head", f"{asked.head!r} is for tasks with {wanted}, {found}")


def _teacher(tuning: FinetuneSettings, task: Any, kind: OutputKind | None, found: str) -> Iterator[Problem]:
    if kind is not None and not getattr(task, "indexed", False):
        # a memory bank and views need classes and indexed examples; a task of one's own may have them
        for key, asked in (("views", tuning.views > 1), ("teacher", tuning.teacher == "bank")):
            if asked:
                yield Problem(f"finetune.{key}", f"{getattr(tuning, key)!r} needs data.task 'classification', {found}")
    if getattr(task, "mixing", None):
        for key, asked in (("views", tuning.views > 1), ("teacher", tuning.teacher == "bank")):
            if asked:
                yield Problem(
                    f"finetune.{key}",
                    f"{getattr(tuning, key)!r} needs unmixed images; leave mixup and cutmix out of data.task",
                )
    if kind == "objects" and tuning.distill.weight > 0 and tuning.teacher != "bank":
        yield Problem(
            "finetune.distill.weight",
            f"boxes of two networks cannot be compared one by one, so set it to 0, and name modules in "
            f"finetune.distill.features; {found} as data.task",
        )
