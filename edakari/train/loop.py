"""The training loop: the only one."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import itertools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edakari.core.arguments import require, require_methods
from edakari.core.file_errors import file_errors
from edakari.core.finite import require_finite_figures
from edakari.core.optional import needs
from edakari.core.protocols import Batch, Fit, Hook, Objective, Schedule, StepState, Task
from edakari.core.settings import NonNegative, Seed, Whole, settings
from edakari.errors import DataError, ModelError, RecipeError
from edakari.train.average import averaged_weights, hand_over
from edakari.train.divergence import advice_for, diverged
from edakari.train.epochs import groups_of, steps_per_epoch
from edakari.train.optim import learning_rate, make_optimizer, set_learning_rate
from edakari.train.precision import with_precision
from edakari.train.progress import progress_bar
from edakari.train.resume import FitFolder, History, Progress, checkpoint_in, identity_of
from edakari.train.scope import Trained, interruptible, random_state_kept, seed_step, trained
from edakari.train.terms import loss_terms

__all__ = ["Evaluate", "FitSettings", "fit", "fitter", "steps_per_epoch"]

TensorObjective = Callable[[nn.Module, Batch], torch.Tensor]
"""The loss of a batch as one scalar tensor."""
Evaluate = Callable[[nn.Module], Mapping[str, float]]


@settings
class FitSettings:
    """How to run a training, with no say in its result save for `seed` and `device`.

    Args:
        folder: keeps the checkpoint and the history; None keeps nothing.
        seed: of everything random in a step.
        device: "cpu" stays off accelerators; "auto" takes what accelerate finds.
        checkpoint_seconds: time between checkpoints within an epoch; 0 is none. Each epoch ends with one.
        checkpoint_steps: optimizer steps between checkpoints; 0 is by time alone.
        progress: draw a bar where there is a terminal.
        title: stands before the bar.
        unused_parameters: some trained parameters may have no part in a step; matters on several processes only.
    """

    folder: Path | None = None
    seed: Seed = 0
    device: str = "auto"
    checkpoint_seconds: NonNegative = 30.0
    checkpoint_steps: Whole = 0
    progress: bool = True
    title: str = "train"
    unused_parameters: bool = False


@file_errors()
def fit(
    model: nn.Module,
    objective: Objective | TensorObjective,
    batches: Iterable[Batch],
    schedule: Schedule,
    *,
    hooks: Sequence[Hook] = (),
    params: Sequence[torch.Tensor] | None = None,
    settings: FitSettings = FitSettings(),
    evaluate: Evaluate | None = None,
) -> History:
    """Train a network in place.

    Modes, requires_grad, device and random states are as found afterwards. With a folder, a run that was stopped at
    any point, `kill -9` included, goes on to the result that it would have had, and one that is finished is not run
    again: its weights are loaded.

    Args:
        model: trained in place; with `schedule.ema` it ends with the averaged weights.
        objective: named loss terms of a batch, whose sum is minimised; or the loss as one tensor.
        batches: one pass is one epoch; it has a length. `set_epoch(epoch)` and `skip(count)` are used where it has
            them. Over several processes each gets its own part from it.
        schedule: how long and how fast.
        hooks: called around every step, in order.
        params: what to train, None is every parameter that requires a gradient. Batch normalisations of which no
            parameter is in it keep their statistics.
        settings: see `FitSettings`.
        evaluate: figures after each epoch, of the averaged weights where there are some.

    Raises:
        DataError: there are no batches.
        ModelError: nothing to train, or the loss, a weight, a statistic or a figure of `evaluate` is no longer finite
            at an epoch's end.
        RecipeError: the schedule cannot be run here.
        RunFolderError: the folder is of another training, or the disk is full.
        KeyboardInterrupt: Ctrl-C was pressed; the checkpoint is up to date.
    """
    call = "fit(model, objective, batches, schedule)"
    require(call, model=(model, nn.Module), schedule=(schedule, Schedule))
    require_methods(call, "objective", objective, ("__call__",))
    checkpoint = checkpoint_in(settings.folder) if settings.folder else None
    schedule = with_precision(schedule, _device(settings), checkpoint)
    accelerator = _accelerator(schedule, settings)
    per_epoch = steps_per_epoch(batches, schedule)
    with (
        random_state_kept(),
        trained(model, params, accelerator.device) as chosen,
        interruptible() as stop,
        progress_bar(
            settings.title, per_epoch * schedule.epochs, settings.progress and accelerator.is_main_process
        ) as bar,
        contextlib.closing(_Loop(accelerator, chosen, objective, schedule, hooks, settings)) as loop,
    ):
        folder = FitFolder(settings.folder, identity_of(chosen, schedule, settings.seed, per_epoch, hooks))
        progress = loop.restore(folder)
        while progress.step < per_epoch * schedule.epochs:
            epoch, first = divmod(progress.step, per_epoch)
            chosen.train()
            for group in groups_of(batches, epoch, first * schedule.accumulate, schedule.accumulate):
                terms = loop.step(group, progress.step, per_epoch * schedule.epochs, epoch)
                progress.add(terms)
                bar(progress.step, f"epoch {epoch + 1}/{schedule.epochs}")
                # An epoch's last step is kept by the checkpoint below, with the epoch's figures.
                if progress.step % per_epoch and (folder.due(progress, settings) or stop.is_set()):
                    loop.save(folder, progress, stop)
            if progress.step != (epoch + 1) * per_epoch:
                raise DataError(f"fit: an epoch gave {progress.step - epoch * per_epoch} steps, its length {per_epoch}")
            figures = loop.figures(progress, epoch)
            for hook in hooks:
                hook.end_epoch(loop.state(progress.step, epoch))
            progress.end_epoch({**figures, **loop.judged(evaluate, epoch)})
            loop.save(folder, progress, stop)
        if not progress.done:
            loop.finish(folder, progress)
    return progress.history()


def fitter(task: Task, settings: FitSettings, evaluate: Evaluate | None = None) -> Fit:
    """`fit` bound to a task's training data, as methods get it; the n-th call keeps its own folder `fit-n`.

    Args:
        task: gives the batches.
        settings: their folder is the one above.
        evaluate: figures after each epoch.
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
        fit(
            model,
            objective,
            task.batches("train") if batches is None else batches,
            schedule,
            hooks=hooks,
            params=params,
            settings=own,
            evaluate=evaluate,
        )

    return bound


class _Loop:
    """What a step needs: the network as wrapped for its processes, the optimizer and the averaged weights."""

    def __init__(
        self,
        accelerator: Any,
        chosen: Trained,
        objective: Objective | TensorObjective,
        schedule: Schedule,
        hooks: Sequence[Hook],
        settings: FitSettings,
    ) -> None:
        self.accelerator, self.chosen, self.objective = accelerator, chosen, objective
        self.schedule, self.hooks, self.settings = schedule, hooks, settings
        self.params = [*chosen.own, *chosen.other]
        self.tensors = _tensors()
        self.ema = averaged_weights(chosen.model, schedule.ema) if schedule.ema > 0 else None
        self.many = accelerator.num_processes > 1
        self.model = accelerator.prepare_model(chosen.model) if self.many and chosen.own else chosen.model
        self.optimizer = accelerator.prepare_optimizer(make_optimizer(self.params, schedule))

    def state(self, step: int, epoch: int) -> StepState:
        """Where training stands, for hooks."""
        return StepState(self.chosen.model, self.optimizer.optimizer, step, epoch)

    def step(self, group: Sequence[Batch], step: int, steps: int, epoch: int) -> Mapping[str, torch.Tensor]:
        """One optimizer step over the batches of a group.

        Returns:
            Each loss term, mean over the group, without a gradient.
        """
        seed_step(self.settings.seed, step, self.accelerator.process_index)
        state = self.state(step, epoch)
        for hook in self.hooks:
            hook.before_step(state)
        set_learning_rate(self.optimizer, learning_rate(self.schedule, step, steps))
        sums: dict[str, torch.Tensor] = {}
        for index, batch in enumerate(group):
            last = index == len(group) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                with self.accelerator.autocast():
                    terms = loss_terms(
                        self.objective(self.model, self.tensors.send_to_device(batch, self.accelerator.device))
                    )
                    loss = torch.stack([term.float() for term in terms.values()]).sum() / len(group)
                self.accelerator.backward(loss)
            for name, term in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(term.detach())) + term.detach() / len(group)
        self._reduce_other()
        if self.schedule.clip > 0:
            self.accelerator.clip_grad_norm_(self.params, self.schedule.clip)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.chosen.model, step + 1)
        for hook in self.hooks:
            hook.after_step(state)
        self.optimizer.zero_grad()
        return sums

    def _reduce_other(self) -> None:
        # DistributedDataParallel sees the network's parameters only.
        for param in self.chosen.other if self.many else ():
            if param.grad is not None:
                param.grad = self.accelerator.reduce(param.grad, "mean")

    def figures(self, progress: Progress, epoch: int) -> dict[str, float]:
        """The named figures of an epoch's steps, equal on all processes.

        Raises:
            ModelError: the loss, a weight or a statistic is no longer finite.
        """
        means = {name: self.accelerator.reduce(value, "mean") for name, value in progress.means().items()}
        terms = {name: float(value) for name, value in means.items()}
        loss, advice = sum(terms.values()), advice_for(self.schedule)
        require_finite_figures({"the loss": loss}, f"fit, epoch {epoch + 1}", advice)
        wrong = diverged(self.chosen)
        # batch statistics differ between processes, and all of them have to stop
        if float(self.accelerator.reduce(torch.tensor(float(wrong is not None), device=self.accelerator.device))):
            raise ModelError(f"fit, epoch {epoch + 1}: {wrong or 'a tensor'} is no longer finite; {advice}")
        return {"epoch": epoch + 1.0, "lr": self.optimizer.param_groups[0]["lr"], "loss": loss, **terms}

    def judged(self, evaluate: Evaluate | None, epoch: int) -> dict[str, float]:
        """The evaluation's figures of the network, of its averaged weights where there are some.

        Raises:
            ModelError: one is not finite.
        """
        if evaluate is None:
            return {}
        model = self.chosen.model if self.ema is None else self.ema.module
        found = {f"val_{name}": float(value) for name, value in evaluate(model).items()}
        require_finite_figures(found, f"fit, epoch {epoch + 1}", advice_for(self.schedule))
        return found

    def restore(self, folder: FitFolder) -> Progress:
        """Go on from the folder's checkpoint where there is one."""
        found = folder.read()
        if found is None:
            return Progress()
        folder.restore(found, self.chosen, self.hooks)
        if not found.done:
            self.optimizer.load_state_dict(found.state["optimizer"])
            if self.accelerator.scaler is not None and found.state["scaler"]:
                self.accelerator.scaler.load_state_dict(found.state["scaler"])
            if self.ema is not None:
                self.ema.module.load_state_dict(found.state["ema"])
        return Progress.restored(found)

    def save(self, folder: FitFolder, progress: Progress, stop: threading.Event) -> None:
        """Write a checkpoint from the main process; where Ctrl-C was pressed, end here."""
        if self.accelerator.is_main_process and folder.path is not None:
            parts = {
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else {},
                "ema": self.ema.module.state_dict() if self.ema is not None else {},
            }
            folder.write(progress, self.chosen, self.hooks, parts)
        if stop.is_set():
            raise KeyboardInterrupt

    def finish(self, folder: FitFolder, progress: Progress) -> None:
        """Hand the final weights to the network, the same on all processes, and mark the training as finished."""
        if self.ema is not None:
            hand_over(self.ema, self.chosen.model)
        for buffer in self.chosen.model.buffers() if self.many else ():
            buffer.copy_(self.tensors.broadcast(buffer))
        progress.done = True
        if self.accelerator.is_main_process and folder.path is not None:
            folder.write(progress, self.chosen, self.hooks, {})

    def close(self) -> None:
        """Take off what accelerate put around the network's forward."""
        if self.model is not self.chosen.model:
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
            self.chosen.model.__dict__.pop("forward", None)


def _tensors() -> Any:
    """Accelerate's operations on nested tensors, which have no types."""
    from accelerate.utils import operations

    return operations


def _device(settings: FitSettings) -> torch.device:
    """Where accelerate will train."""
    with needs("train", "training"):
        # here and below, since most that imports this module does not train
        from accelerate.state import AcceleratorState, PartialState

    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    # PartialState's constructor has no annotations
    make: Any = PartialState
    device: torch.device = make(cpu=settings.device == "cpu").device
    return device


def _accelerator(schedule: Schedule, settings: FitSettings) -> Any:
    """An accelerator of this training's own; accelerate keeps the settings of the first one otherwise."""
    if schedule.precision == "fp16" and (settings.device == "cpu" or not torch.cuda.is_available()):
        raise RecipeError("schedule precision 'fp16' needs a GPU, and there is none here; use 'bf16' or 'fp32'")
    from accelerate.accelerator import Accelerator
    from accelerate.utils.dataclasses import DistributedDataParallelKwargs

    return Accelerator(
        mixed_precision="no" if schedule.precision == "fp32" else schedule.precision,
        cpu=settings.device == "cpu",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=settings.unused_parameters)],
    )
