"""A teacher whose outputs are computed once for each training image, and stored."""

from __future__ import annotations

import dataclasses as dc
import hashlib
import math
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from edakari.core.method import Job
from edakari.core.modes import eval_mode
from edakari.core.processes import Processes
from edakari.core.protocols import Batch, IndexedTask, Task, is_indexed
from edakari.errors import DataError
from edakari.surgery.tokens import TokenSite
from edakari.surgery.tokens.patches import Patches, patches_of
from edakari.train.bank import Bank, bank_in

__all__ = ["StoredTeacher", "require_indices", "stored_teacher"]


def require_indices(task: Task) -> IndexedTask:
    """Return a task whose outputs can be stored for each training image.

    Raises:
        DataError: its examples have no indices.
    """
    if not is_indexed(task):
        raise DataError(
            "teacher: stored needs a task with indexed examples (labels, batches_at, with_indices, digest), but got a "
            f"{type(task).__name__}; use teacher: live"
        )
    return task


@dc.dataclass(frozen=True, eq=False)
class StoredTeacher:
    """Outputs of a network for each training image, in float16.

    Args:
        bank: for each image, all numbers in one row.
        shapes: shapes of an image's logits, and of its patches' tokens or logits.
        labelled: whether patches have logits, as in LV-ViT, which are stored instead of their tokens.
    """

    bank: Bank
    shapes: tuple[tuple[int, ...], ...]
    labelled: bool

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, Patches]:
        """Return the logits and the patches of a batch (inputs, labels, indices)."""
        row_BX = self.bank.rows(batch[2].view(-1))[:, 0]
        parts = torch.split(row_BX, [math.prod(shape) for shape in self.shapes], dim=1)
        found = [part.reshape(len(part), *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        patches = Patches()
        if len(found) > 1 and self.labelled:
            patches.logits = found[1]
        elif len(found) > 1:
            patches.tokens = found[1]
        return found[0], patches


def stored_teacher(job: Job, teacher: nn.Module, last: TokenSite, tokens: bool) -> StoredTeacher:
    """Run a teacher once on all training images, without augmentation, and store its outputs.

    Args:
        job: the task, and the folder of the outputs; without one they are in a temporary folder.
        teacher: the network.
        last: block whose output tokens are stored.
        tokens: whether the tokens are stored, too; then training images may not be augmented.

    Raises:
        DataError: the task's examples have no indices, or tokens are asked for and training images are augmented.
    """
    task = require_indices(job.task)
    if tokens:
        _require_equal_images(task)
    flat = _FlatOutputs(task, last, tokens)
    with torch.no_grad():
        flat.outputs(teacher, next(iter(task.with_indices())))
    weights = hashlib.sha256()
    for name, value in sorted(teacher.state_dict().items()):
        weights.update(
            name.encode() + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    identity = {"teacher": weights.hexdigest(), "block": last.name, "tokens": tokens}
    folder = (
        job.folder / f"teacher-{weights.hexdigest()[:8]}-{'tokens' if tokens else 'logits'}" if job.folder else None
    )
    made = folder or Path(Processes.here().from_main(lambda: tempfile.mkdtemp(prefix="edakari-teacher-")))
    bank = bank_in(made, cast(IndexedTask, flat), identity, lambda: [teacher])
    found = StoredTeacher(bank, flat.shapes, flat.labelled)
    if folder is None and Processes.here().main:
        weakref.finalize(found, shutil.rmtree, made, ignore_errors=True)
    return found


class _FlatOutputs:
    """A task whose outputs are a network's logits and patches in one row for each image."""

    def __init__(self, task: IndexedTask, last: TokenSite, tokens: bool) -> None:
        self.task, self.last, self.tokens = task, last, tokens
        self.shapes: tuple[tuple[int, ...], ...] = ()
        self.labelled = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """See `edakari.core.protocols.Task`; float [B, all numbers of an image]."""
        with eval_mode(model), patches_of(model, self.last) as found:  # a bank would use batch statistics
            logits = self.task.outputs(model, batch)
        patches = found.tokens if found.logits is None else found.logits
        parts: Sequence[torch.Tensor] = [logits, patches] if self.tokens else [logits]
        self.labelled = found.logits is not None
        self.shapes = tuple(tuple(part.shape[1:]) for part in parts)
        return torch.cat([part.float().flatten(1) for part in parts], 1)


def _require_equal_images(task: IndexedTask) -> None:
    """Raise an error if a training image differs from the same image without augmentation."""
    trained = next(iter(task.with_indices()))
    plain = next(iter(task.batches_at("train", [trained[2].cpu().numpy()])))
    if not torch.equal(trained[0], plain[0].to(trained[0])):
        raise DataError(
            "teacher: stored keeps the tokens of images without augmentation, but training images are augmented, so "
            "that their tokens show other parts; set loss.tokens: 0, data.augment: none, or teacher: live"
        )
