"""Trainings bound to a task's training data, for methods."""

from __future__ import annotations

import dataclasses as dc
import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from edakari.core.protocols import Batch, Fit, Hook, Objective, Schedule, Task
from edakari.train.fit_settings import FitSettings
from edakari.train.loop import fit
from edakari.train.resume import History

__all__ = ["fitter"]


def fitter(
    task: Task,
    settings: FitSettings,
    own_hooks: Callable[[], Sequence[Hook]] = tuple,
    train: Callable[..., History] = fit,
) -> Fit:
    """Bind a training to a task's training data, for methods; the n-th call uses its own folder `fit-n`.

    Args:
        task: the task that gives the batches.
        settings: see `FitSettings`; its folder becomes the parent folder.
        own_hooks: makes further hooks for each call, which come after the caller's.
        train: function with the arguments of `fit`: `fit` itself, or a loop that `fit_by` calls.
    """
    calls = itertools.count(1)

    def bound(
        model: nn.Module,
        objective: Objective,
        schedule: Schedule,
        *,
        hooks: Sequence[Hook] = (),
        params: Sequence[torch.Tensor] | None = None,
        batches: Iterable[Batch] | None = None,
    ) -> None:
        call = next(calls)
        folder = settings.folder / f"fit-{call}" if settings.folder else None
        own = dc.replace(settings, folder=folder, title=f"{settings.title} {call}", seed=settings.seed + call)
        train(
            model,
            objective,
            task.batches("train") if batches is None else batches,
            schedule,
            hooks=[*hooks, *own_hooks()],
            params=params,
            settings=own,
        )

    return bound
