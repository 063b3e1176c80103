"""One process of a search whose processes train apart, so that their gates differ; writes what it decided."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from edakari.core.protocols import StepState
from edakari.graph import trace
from edakari.methods.tickets.gate_search import GateSearch
from edakari.methods.tickets.landing import SearchBudget
from edakari.methods.tickets.search_settings import Duration, GateSearchSettings
from edakari.models.supernet_blocks import SearchBlock

EPOCHS, STEPS = 4, 4
HOW = GateSearchSettings(rho=0.25, eps=0.1, warmup_epochs=0, interval=1, min_saving=1.0, decay=0.9)


def network() -> nn.Module:
    torch.manual_seed(0)
    stem = (nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
    return nn.Sequential(*stem, SearchBlock(6, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


def searched(rank: int) -> tuple[GateSearch, torch.Tensor]:
    """Train on data of one's own; returns the search and the gates before its first event."""
    model = network()
    graph = trace(model, torch.zeros(1, 3, 8, 8))
    budget = SearchBudget.of("macs<=60%", graph)
    search = GateSearch(HOW, model, graph, Duration(EPOCHS, STEPS), budget=budget)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    generator, first = torch.Generator().manual_seed(rank), torch.zeros(0)
    for step in range(EPOCHS * STEPS):
        x, y = torch.randn(16, 3, 8, 8, generator=generator), torch.randint(3, (16,), generator=generator)
        state = StepState(model.train(), optimizer, step, step // STEPS)
        search.before_step(state)
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        search.after_step(state)
        optimizer.zero_grad()
        if step % STEPS == STEPS - 1:
            first = search.vector.scales().detach().clone() if step < STEPS else first
            search.end_epoch(state)
    return search, first


def main(folder: Path) -> None:
    torch.distributed.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    search, first = searched(rank)
    events = [event.to_dict() for event in search.history]
    written = {"gates": first.tolist(), "plan": search.plan.to_json(), "events": events, "rho": search.rho}
    (folder / f"{rank}.json").write_text(json.dumps(written))
