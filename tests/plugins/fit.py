"""A training loop of a user's own, written out by hand."""

from __future__ import annotations

import torch

from edakari.core.protocols import StepState


def plain(model, objective, schedule, *, hooks=(), params=None, batches=None):
    params = [each for each in model.parameters() if each.requires_grad] if params is None else list(params)
    state = StepState(model, torch.optim.SGD(params, schedule.lr, schedule.momentum), step=0, epoch=0)
    for state.epoch in range(schedule.epochs):
        losses = []
        for batch in batches:
            state.loss = None
            for hook in hooks:
                hook.before_step(state)
            loss = sum(objective(model, batch).values())
            loss.backward()
            state.optimizer.step()
            state.loss = loss.detach()
            losses.append(state.loss)
            for hook in hooks:
                hook.after_step(state)
            state.optimizer.zero_grad()
            state.step += 1
        state.loss = float(torch.stack(losses).mean())
        for hook in hooks:
            hook.end_epoch(state)
