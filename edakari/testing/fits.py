"""What `edakari.core.protocols.Fit` promises, checked on a training loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from edakari.core.protocols import Fit, Hook, Schedule, StepState
from edakari.train.fits import fit_by
from edakari.train.gradients import with_gradients

__all__ = ["check_fit"]

EPOCHS, BATCHES, PAIR = 2, 5, 2
STEPS = -(-BATCHES // PAIR)


def check_fit(fit: Fit) -> None:
    """Check that a training loop keeps the promises of `edakari.core.protocols.Fit`, on a small network.

    The loop is called as edakari calls it: with two batches for each step, a last one that stands alone, and the
    epochs, rates and gradient norm of a schedule. What it does with the learning rate is its own affair.

    Args:
        fit: the loop.

    Raises:
        AssertionError: it breaks a promise; says which.
    """
    schedule = Schedule(epochs=EPOCHS, lr=0.05, warmup=0.0, accumulate=PAIR, clip=10.0)
    network, batches, seen = _network(), _Batches(), _Watcher()
    before = [value.clone() for value in network.state_dict().values()]
    fit_by(fit)(network, _objective, batches, schedule, hooks=[seen])
    seen.require(network)
    assert batches.epochs == list(range(EPOCHS)), f"set_epoch was called with {batches.epochs}, not once an epoch"
    assert batches.given == EPOCHS * BATCHES, f"{batches.given} batches were taken, not {EPOCHS * BATCHES}"
    same = [torch.equal(a, b) for a, b in zip(before, network.state_dict().values(), strict=True)]
    assert not any(same), "parameters or statistics were left as they were"
    _check_params(fit, schedule)


def _check_params(fit: Fit, schedule: Schedule) -> None:
    """Only `params` change, beside the network's or not; batch normalisations without one keep their statistics."""
    network, factor = _network(), nn.Parameter(torch.ones(()))
    chosen = [*network[-1].parameters(), factor]
    before = {name: value.clone() for name, value in network.state_dict().items()}

    def scaled(model: nn.Module, batch: Any) -> Mapping[str, torch.Tensor]:
        return {name: factor * term for name, term in _objective(model, batch).items()}

    fit_by(fit)(network, scaled, _Batches(), schedule, params=chosen)
    last = f"{len(network) - 1}."
    for name, value in network.state_dict().items():
        changed = not torch.equal(value, before[name])
        assert changed == name.startswith(last), f"{name} {'changed' if changed else 'did not change'}, with params="
    assert float(factor.detach()) != 1.0, "a parameter outside of the network did not change, with params="


class _Batches:
    """Batches with a length that know their epoch; run state."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(4 * BATCHES, 3, 4, 4, generator=generator)
        labels = torch.arange(4 * BATCHES) % 3
        self.batches = [(images[at : at + 4], labels[at : at + 4]) for at in range(0, len(images), 4)]
        self.epochs: list[int] = []
        self.given = 0

    def __len__(self) -> int:
        return BATCHES

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __iter__(self) -> Iterator[Sequence[torch.Tensor]]:
        for batch in self.batches:
            self.given += 1
            yield batch


class _Watcher(Hook):
    """Records what hooks see; run state."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, int]] = []
        self.losses: list[float | None] = []
        self.models: list[nn.Module] = []
        self.faults: list[str] = []
        self.weights: Sequence[torch.Tensor] = ()
        self._remove: Any = None

    def before_step(self, state: StepState) -> None:
        self._note("before_step", state)
        self.weights = [param.detach().clone() for param in state.model.parameters()]
        model = state.model
        self._remove = with_gradients(state.optimizer, lambda: self._with_gradients(model, state.step))

    def after_step(self, state: StepState) -> None:
        self._note("after_step", state)
        self._remove()
        self.losses.append(None if state.loss is None else float(state.loss))
        if any(param.grad is None for param in state.model.parameters()):
            self.faults.append("gradients are reset before after_step")
        if all(torch.equal(a, b) for a, b in zip(self.weights, state.model.parameters(), strict=True)):
            self.faults.append("weights have not changed in after_step")

    def end_epoch(self, state: StepState) -> None:
        self._note("end_epoch", state)

    def require(self, network: nn.Module) -> None:
        expected = []
        for epoch in range(EPOCHS):
            for step in range(epoch * STEPS, (epoch + 1) * STEPS):
                expected += [(name, step, epoch) for name in ("before_step", "gradients", "after_step")]
            expected.append(("end_epoch", (epoch + 1) * STEPS, epoch))
        for index, (found, wanted) in enumerate(zip(self.events, expected, strict=False)):
            assert found == wanted, f"event {index} is {found}, not {wanted} (event, step, epoch)"
        assert len(self.events) == len(expected), f"there were {len(self.events)} events, not {len(expected)}"
        assert all(model is network for model in self.models), "state.model is not the network itself"
        assert not self.faults, "; ".join(dict.fromkeys(self.faults))
        assert None not in self.losses, "state.loss is None in after_step"

    def _with_gradients(self, model: nn.Module, step: int) -> None:
        self.events.append(("gradients", step, self.events[-1][2]))
        if any(param.grad is None for param in model.parameters()):
            self.faults.append("there are no gradients when the optimizer takes its step")
        if not all(torch.equal(a, b) for a, b in zip(self.weights, model.parameters(), strict=True)):
            self.faults.append("weights have changed before the optimizer takes its step")

    def _note(self, event: str, state: StepState) -> None:
        self.events.append((event, state.step, state.epoch))
        self.models.append(state.model)


def _network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def _objective(model: nn.Module, batch: Any) -> Mapping[str, torch.Tensor]:
    images, labels = batch
    logits = model(images)
    return {"cross_entropy": functional.cross_entropy(logits, labels), "size": 0.01 * logits.square().mean()}
