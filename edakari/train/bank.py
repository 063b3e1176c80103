"""A memory bank: teachers' logits for every training example, written once and read at each step.

Shapes: N training examples, K teachers, C logits; B examples of a batch, V views of each.
"""

from __future__ import annotations

import contextlib
import dataclasses as dc
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from edakari.core.files import replacing, write_json
from edakari.core.processes import Processes
from edakari.core.protocols import Batch, IndexedTask
from edakari.core.reading import read_json
from edakari.core.wording import counted
from edakari.errors import DataError, RunFolderError
from edakari.train.losses import outputs_and_terms
from edakari.train.progress import progress_bar
from edakari.train.scope import random_state_kept
from edakari.train.statistics import batch_statistics

__all__ = ["Bank", "BankTeaching", "bank_in", "divergence"]

Gate = Literal["distance", "loss"]
LOGITS, IDENTITY = "logits.npy", "bank.json"
BATCH = 256
MANY_CLASSES = 1000
"""With at least this number of classes the default temperature is 10, otherwise 4."""


@dc.dataclass(frozen=True)
class Bank:
    """Logits of several teachers, the best teacher first.

    Args:
        logits: memory-mapped float16 [N, K, C]; rows are in the order of the training examples.
    """

    logits: npt.NDArray[np.float16]

    def rows(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the logits of some examples, float32 [B, K, C], on the device of the indices."""
        found = torch.from_numpy(self.logits[numbers.cpu().numpy()].astype(np.float32))
        return found.to(numbers.device, non_blocking=True)


def bank_in(
    folder: Path, task: IndexedTask, identity: Mapping[str, Any], teachers: Callable[[], Sequence[nn.Module]]
) -> Bank:
    """Open the bank in a folder; create it if it is missing or incomplete.

    Args:
        folder: folder of the bank, on a disk that all processes share.
        task: the task whose training examples the teachers run on, without augmentation.
        identity: JSON values that identify the bank's content; a digest of the examples is added.
        teachers: function that returns the teachers; called only to create the bank. Their batch normalisations use
            batch statistics.

    Raises:
        RunFolderError: the folder holds a different or damaged bank; the message says what differs.
    """
    whole = json.loads(json.dumps({**identity, "examples": task.digest(), "count": len(task.labels("train"))}))
    if not _known(folder, whole):
        _make(folder, task, teachers())
        if Processes.here().main:
            write_json(folder / IDENTITY, whole)
    Processes.here().wait()
    try:
        logits = np.load(folder / LOGITS, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _damaged(folder, str(error)) from error
    if logits.ndim != 3 or logits.dtype != np.float16 or len(logits) != whole["count"]:
        raise _damaged(folder, f"it holds {logits.dtype} {list(logits.shape)}")
    return Bank(logits)


def divergence(teacher: torch.Tensor, student: torch.Tensor, temperature: float) -> torch.Tensor:
    """Compute T * KL(teacher || student) of softened logits [..., C]: [...]; the factor is T, not its square."""
    aim = functional.log_softmax(teacher.float() / temperature, dim=-1)
    found = functional.log_softmax(student.float() / temperature, dim=-1)
    return temperature * (aim.exp() * (aim - found)).sum(-1)


class BankTeaching:
    """Objective for fine-tuning with a bank: the task's loss plus the divergence from the mean of selected teachers.

    A gate selects the teachers of each batch; the best teacher is always selected. With "distance", a teacher is
    selected if it is closer to the best teacher than the student is. With "loss", the rule printed in the paper, it is
    selected if its loss is at most the student's. Batches come from `IndexedTask.with_indices`; distances and losses
    are summed over all processes.

    Lee and Song, "Ensemble Knowledge Guided Sub-network Search and Fine-tuning for Filter Pruning", ECCV 2022.

    Args:
        task: the task; its outputs are logits [V·B, C].
        bank: the bank of its training examples.
        temperature: softening temperature T; None means 4, or 10 with 1000 classes or more.
        gate: rule that selects teachers.
        weight: weight of the divergence.
    """

    def __init__(
        self,
        task: IndexedTask,
        bank: Bank,
        temperature: float | None = None,
        gate: Gate = "distance",
        weight: float = 1.0,
    ) -> None:
        self.task, self.bank, self.gate, self.weight = task, bank, gate, weight
        self.temperature = temperature or (10.0 if bank.logits.shape[2] >= MANY_CLASSES else 4.0)
        self.steps, self._used = 0, torch.zeros(())

    def __call__(self, model: nn.Module, batch: Batch) -> Mapping[str, torch.Tensor]:
        """See `edakari.core.protocols.Objective`."""
        if len(batch) < 3:
            raise DataError("the memory bank needs batches with the examples' indices; train on task.with_indices()")
        outputs, terms = outputs_and_terms(self.task, model, batch)
        outputs = self.task.outputs(model, batch) if outputs is None else outputs
        numbers = batch[2].view(-1)
        count = int((numbers == numbers[0]).sum())
        student_VBC = outputs.unflatten(0, (count, -1))
        rows_BKC = self.bank.rows(numbers[: student_VBC.shape[1]]).to(outputs.device)
        aims_BC = self._mixed(student_VBC.detach().float(), rows_BKC, batch[1].view(count, -1)[0].to(outputs.device))
        taught = divergence(aims_BC, student_VBC, self.temperature).mean()
        return {**terms, "bank": self.weight * taught}

    @property
    def used(self) -> float:
        """Mean number of selected teachers over the steps so far."""
        return float(self._used) / max(1, self.steps)

    @torch.no_grad()
    def _mixed(self, student_VBC: torch.Tensor, rows_BKC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        """Mean logits of the selected teachers, [B, C]."""
        if self.gate == "distance":
            best_BC = rows_BKC[:, 0]
            own = divergence(best_BC, student_VBC.mean(0), self.temperature).sum()
            theirs_K = divergence(best_BC[:, None], rows_BKC, self.temperature).sum(0)
        else:
            views, classes = len(student_VBC), student_VBC.shape[-1]
            own = (
                functional.cross_entropy(student_VBC.reshape(-1, classes), labels_B.repeat(views), reduction="sum")
                / views
            )
            every = rows_BKC.movedim(1, 2)
            theirs_K = functional.cross_entropy(
                every, labels_B[:, None].expand(-1, every.shape[2]), reduction="none"
            ).sum(0)
        figures = Processes.here().reduced(torch.cat([own.view(1), theirs_K]))
        counts_K = figures[1:] < figures[0] if self.gate == "distance" else figures[1:] <= figures[0]
        # without any teacher the target would be uniform
        counts_K[0] = True
        self.steps, self._used = self.steps + 1, self._used.to(counts_K.device) + counts_K.sum()
        return rows_BKC[:, counts_K].mean(1)


def _known(folder: Path, identity: Mapping[str, Any]) -> bool:
    path = folder / IDENTITY
    if not path.is_file():
        return False
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise _damaged(folder, str(error)) from error
    differing = [key for key in {**found, **identity} if found.get(key) != identity.get(key)]
    if differing:
        key = differing[0]
        raise RunFolderError(
            f"memory bank {folder} is a different one: {key} is {found.get(key)!r} there and {identity.get(key)!r} "
            "here. Choose another folder (finetune.bank.folder), or delete this one to create the bank again"
        )
    return True


def _damaged(folder: Path, found: str) -> RunFolderError:
    return RunFolderError(f"memory bank {folder} cannot be read ({found}); delete it to create it again")


def _make(folder: Path, task: IndexedTask, teachers: Sequence[nn.Module]) -> None:
    """Write the logits atomically; processes divide the batches among them, and the first one writes."""
    count = len(task.labels("train"))
    # in a fixed random order: in a folder sorted by class, batch statistics would describe a single class
    order = np.random.default_rng(0).permutation(count)
    parts = np.array_split(order, -(-count // BATCH))
    here = Processes.here()
    main, share = here.main, here.share(len(parts))
    own = iter(task.batches_at("train", [parts[index] for index in share]))
    rounds = -(-len(parts) // here.world)
    written = replacing(folder / LOGITS) if main else contextlib.nullcontext(None)
    with written as path, random_state_kept(), progress_bar("bank", rounds, main) as bar:
        file = None
        for step in range(rounds):
            numbers, logits = _gathered(_judged(teachers, task, next(own)) if step < len(share) else None)
            if path is not None:
                file = _mapped(path, (count, *logits.shape[1:])) if file is None else file
                file[numbers] = logits
            bar.at(step + 1, lambda: {"text": counted(len(teachers), "teacher")})
        if file is not None:
            file.flush()


def _mapped(path: Path, shape: tuple[int, ...]) -> Any:
    """Create a memory-mapped file of float16."""
    formats: Any = np.lib.format
    return formats.open_memmap(path, "w+", np.float16, shape)


def _judged(teachers: Sequence[nn.Module], task: IndexedTask, batch: Batch) -> tuple[Any, Any]:
    """Indices of a batch's examples, and the teachers' logits, float16 [B, K, C]."""
    found = []
    with torch.no_grad():
        for teacher in teachers:
            with batch_statistics(teacher):
                found.append(task.outputs(teacher, batch).float().cpu())
    # logits beyond the range of float16 are clamped to it
    limit = float(np.finfo(np.float16).max)
    return batch[2].numpy(), torch.stack(found, 1).clamp(-limit, limit).half().numpy()


def _gathered(own: tuple[Any, Any] | None) -> tuple[Any, Any]:
    """Gather the results of all processes."""
    parts = [part for part in Processes.here().gathered_objects(own) if part is not None]
    return np.concatenate([numbers for numbers, _ in parts]), np.concatenate([logits for _, logits in parts])
