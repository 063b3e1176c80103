"""What all integrations share: the steps of a training as hooks and the schedule see them."""

from __future__ import annotations

import contextlib
import dataclasses as dc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from edakari.core.processes import Processes
from edakari.core.protocols import Batch, Hook, Objective, Schedule
from edakari.errors import DataError, ModelError, SettingsError, WrongArgument
from edakari.integrations.hook_calls import HookCalls
from edakari.train.accelerators import require_fp16
from edakari.train.average import averaged_weights, hand_over
from edakari.train.epochs import steps_per_epoch
from edakari.train.fits import require_converging
from edakari.train.following import require_followed, require_one_process
from edakari.train.optim import set_rates
from edakari.train.penalty import penalty_of
from edakari.train.precision import with_precision
from edakari.train.scope import Trained, random_state_kept, trained
from edakari.train.terms import loss_terms, total_loss

__all__ = [
    "Asked",
    "EpochBatches",
    "Session",
    "TrainedNetwork",
    "device_of",
    "likely_device",
    "refuse_governed",
    "refuse_sharding",
    "session",
]


@dc.dataclass(frozen=True)
class Asked:
    """The arguments of a `Fit`; see `edakari.core.protocols.Fit`.

    Args:
        model: the network.
        objective: returns the named loss terms of a batch.
        schedule: schedule and optimizer settings.
        hooks: hooks that are called around every step.
        params: parameters to train.
        batches: training batches with a length.
    """

    model: nn.Module
    objective: Objective
    schedule: Schedule
    hooks: Sequence[Hook] = ()
    params: Sequence[torch.Tensor] | None = None
    batches: Iterable[Batch] | None = None


class Session:
    """The steps of one training; run state.

    A loop calls `before_step`, `loss` for each batch of the step, and `after_step`, then `end_epoch` after each epoch,
    and `finish` in the end.

    Args:
        chosen: the trained tensors.
        asked: what is to be done.
        device: device of the training.
    """

    def __init__(self, chosen: Trained, asked: Asked, device: torch.device) -> None:
        if asked.batches is None:
            raise WrongArgument("this fit has no training data of its own; call it with batches=...")
        if any(not isinstance(tensor, nn.Parameter) for tensor in chosen.other):
            raise ModelError("this fit trains tensors outside of the network only if they are nn.Parameter")
        self.chosen, self.objective, self.device = chosen, asked.objective, device
        self.schedule = with_precision(asked.schedule, device, None)
        require_fp16(self.schedule.precision, cpu=device.type != "cuda")
        self.per_epoch = steps_per_epoch(asked.batches, self.schedule)
        self.batches = EpochBatches(asked.batches, self)
        self.network = TrainedNetwork(self)
        self.ema = averaged_weights(chosen.model, self.schedule.ema) if self.schedule.ema > 0 else None
        self.optimizer: torch.optim.Optimizer | None = None
        hooks = [*asked.hooks, *penalty_of(self.schedule)]
        self.calls = HookCalls(chosen.model, hooks, () if self.ema is None else (self.ema,))

    @property
    def params(self) -> list[torch.Tensor]:
        """The tensors for the optimizer."""
        return [*self.chosen.own, *self.chosen.other]

    @property
    def step(self) -> int:
        """Index of the current step, from 0 over all epochs."""
        return self.calls.step

    @property
    def epoch(self) -> int:
        """Index of the current epoch, from 0."""
        return self.calls.epoch

    @property
    def steps(self) -> int:
        """Number of optimizer steps of the complete training."""
        return self.per_epoch * self.schedule.epochs

    @property
    def group_size(self) -> int:
        """Number of batches in the current step; the last step of an epoch may have fewer than others."""
        return min(self.schedule.accumulate, len(self.batches) - self.step % self.per_epoch * self.schedule.accumulate)

    def distributed(self) -> nn.Module:
        """Return the network to call with batches; with several processes, it averages their gradients."""
        if Processes.here().world == 1:
            return self.network
        return DistributedDataParallel(self.network)

    def unsynchronised(self, network: nn.Module) -> AbstractContextManager[None]:
        """Context in which processes do not average gradients, for all but the last batch of a step."""
        return network.no_sync() if isinstance(network, DistributedDataParallel) else contextlib.nullcontext()

    def before_step(self) -> None:
        """Call the hooks before the first forward pass of a step."""
        self.calls.before_step(self._optimizer)

    def set_rate(self) -> None:
        """Set the learning rate of this step by the schedule, and the momentum if its curve changes it."""
        set_rates(self._optimizer, self.schedule, self.step, self.steps)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Compute the loss of a batch, a scalar tensor: the sum of the objective's terms.

        The sum over a step's batches is to be divided by `group_size` for the gradients.
        """
        loss = total_loss(loss_terms(self.objective(self.chosen.model, batch)))
        self.calls.add(loss / self.group_size)
        return loss

    def after_step(self) -> None:
        """Update the averaged weights and call the hooks; gradients must still be there."""
        if self.ema is not None:
            self.ema.update(self.chosen.model, self.step + 1)
        self.calls.after_step(self._optimizer)

    def end_epoch(self) -> None:
        """Stop a training that diverged, then call the hooks.

        Raises:
            DataError: the loop took another number of steps than the batches have.
            ModelError: the loss, a weight or a statistic is no longer finite; or a hook made the network smaller, and
                the optimizer or the averaged weights have not followed, or there are several processes.
        """
        if self.step != (self.epoch + 1) * self.per_epoch:
            found = self.step - self.epoch * self.per_epoch
            raise DataError(f"fit: an epoch gave {found} steps, its length {self.per_epoch}")
        require_converging(self.chosen, self.schedule, self.epoch, self.calls.mean())
        self.calls.end_epoch(self._optimizer)
        if self.chosen.follow():
            require_one_process("of another library's trainer")
            require_followed(self.chosen, self._optimizer, self.calls.averages)

    def finish(self) -> None:
        """Copy the averaged weights into the network if there are any."""
        if self.ema is not None:
            hand_over(self.ema, self.chosen.model)

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        assert self.optimizer is not None
        return self.optimizer


class TrainedNetwork(nn.Module):
    """The network as other libraries' trainers call it: from a batch to its loss.

    Args:
        session: the training.
    """

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.model = session.chosen.model
        # trainers move, clip and reset the parameters of the network that they are given
        self.beside = nn.ParameterList(cast("list[nn.Parameter]", session.chosen.other))
        self._session = session

    def forward(self, batch: Batch) -> torch.Tensor:
        """Compute the loss of a batch, a scalar tensor."""
        return self._session.loss(batch)

    def train(self, mode: bool = True) -> TrainedNetwork:
        """Set the mode; batch normalisations that keep their statistics stay in evaluation mode."""
        super().train(mode)
        for module in self._session.chosen.frozen:
            module.eval()
        return self


class EpochBatches:
    """The batches of each epoch; tells the epoch to batches that ask for it.

    Args:
        batches: iterable with a length.
        session: the training.
    """

    def __init__(self, batches: Iterable[Batch], session: Session) -> None:
        self.given, self._session = batches, session

    def __len__(self) -> int:
        return len(self.given)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        # a generator: Lightning asks for an iterator that it then drops
        if hasattr(self.given, "set_epoch"):
            self.given.set_epoch(self._session.epoch)
        yield from self.given


def likely_device(*, cpu: bool) -> torch.device:
    """Return the device that a library's trainer will choose, which has to be told a precision before it says so."""
    return torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")


def device_of(asked: Asked) -> torch.device:
    """Return the device of the network's parameters, or of the others that are trained."""
    tensors = (*asked.model.parameters(), *(asked.params or ()))
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


@contextlib.contextmanager
def session(asked: Asked, device: torch.device) -> Iterator[Session]:
    """Context of a training: gradients of what is trained, modes, device and random states are restored at the end.

    Args:
        asked: what is to be done.
        device: device of the training.

    Raises:
        DataError: there are no batches, or they have no length.
        ModelError: there is nothing to train.
    """
    with random_state_kept(), trained(asked.model, asked.params, device) as chosen:
        made = Session(chosen, asked, device)
        chosen.train()
        yield made
        made.finish()


SHARDING = ("fsdp", "deepspeed", "modelparallel", "megatron")
"""Parts of the names of strategies by which libraries shard networks among processes."""


def refuse_sharding(call: str, strategy: str, instead: str) -> None:
    """Refuse a strategy that shards networks among processes.

    Args:
        call: the call, for the message.
        strategy: name of the strategy.
        instead: what to use instead.

    Raises:
        SettingsError: the strategy shards networks.
    """
    name = strategy.lower().replace("_", "")
    if any(part in name for part in SHARDING):
        raise SettingsError(
            f"{call}: {strategy!r} shards the network among processes, but each needs the whole network to prune it; "
            f"use {instead}, and shard the pruned network when you train it on"
        )


def refuse_governed(call: str, given: Iterable[str], governed: Mapping[str, str]) -> None:
    """Refuse settings of a library's trainer that the schedule decides.

    Args:
        call: name of the function, for the message.
        given: names of the settings that the user has given.
        governed: for each setting that may not be given, the field of `Schedule` that decides it.

    Raises:
        SettingsError: one of them is given; says which field decides it.
    """
    for name in given:
        if name in governed:
            raise SettingsError(
                f"{call}: {name} is decided by the schedule, which each training brings; set {governed[name]} there"
            )
