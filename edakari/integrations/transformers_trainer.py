"""Transformers' trainer around a training of edakari's, and the callback for trainers of your own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edakari.core.optional import needs
from edakari.core.protocols import Hook
from edakari.errors import SettingsError, WrongArgument
from edakari.integrations.hook_calls import HookCalls
from edakari.integrations.session import EpochBatches, Session
from edakari.train.accelerators import nested_tensors
from edakari.train.optim import learning_rate

with needs("transformers", "training with transformers"):
    import transformers

__all__ = ["HookCallback", "SessionCallback", "SessionTrainer", "new_trainer", "training_arguments"]


class SessionTrainer(transformers.Trainer):
    """A `Trainer` whose network returns its loss, and whose batches are a session's."""

    session: Session

    def get_train_dataloader(self) -> EpochBatches:
        """Return the session's batches."""
        return self.session.batches

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, *rest: Any) -> tuple[list[Any], None]:
        """Return the batches of a step; the loss is a mean already, so labels need not be counted."""
        return list(itertools.islice(epoch_iterator, num_batches)), None

    def compute_loss(self, model: nn.Module, inputs: Any, *rest: Any, **others: Any) -> torch.Tensor:
        """Compute the loss of a batch."""
        loss: torch.Tensor = model(inputs)
        return loss

    def _prepare_inputs(self, inputs: Any) -> Any:
        return nested_tensors().send_to_device(inputs, self.args.device)


class SessionCallback(transformers.TrainerCallback):
    """Tells a session of steps and epochs.

    Args:
        session: the training.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    def on_step_begin(self, *given: Any, **others: Any) -> None:
        """Begin a step; the trainer's own scheduler sets no momentum."""
        self.session.before_step()
        self.session.set_rate()

    def on_optimizer_step(self, *given: Any, **others: Any) -> None:
        """End a step, before gradients are reset."""
        self.session.after_step()

    def on_epoch_end(self, *given: Any, **others: Any) -> None:
        """End an epoch."""
        self.session.end_epoch()


class HookCallback(transformers.TrainerCallback):
    """Calls edakari's hooks in a `Trainer` of your own.

    A function that trains with this callback is a `fit` for `edakari.prune`:

        def fit(model, objective, schedule, *, hooks=(), params=None, batches=None):
            arguments = transformers.TrainingArguments("out", num_train_epochs=schedule.epochs)
            callbacks = [HookCallback(model, hooks)]
            transformers.Trainer(model, arguments, train_dataset=mine, callbacks=callbacks).train()

    Hooks see the loss if the trainer's network returns it, as those of transformers do when they are given labels.

    Args:
        model: the network that is pruned.
        hooks: the hooks that `fit` was given.
    """

    def __init__(self, model: nn.Module, hooks: Sequence[Hook]) -> None:
        self._calls, self._handle = HookCalls(model, hooks), None
        self._losses: list[torch.Tensor] = []

    def __deepcopy__(self, memo: Any) -> HookCallback:
        # a copy of the network copies its hooks, among them the one that watches the losses
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Begin to watch the losses that the network returns."""
        self._handle = others["model"].register_forward_hook(self._watch)

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Call `before_step`."""
        self._losses = []
        self._calls.before_step(_plain(others["optimizer"]))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Call `after_step`, before gradients are reset."""
        if self._losses:
            self._calls.add(torch.stack(self._losses).mean())
        self._calls.after_step(_plain(others["optimizer"]))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Call `end_epoch`."""
        self._calls.end_epoch(_plain(others["optimizer"]))

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Stop watching."""
        if self._handle is not None:
            self._handle.remove()

    def _watch(self, module: nn.Module, given: Any, outputs: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
        if module.training and isinstance(loss, torch.Tensor) and loss.requires_grad:
            self._losses.append(loss.detach().mean())


def training_arguments(given: Mapping[str, Any]) -> Any:
    """Make `TrainingArguments`.

    Raises:
        WrongArgument: it does not take the arguments.
        SettingsError: the arguments ask for several devices in one process.
    """
    try:
        arguments = transformers.TrainingArguments(**given)
    except TypeError as error:
        text = f"edakari.integrations.transformers.fit: TrainingArguments refuses its arguments: {error}"
        raise WrongArgument(text) from None
    if arguments.n_gpu > 1:
        raise SettingsError(
            f"edakari.integrations.transformers.fit: one process would train on {arguments.n_gpu} GPUs, which keeps "
            "hooks from seeing gradients; start one process per GPU with torchrun, or set CUDA_VISIBLE_DEVICES"
        )
    return arguments


def new_trainer(session: Session, arguments: Any, callbacks: Sequence[Any]) -> SessionTrainer:
    """Make the trainer of a session.

    Args:
        session: the training, with its optimizer.
        arguments: `TrainingArguments`.
        callbacks: the user's callbacks.
    """
    schedule, steps = session.schedule, session.steps

    def factor(step: int) -> float:
        return learning_rate(schedule, step, steps) / schedule.lr

    scheduler = torch.optim.lr_scheduler.LambdaLR(session.optimizer, factor)  # type: ignore[arg-type]
    trainer = SessionTrainer(
        session.network,
        arguments,
        callbacks=[SessionCallback(session), *callbacks],
        optimizers=(session.optimizer, scheduler),
    )
    trainer.session = session
    return trainer


def _plain(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside of accelerate's."""
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner
