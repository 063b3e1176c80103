"""A sparsity that the epochs cannot reach is found before training: exactly if the choices of masks do not reach it."""

from __future__ import annotations

import dataclasses as dc
import re

import numpy as np
import pytest
import torch
from torch import nn

from edakari.core.budget import Budget
from edakari.core.method import problems_of
from edakari.core.protocols import Schedule, StepState
from edakari.methods.gate_search import GateSearchMethod
from edakari.methods.gradual_magnitude import GradualMagnitude
from edakari.methods.supertickets import SuperTickets
from edakari.methods.tickets.mask_schedule import MaskSettings
from edakari.methods.tickets.progressive_mask import ProgressiveMask
from edakari.methods.tickets.search_settings import GateSearchSettings
from edakari.methods.tickets.sequences import PruneThenSearch, SearchThenPrune

RNG = np.random.default_rng(0)


def drawn() -> tuple[GradualMagnitude, float]:
    """Settings at random, and a sparsity."""
    settings = GradualMagnitude(
        epochs=int(RNG.integers(1, 30)),
        interval=int(RNG.integers(1, 9)),
        step=float(RNG.choice([0.05, 0.1, 0.15, 0.3, 1 / 3, 0.45, 1.0, round(RNG.uniform(0.01, 1), 4)])),
        one_shot=bool(RNG.random() < 0.1),
    )
    return settings, float(RNG.choice([0.3, 0.5, 2 / 3, 0.8, 0.9, 0.95, round(RNG.uniform(0.01, 0.99), 4)]))


def reached(settings: GradualMagnitude, target: float) -> float:
    """The sparsity that the hook has asked for when the epochs are over."""
    model = nn.Conv2d(1, 1, 3)
    how = MaskSettings(interval=settings.interval, step=settings.step, one_shot=settings.one_shot).to(target)
    hook = ProgressiveMask(model, ["weight"], how)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(settings.epochs):
        hook.end_epoch(StepState(model, optimizer, step=epoch, epoch=epoch))
    return hook.events[-1].asked if hook.events else 0.0


@pytest.mark.filterwarnings("ignore:the mask of .* keeps none")
def test_a_sparsity_is_refused_exactly_if_the_choices_do_not_reach_it() -> None:
    seen = set()
    for _ in range(60):
        settings, target = drawn()
        budget = Budget((), target)
        fits = reached(settings, target) == target
        masks = MaskSettings(interval=settings.interval, step=settings.step, one_shot=settings.one_shot)
        tickets = SuperTickets(masks=masks, schedule=Schedule(epochs=settings.epochs))
        assert (not problems_of(settings, budget)) == fits
        assert (not problems_of(tickets, budget)) == fits
        seen.add(fits)
    assert seen == {True, False}


def test_what_a_refusal_advises_suffices_and_is_no_more_than_needed() -> None:
    advised = set()
    for _ in range(300):
        settings, target = drawn()
        budget = Budget((), target)
        text = problems_of(settings, budget).get("epochs", "")
        for name, value in re.findall(r"(?:raise|lower) (\w+) to ([\d.]+)", text):
            number = float(value) if name == "step" else int(value)
            changed = dc.replace(settings, **{name: number})
            assert not problems_of(changed, budget)
            less = {"epochs": number - 1, "interval": number + 1, "step": number - 2e-4}[name]
            assert problems_of(dc.replace(settings, **{name: less}), budget) if less > 0 else name == "epochs"
            advised.add(name)
        for interval, step in re.findall(r"set interval to (\d+) and step to ([\d.]+)", text):
            changed = dc.replace(settings, interval=int(interval), step=float(step))
            assert not problems_of(changed, budget)
            advised.add("both")
    assert advised == {"epochs", "interval", "step", "both"}


def test_a_penalty_that_never_acts_is_refused() -> None:
    late = GateSearchSettings(free_epochs=9.5)
    for epochs, idle in ((9, True), (10, False)):
        schedule = Schedule(epochs=epochs)
        assert ("search.free_epochs" in problems_of(SuperTickets(search=late, schedule=schedule), Budget(()))) == idle
        assert ("free_epochs" in problems_of(GateSearchMethod(free_epochs=9.5, epochs=epochs), Budget(()))) == idle
        # the strength of every step, as the hook takes it
        assert any(late.strength(step, 4) for step in range(4 * epochs)) != idle
    assert not problems_of(GateSearchMethod(rho=0.0, free_epochs=400.0), Budget.parse("macs<=50%"))


def test_no_penalty_reaches_no_budget() -> None:
    alone = GateSearchMethod(rho=0.0, steering="rho")
    assert "raise rho" in problems_of(alone, Budget.parse("macs<=50%"))["rho"]
    assert not problems_of(alone, Budget.parse("macs<=100%"))


def test_baselines_name_the_setting_of_their_part() -> None:
    tickets = SuperTickets(search=GateSearchSettings(free_epochs=30.0), schedule=Schedule(epochs=24))
    budget = Budget.parse("sparsity>=90%")
    assert list(problems_of(SearchThenPrune(tickets=tickets), budget)) == ["tickets.search.free_epochs"]
    assert not problems_of(PruneThenSearch(tickets=tickets, after=13), budget)
