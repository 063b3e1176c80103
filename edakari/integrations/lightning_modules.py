"""Lightning's module around a training of edakari's, and the callback for modules of your own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edakari.core.optional import needs
from edakari.core.protocols import Hook
from edakari.errors import WrongArgument
from edakari.integrations.hook_calls import HookCalls
from edakari.integrations.session import Session

with needs("lightning", "training with Lightning"):
    import lightning

__all__ = ["HookCallback", "SessionModule", "new_trainer"]


class SessionModule(lightning.LightningModule):
    """A training's network, loss and hooks as a `LightningModule`.

    Args:
        session: the training.
    """

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.network = session.network
        self._session = session

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the session's optimizer."""
        assert self._session.optimizer is not None
        return self._session.optimizer

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Call the hooks before a step's first batch; `training_step` would be too late, as the optimizer calls it."""
        if batch_idx % self._session.schedule.accumulate == 0:
            self._session.before_step()
            self._session.set_rate()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Compute the loss of a batch."""
        loss: torch.Tensor = self.network(batch)
        # Lightning divides by `accumulate` at the end of an epoch too, where a step may have fewer batches
        return loss * (self._session.schedule.accumulate / self._session.group_size)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take the optimizer's step, then call the hooks."""
        super().optimizer_step(*args, **kwargs)
        self._session.after_step()

    def on_train_epoch_end(self) -> None:
        """Call the hooks at the end of an epoch."""
        self._session.end_epoch()

    def train(self, mode: bool = True) -> SessionModule:
        """Set the mode as the session's network does."""
        super().train(mode)
        self.network.train(mode)
        return self


class HookCallback(lightning.Callback):
    """Calls edakari's hooks in the training of a `LightningModule` of your own.

    A function that trains your module with this callback is a `fit` for `edakari.prune`:

        def fit(model, objective, schedule, *, hooks=(), params=None, batches=None):
            trainer = lightning.Trainer(max_epochs=schedule.epochs, callbacks=[HookCallback(model, hooks)])
            trainer.fit(MyModule(model), my_loader)

    Args:
        model: the network that is pruned, inside of your module.
        hooks: the hooks that `fit` was given.
    """

    def __init__(self, model: nn.Module, hooks: Sequence[Hook]) -> None:
        self._calls, self._taken = HookCalls(model, hooks), 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Call `before_step`, unless the batch belongs to a step that has begun."""
        if len(trainer.optimizers) != 1:
            raise WrongArgument(f"HookCallback: a module with one optimizer is needed, found {len(trainer.optimizers)}")
        self._taken = trainer.global_step
        self._calls.before_step(trainer.optimizers[0])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Call `after_step` if the optimizer has taken its step."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, torch.Tensor):
            self._calls.add(loss)
        if trainer.global_step != self._taken:
            self._calls.after_step(trainer.optimizers[0])

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Call `end_epoch`."""
        self._calls.end_epoch(trainer.optimizers[0])


def new_trainer(arguments: Mapping[str, Any]) -> Any:
    """Make a Lightning `Trainer`.

    Raises:
        WrongArgument: it does not take the arguments.
    """
    try:
        return lightning.Trainer(**arguments)
    except TypeError as error:
        raise WrongArgument(
            f"edakari.integrations.lightning.fit: lightning.Trainer refuses its arguments: {error}"
        ) from None
