"""Training by the `Trainer` of Hugging Face transformers, and a callback for trainers of your own."""

from __future__ import annotations

import dataclasses as dc
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edakari.core.optional import require_packages
from edakari.core.protocols import Batch, Hook, Objective, Schedule
from edakari.core.settings import settings
from edakari.integrations.session import Asked, likely_device, refuse_governed, refuse_sharding, session
from edakari.train.accelerators import device_here
from edakari.train.optim import make_optimizer
from edakari.train.precision import with_precision

if TYPE_CHECKING:
    from edakari.integrations.transformers_trainer import HookCallback

__all__ = ["HookCallback", "TransformersFit", "fit"]

GOVERNED = {
    "num_train_epochs": "epochs",
    "max_steps": "epochs",
    "learning_rate": "lr",
    "lr_scheduler_type": "lr and curve",
    "lr_scheduler_kwargs": "lr and curve",
    "warmup_steps": "warmup",
    "warmup_ratio": "warmup",
    "weight_decay": "weight_decay",
    "optim": "optimizer",
    "gradient_accumulation_steps": "accumulate",
    "max_grad_norm": "clip",
    "bf16": "precision",
    "fp16": "precision",
}


@settings
class TransformersFit:
    """Training by transformers' `Trainer`; make it with `edakari.integrations.transformers.fit`.

    Args:
        arguments: arguments of `transformers.TrainingArguments`. Nothing is saved or reported unless you ask for it.
        callbacks: callbacks of the trainer.
    """

    arguments: Mapping[str, Any] = dc.field(default_factory=dict)
    callbacks: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        require_packages("transformers", "training with transformers", "transformers", "accelerate", "timm")
        refuse_governed("edakari.integrations.transformers.fit", self.arguments, GOVERNED)
        for name in ("fsdp", "deepspeed"):
            asked = name if self.arguments.get(name) else ""
            refuse_sharding(f"edakari.integrations.transformers.fit({name}=...)", asked, "torchrun without it")

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
        from edakari.integrations.transformers_trainer import new_trainer, training_arguments

        cpu = bool(self.arguments.get("use_cpu"))
        schedule = with_precision(schedule, likely_device(cpu=cpu), None)
        device_here(cpu=cpu)  # forgets the precision of accelerate's last training
        with tempfile.TemporaryDirectory() as folder:
            decided = {
                "num_train_epochs": schedule.epochs,
                "learning_rate": schedule.lr,
                "gradient_accumulation_steps": schedule.accumulate,
                "max_grad_norm": schedule.clip,
                "bf16": schedule.precision == "bf16",
                "fp16": schedule.precision == "fp16",
            }
            defaults = {"output_dir": folder, "save_strategy": "no", "report_to": "none"}
            arguments = training_arguments({**defaults, **self.arguments, **decided})
            with session(Asked(model, objective, schedule, hooks, params, batches), arguments.device) as run:
                run.optimizer = make_optimizer(run.params, run.schedule)
                new_trainer(run, arguments, self.callbacks).train()


def fit(*, callbacks: Sequence[Any] = (), **arguments: Any) -> TransformersFit:
    """Make a training by transformers' `Trainer`, for `edakari.prune(..., fit=...)`.

        edakari.prune(model, task, "macs<=50%", "smcp", fit=edakari.integrations.transformers.fit(logging_steps=10))

    Args:
        callbacks: callbacks of the trainer.
        arguments: arguments of `transformers.TrainingArguments`, such as `use_cpu`, `logging_steps` or `report_to`.

    Raises:
        MissingPackage: transformers is not installed.
        SettingsError: an argument is one that the schedule decides, such as `learning_rate`.
    """
    return TransformersFit(arguments=arguments, callbacks=tuple(callbacks))


def __getattr__(name: str) -> Any:
    if name == "HookCallback":
        from edakari.integrations.transformers_trainer import HookCallback

        return HookCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
