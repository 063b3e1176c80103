"""The training loop: `fit`, which every training in edakari uses."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from edakari.core.arguments import require, require_methods
from edakari.core.file_errors import file_errors
from edakari.core.finite import require_finite_figures
from edakari.core.memory_format import in_memory_format, set_memory_format_
from edakari.core.protocols import Batch, Hook, Objective, Schedule, StepState
from edakari.errors import DataError, ModelError
from edakari.train.accelerators import device_here, in_autocast, nested_tensors, new_accelerator
from edakari.train.average import averaged_weights, hand_over
from edakari.train.compiling import compiled, warn_uncompiled
from edakari.train.divergence import advice_for, diverged
from edakari.train.epochs import groups_of, steps_per_epoch
from edakari.train.fit_settings import FitSettings
from edakari.train.following import put_parameters, require_followed, require_same_everywhere
from edakari.train.optim import align_states_, make_optimizer, set_rates
from edakari.train.penalty import penalty_of
from edakari.train.precision import in_tf32, with_precision
from edakari.train.progress import epoch_event, progress_bar, step_event
from edakari.train.resume import FitFolder, History, Progress, checkpoint_in, identity_of
from edakari.train.saving_memory import checkpointed
from edakari.train.scope import Trained, interruptible, random_state_kept, seed_step, trained
from edakari.train.sync_norms import SyncedNorms, require_sync_norms
from edakari.train.terms import loss_terms, total_loss

__all__ = ["Evaluate", "fit", "steps_per_epoch"]

TensorObjective = Callable[[nn.Module, Batch], torch.Tensor]
"""Function that returns the loss of a batch as one scalar tensor."""
Evaluate = Callable[[nn.Module], Mapping[str, float]]


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

    Modes, requires_grad, device and random states are restored afterwards. With a folder, a run that was stopped at any
    point (even by `kill -9`) resumes and gives the same result as an uninterrupted run. A finished run is not repeated;
    its weights are loaded.

    Args:
        model: the network, trained in place; with `schedule.ema` it gets the averaged weights at the end. If a hook
            makes it smaller (`edakari.shrink`), the same object is smaller at the end.
        objective: function that returns a batch's named loss terms, whose sum is minimised, or one loss tensor.
        batches: iterable with a length; one pass is one epoch. Its methods `set_epoch(epoch)` and `skip(count)` are
            used if it has them. With several processes, it gives each process its own part.
        schedule: epochs, learning rate and the other training settings.
        hooks: hooks that are called around every step, in order.
        params: parameters to train; None trains every parameter with `requires_grad`. Batch normalisations without a
            trained parameter keep their statistics.
        settings: see `FitSettings`.
        evaluate: function that returns metrics after each epoch, of the averaged weights if there are any. The network
            then runs in the precision of the schedule; after the last epoch, in full precision.

    Raises:
        DataError: there are no batches.
        ModelError: there is nothing to train, the network has no gradient checkpointing, or the loss, a weight, a
            statistic or a metric of `evaluate` is no longer finite at the end of an epoch.
        RecipeError: this machine cannot run the schedule or its settings.
        RunFolderError: the folder belongs to another training, or the disk is full.
        KeyboardInterrupt: Ctrl-C was pressed; the checkpoint is up to date.
    """
    call = "fit(model, objective, batches, schedule)"
    require(call, model=(model, nn.Module), schedule=(schedule, Schedule))
    require_methods(call, "objective", objective, ("__call__",))
    checkpoint = checkpoint_in(settings.folder) if settings.folder else None
    schedule = with_precision(schedule, device_here(cpu=settings.device == "cpu"), checkpoint)
    accelerator = new_accelerator(schedule.precision, cpu=settings.device == "cpu")
    if settings.sync_bn:
        require_sync_norms(accelerator.device, accelerator.num_processes)
    per_epoch = steps_per_epoch(batches, schedule)
    hooks, steps = [*hooks, *penalty_of(schedule)], per_epoch * schedule.epochs
    with (
        random_state_kept(),
        trained(model, params, accelerator.device) as chosen,
        in_memory_format(model, settings.memory_format),
        checkpointed(model, settings.gradient_checkpointing),
        in_tf32(accelerator.device, settings.tf32),
        interruptible() as stop,
        progress_bar(settings.title, steps, settings.progress and accelerator.is_main_process) as bar,
    ):
        loop = _Loop(accelerator, chosen, objective, schedule, hooks, settings)
        folder = FitFolder(settings.folder, identity_of(chosen, schedule, settings.seed, per_epoch, hooks))
        progress = loop.restore(folder)
        while progress.step < steps:
            epoch, first = divmod(progress.step, per_epoch)
            chosen.train()
            # a shuffling DataLoader draws its order from the global state, which a resumed run does not have
            seed_step(settings.seed, epoch * per_epoch, accelerator.process_index)
            for group in groups_of(batches, epoch, first * schedule.accumulate, schedule.accumulate):
                terms = loop.step(group, progress.step, steps, epoch)
                progress.add(terms)
                lr = loop.optimizer.param_groups[0]["lr"]
                bar.at(progress.step, functools.partial(step_event, progress, epoch, schedule.epochs, lr))
                # An epoch's last step is kept by the checkpoint below, with the epoch's figures.
                if progress.step % per_epoch and (folder.due(progress, settings) or stop.is_set()):
                    loop.save(folder, progress, stop)
            if progress.step != (epoch + 1) * per_epoch:
                raise DataError(f"fit: an epoch gave {progress.step - epoch * per_epoch} steps, its length {per_epoch}")
            figures = loop.figures(progress, epoch)
            for hook in hooks:
                hook.end_epoch(loop.state(progress.step, epoch, figures["loss"]))
            loop.follow()
            last = progress.step == steps
            progress.end_epoch({**figures, **loop.judged(evaluate, epoch, last=last)})
            bar.epoch(progress.step, epoch_event(progress, schedule.epochs))
            loop.save(folder, progress, stop)
        if not progress.done:
            loop.finish(folder, progress)
    return progress.history()


class _Loop:
    """Objects of the loop: the network as wrapped for several processes, the optimizer and the averaged weights."""

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
        self.tensors = nested_tensors()
        self.many = accelerator.num_processes > 1
        self.optimizer = accelerator.prepare_optimizer(make_optimizer([*chosen.own, *chosen.other], schedule))
        self._wrap()
        self._start_average()

    @property
    def params(self) -> list[torch.Tensor]:
        """The trained tensors."""
        return [*self.chosen.own, *self.chosen.other]

    @property
    def averages(self) -> tuple[Any, ...]:
        """The averaged weights, if there are any."""
        return () if self.ema is None else (self.ema,)

    def _wrap(self) -> None:
        """Compile the network as it is now, or let processes average its gradients."""
        self.model = compiled(self.chosen.model, self.settings.compile, self.accelerator.num_processes)
        self.untried = self.model is not self.chosen.model
        synced = SyncedNorms(self.chosen.model) if self.settings.sync_bn and self.many else None
        self.passing = contextlib.nullcontext if synced is None else synced.active
        if self.many and self.chosen.own:
            devices = [self.accelerator.device] if self.accelerator.device.type == "cuda" else None
            unused = self.settings.unused_parameters
            self.model = DistributedDataParallel(self.model, devices, find_unused_parameters=unused)

    def _lay_out(self) -> None:
        """Give new weights, averages and states of the optimizer the memory format of the training."""
        form = self.settings.memory_format
        if form is not None:
            for model in (self.chosen.model, *(average.module for average in self.averages)):
                set_memory_format_(model, form)
        align_states_(self.optimizer)

    def _start_average(self) -> None:
        self.ema = averaged_weights(self.chosen.model, self.schedule.ema) if self.schedule.ema > 0 else None

    def follow(self) -> None:
        """Continue with the network as hooks have left it; they may have made it smaller.

        Raises:
            ModelError: the optimizer or the averaged weights have not followed, or processes differ.
        """
        require_same_everywhere(self.chosen.model)
        if self.chosen.follow():
            require_followed(self.chosen, self.optimizer, self.averages)
            self._lay_out()
            self._wrap()

    def state(self, step: int, epoch: int, loss: float | None = None) -> StepState:
        """Return the state of the training for hooks."""
        return StepState(self.chosen.model, self.optimizer.optimizer, step, epoch, loss, self.averages)

    def step(self, group: Sequence[Batch], step: int, steps: int, epoch: int) -> Mapping[str, torch.Tensor]:
        """Take one optimizer step over the batches of a group.

        Returns:
            The mean of each loss term over the group, detached.
        """
        seed_step(self.settings.seed, step, self.accelerator.process_index)
        state = self.state(step, epoch)
        for hook in self.hooks:
            hook.before_step(state)
        set_rates(self.optimizer, self.schedule, step, steps)
        with self.passing():
            sums, loss = self._tried(group, step) if self.untried else self._passes(group)
        self._reduce_other()
        if self.schedule.clip > 0:
            self.accelerator.clip_grad_norm_(self.params, self.schedule.clip)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.chosen.model, step + 1)
        state.loss = loss
        for hook in self.hooks:
            hook.after_step(state)
        self.optimizer.zero_grad()
        return sums

    def _passes(self, group: Sequence[Batch]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Compute the gradients of a group; returns the mean of each loss term, and their sum, detached."""
        sums: dict[str, torch.Tensor] = {}
        losses: list[torch.Tensor] = []
        for index, batch in enumerate(group):
            last = index == len(group) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                with self.accelerator.autocast():
                    terms = loss_terms(
                        self.objective(self.model, self.tensors.send_to_device(batch, self.accelerator.device))
                    )
                    loss = total_loss(terms) / len(group)
                self.accelerator.backward(loss)
            losses.append(loss.detach())
            for name, term in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(term.detach())) + term.detach() / len(group)
        return sums, torch.stack(losses).sum()

    def _tried(self, group: Sequence[Batch], step: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Do `_passes` for the first time with a compiled network; if that fails, without compilation."""
        self.untried = False
        buffers = list(self.chosen.model.buffers())
        before = [buffer.clone() for buffer in buffers]
        try:
            return self._passes(group)
        except Exception as error:  # compilers fail with errors of every kind; those of the network itself come again
            warn_uncompiled(error)
        self.model = self.chosen.model
        self.optimizer.zero_grad()
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        seed_step(self.settings.seed, step, self.accelerator.process_index)
        return self._passes(group)

    def _reduce_other(self) -> None:
        # DistributedDataParallel sees the network's parameters only.
        for param in self.chosen.other if self.many else ():
            if param.grad is not None:
                param.grad = self.accelerator.reduce(param.grad, "mean")

    def figures(self, progress: Progress, epoch: int) -> dict[str, float]:
        """Return the named metrics of an epoch's steps, equal on all processes.

        Raises:
            ModelError: the loss, a weight or a statistic is no longer finite.
        """
        means = {name: self.accelerator.reduce(value, "mean") for name, value in progress.means().items()}
        terms = {name: float(value) for name, value in means.items()}
        loss, advice = sum(terms.values()), advice_for(self.schedule)
        named = {f"the loss {name!r}": value for name, value in terms.items()}
        require_finite_figures({**named, "the loss": loss}, f"fit, epoch {epoch + 1}", advice)
        wrong = diverged(self.chosen)
        # batch statistics differ between processes, but all processes have to stop together
        if float(self.accelerator.reduce(torch.tensor(float(wrong is not None), device=self.accelerator.device))):
            raise ModelError(f"fit, epoch {epoch + 1}: {wrong or 'a tensor'} is no longer finite; {advice}")
        return {"epoch": epoch + 1.0, "lr": self.optimizer.param_groups[0]["lr"], "loss": loss, **terms}

    def judged(self, evaluate: Evaluate | None, epoch: int, *, last: bool) -> dict[str, float]:
        """Evaluate the network, with its averaged weights if there are any.

        After the last epoch it is evaluated as it is handed over: in full precision.

        Raises:
            ModelError: a metric is not finite.
        """
        if evaluate is None:
            return {}
        model = self.chosen.model if self.ema is None else self.ema.module
        self._equalise(model)
        with contextlib.nullcontext() if last else in_autocast(model, self.accelerator):
            found = {f"val_{name}": float(value) for name, value in evaluate(model).items()}
        require_finite_figures(found, f"fit, epoch {epoch + 1}", advice_for(self.schedule))
        return found

    def _equalise(self, model: nn.Module) -> None:
        """Give all processes the statistics of the main process, as DistributedDataParallel does before each step."""
        for buffer in model.buffers() if self.many else ():
            buffer.copy_(self.tensors.broadcast(buffer))

    def restore(self, folder: FitFolder) -> Progress:
        """Resume from the folder's checkpoint if there is one."""
        found = folder.read()
        if found is None:
            return Progress()
        moved = folder.restore(found, self.chosen, self.hooks)
        if moved:
            put_parameters(self.optimizer, moved)
            self._lay_out()
            self._wrap()
            self._start_average()
        if not found.done:
            self.optimizer.load_state_dict(found.state["optimizer"])
            if self.accelerator.scaler is not None and found.state["scaler"]:
                self.accelerator.scaler.load_state_dict(found.state["scaler"])
            if self.ema is not None:
                self.ema.module.load_state_dict(found.state["ema"])
            self._lay_out()
        return Progress.restored(found)

    def save(self, folder: FitFolder, progress: Progress, stop: threading.Event) -> None:
        """Write a checkpoint from the main process; stop here if Ctrl-C was pressed."""
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
        """Copy the final weights to the network on all processes, and mark the training as finished."""
        if self.ema is not None:
            hand_over(self.ema, self.chosen.model)
        self._equalise(self.chosen.model)
        progress.done = True
        if self.accelerator.is_main_process and folder.path is not None:
            folder.write(progress, self.chosen, self.hooks, {})
