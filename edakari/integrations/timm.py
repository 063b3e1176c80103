"""Training as in timm's train script: its optimizers, schedulers, clipping, loss scaling and averaged weights."""

from __future__ import annotations

import contextlib
import dataclasses as dc
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from edakari.core.optional import require_packages
from edakari.core.protocols import Batch, Hook, Objective, Schedule
from edakari.core.settings import settings
from edakari.errors import SettingsError
from edakari.integrations.session import Asked, Session, device_of, refuse_governed, session
from edakari.train.accelerators import nested_tensors
from edakari.train.epochs import groups_of
from edakari.train.optim import make_optimizer, parameter_groups
from edakari.train.optimizers import of_timm, timm_arguments

__all__ = ["TimmFit", "fit"]

OPTIMIZER = {"lr": "lr", "weight_decay": "weight_decay", "momentum": "momentum"}
SCHEDULER = {
    "num_epochs": "epochs",
    "min_lr": "final_lr",
    "updates_per_epoch": "epochs",
    "step_on_epochs": "epochs",
}
TORCHS = ("adam", "adamw", "rmsprop", "sgd")
"""Optimizers of the schedule that timm makes too."""
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@settings
class TimmFit:
    """A training loop of timm's parts; make it with `edakari.integrations.timm.fit`.

    Mixup and CutMix of timm belong to the batches: give a loader that mixes, and a loss for mixed targets.

    Args:
        optimizer: arguments of `timm.optim.create_optimizer_v2`, such as `{"opt": "lamb", "layer_decay": 0.75}`.
            Without `opt`, the schedule names the optimizer.
        scheduler: arguments of `timm.scheduler.create_scheduler_v2`, such as `{"sched": "poly"}`, which counts epochs.
            Empty follows the schedule, whatever its curve.
        clip_mode: how `clip` of the schedule clips gradients: by "norm", by "value", or adaptively ("agc").
    """

    optimizer: Mapping[str, Any] = dc.field(default_factory=dict)
    scheduler: Mapping[str, Any] = dc.field(default_factory=dict)
    clip_mode: Literal["norm", "value", "agc"] = "norm"

    def __post_init__(self) -> None:
        require_packages("train", "training with timm", "timm", "accelerate")
        refuse_governed("edakari.integrations.timm.fit, optimizer", self.optimizer, OPTIMIZER)
        refuse_governed("edakari.integrations.timm.fit, scheduler", self.scheduler, SCHEDULER)

    def __call__(
        self,
        model: nn.Module,
        objective: Objective,
        schedule: Schedule,
        *,
        hooks: Sequence[Hook] = (),
        params: Sequence[torch.Tensor] | None = None,
        batches: Iterable[Batch] | None = None,
    ) -> None:
        """See `edakari.core.protocols.Fit`."""
        asked = Asked(model, objective, schedule, hooks, params, batches)
        with session(asked, device_of(asked)) as run:
            run.optimizer = self._optimizer(run)
            set_rate, update, network = self._rates(run, run.optimizer), self._updater(run), run.distributed()
            for epoch in range(run.schedule.epochs):
                network.train()
                for group in groups_of(run.batches.given, epoch, 0, run.schedule.accumulate):
                    run.before_step()
                    set_rate()
                    for index, batch in enumerate(group):
                        last = index == len(group) - 1
                        with contextlib.nullcontext() if last else run.unsynchronised(network):
                            with _autocast(run):
                                loss = network(nested_tensors().send_to_device(batch, run.device)) / len(group)
                            update(loss, last)
                    run.after_step()
                    run.optimizer.zero_grad()
                run.end_epoch()

    def _optimizer(self, run: Session) -> torch.optim.Optimizer:
        schedule = run.schedule
        if "opt" not in self.optimizer and schedule.optimizer not in (*TORCHS, *of_timm()):
            return make_optimizer(run.params, schedule)
        # timm takes decay and layers from a network's names, which parameters beside the network lack
        trained = parameter_groups(run.params, schedule) if run.chosen.other else run.chosen.model
        arguments = _arguments(schedule, self.optimizer)
        made: torch.optim.Optimizer = _timm("optim").create_optimizer_v2(trained, **arguments)
        return made

    def _rates(self, run: Session, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        """Function that sets the learning rate of a step: by timm's scheduler if one is named, else by the schedule."""
        schedule = run.schedule
        if not self.scheduler:
            return run.set_rate
        if schedule.curve is not None:
            raise SettingsError(
                "edakari.integrations.timm.fit: the schedule has a curve, and a scheduler of timm is given; keep one"
            )
        arguments = {"num_epochs": schedule.epochs, "min_lr": schedule.lr * schedule.final_lr, **self.scheduler}
        arguments["updates_per_epoch"] = run.per_epoch
        rates = _timm("scheduler").create_scheduler_v2(optimizer, step_on_epochs=False, **arguments)[0]
        return lambda: rates.step_update(run.step)

    def _updater(self, run: Session) -> Callable[[torch.Tensor, bool], None]:
        """Function that computes gradients and, with the last batch of a step, updates the weights."""
        optimizer, clip = run.optimizer, run.schedule.clip or None
        assert optimizer is not None
        if run.schedule.precision == "fp16":
            scaler = _timm("utils").NativeScaler(device=run.device.type)
            own = {"clip_grad": clip, "clip_mode": self.clip_mode}

            def scaled(loss: torch.Tensor, last: bool) -> None:
                scaler(loss, optimizer, need_update=last, parameters=run.params, **own)

            return scaled

        def plain(loss: torch.Tensor, last: bool) -> None:
            loss.backward()  # type: ignore[no-untyped-call]
            if last:
                if clip:
                    _timm("utils").dispatch_clip_grad(run.params, clip, mode=self.clip_mode)
                optimizer.step()

        return plain


def fit(
    *,
    optimizer: Mapping[str, Any] | None = None,
    scheduler: Mapping[str, Any] | None = None,
    clip_mode: Literal["norm", "value", "agc"] = "norm",
) -> TimmFit:
    """Make a training loop of timm's parts, for `edakari.prune(..., fit=...)`.

        edakari.prune(model, task, "macs<=50%", "smcp", fit=edakari.integrations.timm.fit(optimizer={"opt": "lamb"}))

    Args:
        optimizer: see `TimmFit`; this and the following.
        scheduler: arguments of timm's scheduler factory.
        clip_mode: how gradients are clipped.

    Raises:
        MissingPackage: timm is not installed.
        SettingsError: an argument is one that the schedule decides, such as `lr`.
    """
    return TimmFit(optimizer=optimizer or {}, scheduler=scheduler or {}, clip_mode=clip_mode)


def _timm(part: str) -> Any:
    """A module of timm, which has no type annotations."""
    return importlib.import_module(f"timm.{part}")


def _arguments(schedule: Schedule, own: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of timm's factory of optimizers: those of the schedule, and the user's.

    Raises:
        SettingsError: the schedule sets something of its optimizer that the user sets too, or for another optimizer.
    """
    if "opt" in own and schedule.optimizer == "sgd":  # a method says it of SGD alone
        options = {name: value for name, value in (schedule.optimizer_options or {}).items() if name != "nesterov"}
        schedule = dc.replace(schedule, optimizer_options=options or None)
    given = ("eps", "betas", *(schedule.optimizer_options or ()))
    for name in given:
        if getattr(schedule, name, name) is not None and (name in own or "opt" in own):
            raise SettingsError(
                f"edakari.integrations.timm.fit: {name} is set by the schedule for its optimizer "
                f"{schedule.optimizer!r}, and optimizer sets {'another by opt' if 'opt' in own else name}; keep one"
            )
    known = dc.replace(schedule, optimizer="sgd") if "opt" in own else schedule
    return {**timm_arguments(known), **own}


def _autocast(run: Session) -> Any:
    half = HALVES.get(run.schedule.precision)
    return contextlib.nullcontext() if half is None else torch.autocast(run.device.type, dtype=half)
