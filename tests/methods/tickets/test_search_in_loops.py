"""A search in several processes, under scalers of losses, and of tokens."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from edakari.core.protocols import StepState
from edakari.cost import macs
from edakari.graph import trace
from edakari.methods.tickets.gate_search import GateSearch
from edakari.methods.tickets.search_settings import Duration, GateSearchSettings
from edakari.models.supernet_blocks import SearchBlock
from edakari.surgery import apply, simulate
from edakari.testing import difference
from tests.methods.tickets import search_worker
from tests.together import together

HOW = GateSearchSettings(rho=0.25, eps=0.05, warmup_epochs=0, interval=2, min_saving=1.0, decay=0.9)


@pytest.mark.slow
def test_processes_with_other_gates_decide_as_the_main_one(tmp_path: Path) -> None:
    together(search_worker.main, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first.pop("gates") != second.pop("gates")  # each process has data of its own, and nothing averages gradients
    assert first == second
    assert "KeepChannels" in first["plan"]


def steps_of(kind: str, scaled: bool, broken: int = -1) -> list[torch.Tensor]:
    """Train in bfloat16, with a scaler of the loss or without, and return the gates after each step.

    Args:
        kind: whether the loop clips gradients, or the optimizer is fused: the scaler then leaves the scale to it.
        scaled: whether there is a scaler.
        broken: step whose loss is infinite.
    """
    model = search_worker.network()
    search = GateSearch(HOW, model, trace(model, torch.zeros(1, 3, 8, 8)), Duration(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=kind == "fused")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=scaled)
    generator, found = torch.Generator().manual_seed(0), []
    for step in range(8):
        x, y = torch.randn(16, 3, 8, 8, generator=generator), torch.randint(3, (16,), generator=generator)
        state = StepState(model.train(), optimizer, step, step // 2)
        search.before_step(state)
        with torch.autocast("cpu", torch.bfloat16):
            loss = functional.cross_entropy(model(x), y) * (math.inf if step == broken else 1.0)
        scaler.scale(loss).backward()
        if kind == "clipped":
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        search.after_step(state)
        optimizer.zero_grad()
        found.append(search.vector.scales().detach().clone())
        if step % 2:
            search.end_epoch(state)
    return found


@pytest.mark.parametrize("kind", ["plain", "clipped", "fused"])
def test_a_scaler_of_the_loss_does_not_scale_the_penalty(kind: str) -> None:
    for scaled, plain in zip(steps_of(kind, scaled=True), steps_of(kind, scaled=False), strict=True):
        torch.testing.assert_close(scaled, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["plain", "clipped", "fused"])
def test_a_step_that_a_scaler_skips_changes_no_gate(kind: str) -> None:
    gates = steps_of(kind, scaled=True, broken=2)
    assert gates[1].shape == gates[2].shape
    assert torch.equal(gates[1], gates[2])
    assert not torch.equal(gates[2], gates[3])


class Mixed(nn.Module):
    """Blocks whose shortcuts have token mixers, one beside an identity and one beside a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.first, self.second = SearchBlock(6, 6, 1, tokens=6), SearchBlock(6, 8, 2, tokens=5)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(self.stem(x))).mean((2, 3)))


def test_tokens_whose_gates_closed_are_cut_while_training_goes_on() -> None:
    torch.manual_seed(0)
    model = Mixed().double()
    dense, graph = copy.deepcopy(model), trace(model, torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    search = GateSearch(HOW, model, graph, Duration(4, 1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    gone = {"first.mixer.squeeze": [1, 4], "second.mixer.squeeze": [0]}

    def step(epoch: int) -> None:
        state = StepState(model.train(), optimizer, epoch, epoch)
        search.before_step(state)
        functional.cross_entropy(model(torch.randn(8, 3, 8, 8, dtype=torch.float64)), torch.arange(8) % 3).backward()
        optimizer.step()
        search.after_step(state)
        optimizer.zero_grad()
        for name, units in gone.items() if epoch == 1 else ():
            model.get_submodule(name.replace("squeeze", "norm")).weight.detach()[units] = 0.0
            search.average[search.vector.spans[name]][units] = 0.0
        search.end_epoch(state)

    for epoch in range(3):
        step(epoch)
    assert [search.survivors.sizes()[name] for name in gone] == [4, 4]
    assert (model.first.mixer.queries.shape, model.second.mixer.queries.shape) == ((4, 64), (4, 64))
    moments = {id(param): state["exp_avg"].shape for param, state in optimizer.state.items()}
    assert moments == {id(param): param.shape for param in model.parameters()}
    x = torch.randn(3, 3, 12, 10, dtype=torch.float64)
    small = apply(dense, search.plan, graph).eval()
    assert {n: p.shape for n, p in small.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    with torch.no_grad():
        assert difference(small(x), simulate(dense.eval(), search.plan, graph)(x)) < 1e-12
    total = macs(trace(model.eval(), torch.zeros(1, 3, 8, 8, dtype=torch.float64))).total({})
    assert search.history[-1].macs == macs(graph).total(search.plan.sizes()) == total
