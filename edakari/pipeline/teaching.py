"""Objective and teacher of the fine-tuning: no teacher, the dense network, another one, or a memory bank."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from edakari.core.memory_format import set_memory_format_
from edakari.core.method import Outcome
from edakari.core.plan import KeepChannels, Plan
from edakari.core.protocols import Batch, IndexedTask, Objective, is_indexed
from edakari.criteria import Magnitude
from edakari.errors import RecipeError
from edakari.pipeline.context import Run
from edakari.pipeline.distilling import finetuning_objective
from edakari.pipeline.settings import BankSettings
from edakari.results import PruneResult, TraceResult
from edakari.surgery import apply
from edakari.train import BankTeaching, bank_in

__all__ = ["networks_between", "require_indexed", "training"]


@contextlib.contextmanager
def training(
    run: Run, traced: TraceResult, pruned: PruneResult, given: Callable[[], Outcome]
) -> Iterator[tuple[Objective, Iterable[Batch]]]:
    """Context with the objective and batches of a run's fine-tuning.

    Args:
        run: run with the settings.
        traced: result of the trace stage, with the digest of the dense network's weights.
        pruned: result of the method.
        given: function that returns the method's outcome; called if its own objective or teachers are needed.

    Raises:
        RecipeError: views or a bank are asked for, but the task's examples have no indices; or a teacher, but the
            method has an objective of its own.
    """
    tuning = run.settings.finetune
    assert tuning is not None
    if pruned.own_finetune and (tuning.teacher is not None or tuning.distill.active):
        raise RecipeError(
            f"method {pruned.method!r} trains the pruned network by an objective of its own, which leaves no place for "
            "finetune.distill and finetune.teacher; leave them out"
        )
    batches = run.task.batches("train")
    if tuning.views > 1 or tuning.teacher == "bank":
        batches = require_indexed(run).with_indices(tuning.views)
    if tuning.teacher == "bank":
        with _bank_folder(run, tuning.bank.folder) as folder:
            yield _taught_by_bank(run, tuning.bank, folder, (traced, pruned), given), batches
        return
    own = given().finetune if pruned.own_finetune else None
    yield own or finetuning_objective(run, run.store.plan(), run.memory_format), batches


def networks_between(plan: Plan, model: nn.Module, run: Run, count: int) -> list[nn.Module]:
    """Make networks between the dense network and a plan; the first is the dense one, and the plan's is left out.

    Of the channels that the plan removes from a group, network k of K keeps the fraction (K - k)/K with the largest
    weights. Edits of other things than channels are left out.

    Args:
        plan: plan for the network.
        model: dense network.
        run: run with the network's graph.
        count: number of networks.
    """
    scores = Magnitude().score(model, run.graph)
    networks = []
    for number in range(count):
        edits = []
        for edit in plan.edits:
            if isinstance(edit, KeepChannels) and number > 0:
                ranks = np.argsort(-scores[edit.group].numpy(), kind="stable")
                gone = [int(index) for index in ranks if int(index) not in {*edit.indices}]
                more = gone[: round(len(gone) * (count - number) / count)]
                edits.append(KeepChannels(edit.group, tuple(sorted((*edit.indices, *more)))))
        networks.append(apply(model, Plan(tuple(edits), plan.fingerprint, plan.inputs), run.graph))
    return networks


def _taught_by_bank(
    run: Run,
    settings: BankSettings,
    folder: Path,
    found: tuple[TraceResult, PruneResult],
    given: Callable[[], Outcome],
) -> Objective:
    traced, pruned = found
    task = require_indexed(run)

    def teachers() -> Sequence[nn.Module]:
        if pruned.own_teachers:
            own = given().teachers
            if own is not None:
                return own(settings.teachers)
        return networks_between(run.store.plan(), run.dense, run, settings.teachers)

    identity: dict[str, Any] = {
        "teachers": settings.teachers,
        "plan": pruned.plan,
        "method": run.settings.content["method"],
        "seed": run.settings.seed,
        "weights": traced.weights,
    }

    def formatted() -> Sequence[nn.Module]:
        found = teachers()
        for teacher in found:
            set_memory_format_(teacher, run.memory_format)
        return found

    bank = bank_in(folder, task, identity, formatted)
    return BankTeaching(task, bank, settings.temperature, settings.gate, settings.share)


@contextlib.contextmanager
def _bank_folder(run: Run, asked: str | None) -> Iterator[Path]:
    """Folder of a bank: that of the settings, else one in the run's folder, else a temporary one for this block."""
    own = Path(asked) if asked else run.store.work("bank")
    if own is not None:
        yield own
        return
    made = Path(run.processes.from_main(lambda: tempfile.mkdtemp(prefix="edakari-bank-")))
    try:
        yield made
    finally:
        if run.processes.main:
            shutil.rmtree(made, ignore_errors=True)


def require_indexed(run: Run) -> IndexedTask:
    """Return the task of a run whose fine-tuning needs indexed examples.

    Raises:
        RecipeError: its examples have no indices.
    """
    if not is_indexed(run.task):
        raise RecipeError(
            f"finetune.views and finetune.teacher=bank need a task of classes with indexed examples, not a "
            f"{type(run.task).__name__}; leave them out"
        )
    return run.task
