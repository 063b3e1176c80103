"""Loops by hand that follow a schedule to the letter: one as in tutorials, and one whose optimizer takes a closure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from edakari.core.protocols import Hook, Objective, Schedule, StepState
from edakari.train import set_rates
from edakari.train.optim import make_optimizer

Step = Callable[[torch.optim.Optimizer, Callable[[], torch.Tensor]], torch.Tensor]


def looping(step: Step) -> Any:
    """The loop, but for how the optimizer is told to take its step."""

    def fit(
        model: nn.Module,
        objective: Objective,
        schedule: Schedule,
        *,
        hooks: Sequence[Hook] = (),
        params: Sequence[torch.Tensor] | None = None,
        batches: Iterable[Any] | None = None,
    ) -> None:
        given: Any = batches
        trained = [each for each in model.parameters() if each.requires_grad] if params is None else list(params)
        optimizer = make_optimizer(trained, schedule)
        per_epoch = -(-len(given) // schedule.accumulate)
        state = StepState(model, optimizer, 0, 0)
        for state.epoch in range(schedule.epochs):
            if hasattr(given, "set_epoch"):
                given.set_epoch(state.epoch)
            source, losses = iter(given), []
            while group := list(itertools.islice(source, schedule.accumulate)):
                state.loss = None
                for hook in hooks:
                    hook.before_step(state)
                set_rates(optimizer, schedule, state.step, per_epoch * schedule.epochs)

                def gradients(group: Sequence[Any] = group) -> torch.Tensor:
                    optimizer.zero_grad()
                    total = torch.zeros(())
                    for batch in group:
                        loss = torch.stack([*objective(model, batch).values()]).sum() / len(group)
                        loss.backward()  # type: ignore[no-untyped-call]
                        total = total + loss.detach()
                    if schedule.clip:
                        nn.utils.clip_grad_norm_(trained, schedule.clip)
                    return total

                state.loss = step(optimizer, gradients)
                losses.append(float(state.loss))
                for hook in hooks:
                    hook.after_step(state)
                state.step += 1
            state.loss = sum(losses) / len(losses)
            for hook in hooks:
                hook.end_epoch(state)

    return fit


def computed_first(optimizer: torch.optim.Optimizer, gradients: Callable[[], torch.Tensor]) -> torch.Tensor:
    loss = gradients()
    optimizer.step()
    return loss


def computed_inside(optimizer: torch.optim.Optimizer, gradients: Callable[[], torch.Tensor]) -> torch.Tensor:
    return optimizer.step(gradients)  # type: ignore[arg-type, return-value]


plain = looping(computed_first)
closure = looping(computed_inside)
