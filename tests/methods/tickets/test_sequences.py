"""Search and pruning one after the other, as baselines of SuperTickets."""

from __future__ import annotations

import dataclasses as dc
from typing import Any

import pytest

from edakari.core.protocols import Schedule
from edakari.cost import macs
from edakari.cost.sparse import sparse_counts
from edakari.errors import BudgetError, SettingsError
from edakari.methods.supertickets import SuperTickets
from edakari.methods.tickets.sequences import LotteryTicket, PruneThenSearch, SearchThenPrune
from edakari.surgery import apply, held_masks
from edakari.testing import toy_cnn, toy_job

SEARCH: dict[str, Any] = {"rho": 0.01, "interval": 1, "warmup_epochs": 0.0, "min_saving": 1.0, "decay": 0.9}
TICKETS = SuperTickets(search=SEARCH, schedule=Schedule(epochs=3, lr=0.05, weight_decay=0.0))


@pytest.mark.parametrize(
    "method",
    [
        *(
            SearchThenPrune(tickets=TICKETS, score=score)
            for score in ("magnitude", "random", "snip", "grasp", "synflow")
        ),
        LotteryTicket(tickets=TICKETS),
        PruneThenSearch(tickets=TICKETS, after=2),
    ],
    ids=lambda method: f"{type(method).__name__} {getattr(method, 'score', '')}",
)
def test_they_meet_the_same_budget(method: Any) -> None:
    model = toy_cnn()
    job = toy_job(model, "macs<=50%, sparsity>=70%")
    outcome = method.prune(job)
    left, every = sparse_counts(job.graph, outcome.plan).maskable
    assert every - left == int(0.7 * every)
    assert 0.48 < macs(job.graph).total(outcome.plan.sizes()) / macs(job.graph).total({}) <= 0.5
    small = apply(toy_cnn(), outcome.plan, job.graph)
    assert {n: t.shape for n, t in small.state_dict().items()} == {
        n: t.shape for n, t in outcome.model.state_dict().items()
    }
    masks = held_masks(outcome.model)
    assert masks == held_masks(small)
    early = {name: weight.equal(outcome.model.get_parameter(name)) for name, weight in small.named_parameters()}
    assert all(early.values()) == isinstance(method, LotteryTicket)


def test_masks_of_prune_then_search_are_chosen_before_the_penalty_begins() -> None:
    told: list[tuple[str, float]] = []
    job = toy_job(toy_cnn(), "macs<=50%, sparsity>=70%")

    def log(stage: str, figures: Any) -> None:
        told.append((stage, figures.get("macs", figures.get("sparsity", 0.0))))

    PruneThenSearch(tickets=TICKETS, after=2).prune(dc.replace(job, log=log))
    stages = [stage for stage, _ in told]
    assert stages.index("epoch 2") > stages.index("search event after epoch 2")
    assert dict(told)["search event after epoch 2"] == macs(job.graph).total({})


def test_settings_and_budgets_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SettingsError, match="more than half"):
        PruneThenSearch(tickets=TICKETS, after=1)
    with pytest.raises(BudgetError, match="add a sparsity"):
        SearchThenPrune(tickets=TICKETS).prune(toy_job(toy_cnn(), "macs<=50%"))
