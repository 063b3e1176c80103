"""Training by a Lightning `Trainer`, and a callback for trainers and modules of your own."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edakari.core.optional import require_packages
from edakari.core.protocols import Batch, Hook, Objective, Schedule
from edakari.core.settings import settings
from edakari.integrations.session import Asked, likely_device, refuse_governed, refuse_sharding, session
from edakari.train.optim import make_optimizer
from edakari.train.precision import with_precision

if TYPE_CHECKING:
    from edakari.integrations.lightning_modules import HookCallback

__all__ = ["HookCallback", "LightningFit", "fit"]

GOVERNED = {
    "max_epochs": "epochs",
    "min_epochs": "epochs",
    "max_steps": "epochs",
    "min_steps": "epochs",
    "accumulate_grad_batches": "accumulate",
    "gradient_clip_val": "clip",
    "precision": "precision",
}
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
DEFAULTS: Mapping[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}


@settings
class LightningFit:
    """Training by a Lightning `Trainer`; make it with `edakari.integrations.lightning.fit`.

    Args:
        trainer: arguments of `lightning.Trainer`. There is no logger, no checkpoint and no summary unless you ask for
            them, and the batches are not divided among processes again.
    """

    trainer: Mapping[str, Any] = dc.field(default_factory=dict)

    def __post_init__(self) -> None:
        require_packages("lightning", "training with Lightning", "lightning", "accelerate", "timm")
        strategy = self.trainer.get("strategy", "")
        refuse_sharding(
            "edakari.integrations.lightning.fit(strategy=...)",
            strategy if isinstance(strategy, str) else type(strategy).__name__,
            "strategy='ddp'",
        )
        refuse_governed("edakari.integrations.lightning.fit", self.trainer, GOVERNED)

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
        from edakari.integrations.lightning_modules import SessionModule, new_trainer

        cpu = self.trainer.get("accelerator") == "cpu"
        schedule = with_precision(schedule, likely_device(cpu=cpu), None)
        decided = {
            "max_epochs": schedule.epochs,
            "accumulate_grad_batches": schedule.accumulate,
            "gradient_clip_val": schedule.clip or None,
            "precision": PRECISIONS[schedule.precision],
        }
        trainer = new_trainer({**DEFAULTS, **self.trainer, **decided})
        asked = Asked(model, objective, schedule, hooks, params, batches)
        with session(asked, trainer.strategy.root_device) as run:
            run.optimizer = make_optimizer(run.params, run.schedule)
            trainer.fit(SessionModule(run), run.batches)


def fit(**trainer: Any) -> LightningFit:
    """Make a training by a Lightning `Trainer`, for `edakari.prune(..., fit=...)`.

        edakari.prune(model, task, "macs<=50%", "smcp", fit=edakari.integrations.lightning.fit(accelerator="gpu"))

    Args:
        trainer: arguments of `lightning.Trainer`, such as `accelerator`, `callbacks` or `logger`.

    Raises:
        MissingPackage: Lightning is not installed.
        SettingsError: an argument is one that the schedule decides, such as `max_epochs`.
    """
    return LightningFit(trainer=trainer)


def __getattr__(name: str) -> Any:
    if name == "HookCallback":
        from edakari.integrations.lightning_modules import HookCallback

        return HookCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
