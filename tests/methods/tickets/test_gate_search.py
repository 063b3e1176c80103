"""The search: schedules, deaths, neutral removal, budgets and resumption, with the paper's numbers."""

from __future__ import annotations

import copy
import dataclasses as dc

import pytest
import torch
from torch import nn
from torch.nn import functional

from edakari.core.protocols import StepState
from edakari.cost import macs
from edakari.errors import InfeasibleBudget, ModelError, StateError
from edakari.graph import trace
from edakari.methods.tickets.constants import Removal, fold_constants
from edakari.methods.tickets.gate_search import GateSearch
from edakari.methods.tickets.landing import SearchBudget
from edakari.methods.tickets.search_settings import Duration, GateSearchSettings, average_decay
from edakari.models.supernet_blocks import SearchBlock
from edakari.surgery import apply
from edakari.testing import enlivened


class Net(nn.Module):
    """A stem, two search blocks and a head."""

    def __init__(self, inputs: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(inputs, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.first, self.second = SearchBlock(8, 8), SearchBlock(8, 12, 2)
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(self.stem(x))).mean((2, 3)))


QUICK = GateSearchSettings(rho=0.1, warmup_epochs=0, interval=1, min_saving=1.0)


def close_gates(model: nn.Module, every: int = 3, value: float = 0.0) -> None:
    """Set every so-manieth gate of all paths to a value."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, SearchBlock):
                for name in module.gate_norms:
                    module.get_submodule(name).weight[::every] = value


def search_of(model: nn.Module, settings: GateSearchSettings = QUICK, epochs: int = 10, **others) -> GateSearch:
    graph = trace(model, torch.zeros(1, 3, 8, 8, dtype=next(model.parameters()).dtype))
    return GateSearch(settings, model, graph, Duration(epochs, 4), **others)


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer, step: int = 0, epoch: int = 0) -> StepState:
    return StepState(model, optimizer, step, epoch)


def test_the_strength_rises_as_in_the_paper():
    settings = GateSearchSettings(rho=1.0)
    assert settings.strength(0, 93) == 0
    assert settings.strength(1162, 93) == 1162 / 2325
    assert settings.strength(2325, 93) == settings.strength(10**6, 93) == 1
    free = GateSearchSettings(free_epochs=5.0, warmup_epochs=15.0)
    assert [free.strength(step, 10) for step in (0, 50, 100, 150, 151)] == [0, 0, 0.5, 1, 1]
    assert average_decay(0.9999875, 1) == 2 / 11
    assert average_decay(0.9999875, 90) == 0.91
    assert average_decay(0.5, 90) == 0.5


def removal_of(search: GateSearch, eps: float = 1e-3) -> Removal:
    """Everything with a dead gate."""
    gates = search.vector.gates(search.vector.scales()).numpy()
    keep = {name: gates[span] > eps for name, span in search.vector.spans.items()}
    norms = {each.name: each.norms for each in search.groups}
    emptied = [search.emptied[name] for name, part in keep.items() if not part.any()]
    return Removal({name: part for name, part in keep.items() if not part.all()}, norms, emptied)


@pytest.mark.parametrize("kind", ["positive", "negative", "one path", "all paths"])
def test_removal_of_dead_units_is_neutral(kind):
    """The specification's block of 8 channels with every third gate at 0; also paths and blocks without any unit."""
    torch.manual_seed(0)
    model = enlivened(Net()).float()
    close_gates(model)
    search = search_of(model)
    for name in ("first", "second"):
        for index, path in enumerate(model.get_submodule(name).paths):
            goes = f"{name}.paths.{index}.0.0" in search.emptied
            if goes and index < {"one path": 1, "all paths": 3}.get(kind, 0):
                path[1][1].weight.detach().zero_()
            path[1][1].bias.detach().abs_().mul_(-1 if kind == "negative" else 1)
    x = torch.randn(16, 3, 8, 8)
    dense = model(x).detach()
    plan = search.survivors.after(dict(removal_of(search).keep), search.emptied, search.graph).plan(search.graph)
    bare = apply(model, plan, search.graph)
    difference = float((bare(x) - dense).detach().abs().max())
    assert difference == 0 if kind == "negative" else difference > 1e-2
    torch.testing.assert_close(copy.deepcopy(bare).train()(x), copy.deepcopy(model).train()(x), rtol=1e-5, atol=1e-5)
    assert fold_constants(model, search.graph, removal_of(search)) == ()
    small = apply(model, plan, search.graph)
    torch.testing.assert_close(small(x), dense, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(copy.deepcopy(small).train()(x), copy.deepcopy(model).train()(x), rtol=1e-5, atol=1e-5)
    if kind == "all paths":
        assert not any(name.startswith("first.paths") for name, _ in small.named_parameters())


class Linear(nn.Module):
    """Branches on a stream without activations (inverted residuals), a pooled concatenation and a flattened head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.blocks = nn.ModuleList(self.block() for _ in range(2))
        self.left = nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.Hardswish())
        self.right = nn.Sequential(nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.SiLU())
        self.merge = nn.Sequential(nn.Conv2d(10, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8 * 4, 4)

    @staticmethod
    def block() -> nn.Sequential:
        hidden = (nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6())
        return nn.Sequential(*hidden, nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        x = functional.avg_pool2d(torch.cat([self.left(x), self.right(x)], 1), 2)
        return self.head(functional.adaptive_max_pool2d(self.merge(x), 2).flatten(1))


class Excited(Linear):
    """The same with squeeze-and-excitation, behind which constants depend on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        left = self.left(x)
        left = left * self.weigh(x.mean((2, 3), keepdim=True)[:, :4]).sigmoid()
        x = functional.avg_pool2d(torch.cat([left, self.right(x)], 1), 2)
        return self.head(functional.adaptive_max_pool2d(self.merge(x), 2).flatten(1))


@pytest.mark.parametrize("dropped", [(), ("blocks.0.0",), ("blocks.0.0", "blocks.1.0")])
def test_removal_is_neutral_in_other_networks(dropped):
    """Layers with and without biases, poolings, a concatenation, a flattened head, and branches that go whole."""
    torch.manual_seed(0)
    model = enlivened(Linear())
    search = search_of(model)
    assert set(search.emptied) == {"blocks.0.0", "blocks.1.0"}
    with torch.no_grad():
        for each in search.groups:
            for norm in each.norms if each.name != "stem.0" else ():
                model.get_parameter(norm)[:: 1 if each.name in dropped else 3] = 0
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    dense = model(x).detach()
    removal = removal_of(search)
    later = search.survivors.after(removal.keep, search.emptied, search.graph)
    plan = later.plan(search.graph)
    assert later.dropped == tuple(search.emptied[name].name for name in dropped)
    assert float((apply(model, plan, search.graph)(x) - dense).detach().abs().max()) > 1e-3
    assert fold_constants(model, search.graph, removal) == ()
    torch.testing.assert_close(apply(model, plan, search.graph)(x), dense, rtol=1e-9, atol=1e-9)


class Scaled(Linear):
    """The same with blocks that are added by halves, or stacked with the stream and added."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.add(x, self.blocks[0](x), alpha=0.5)
        x = torch.stack([x, self.blocks[1](x)]).sum(0)
        x = functional.avg_pool2d(torch.cat([self.left(x), self.right(x)], 1), 2)
        return self.head(functional.adaptive_max_pool2d(self.merge(x), 2).flatten(1))


def test_constants_behind_other_sums_are_left_and_said():
    torch.manual_seed(0)
    model = enlivened(Scaled())
    search = search_of(model)
    assert set(search.emptied) == {"blocks.0.0", "blocks.1.0"}
    with torch.no_grad():
        for norm in ("blocks.0.1", "blocks.1.1"):
            model.get_submodule(norm).weight.zero_()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert set(fold_constants(model, search.graph, removal_of(search))) == {"blocks.0:branch", "blocks.1:branch"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_constants_that_depend_on_the_input_are_left_and_said():
    torch.manual_seed(0)
    model = enlivened(Excited())
    search = search_of(model)
    with torch.no_grad():
        model.left[1].weight[0] = model.right[1].weight[0] = 0
    before = model.merge[1].running_mean.clone()
    assert set(fold_constants(model, search.graph, removal_of(search))) == {"left.0", "right.0"}
    assert not torch.equal(model.merge[1].running_mean, before)  # what is constant has been folded


def event(search: GateSearch, model: nn.Module, epoch: int, live: float, averaged: float) -> int:
    """Give one unit a gate and an average, run an event, and return how many units it removed."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    search.before_step(state_of(model, optimizer))
    with torch.no_grad():
        model.first.paths[0][1][1].weight[3] = live
    search.average[3] = averaged
    before = sum(search.vector.sizes.values())
    search.end_epoch(state_of(model, optimizer, 4 * epoch, epoch))
    return before - sum(search.vector.sizes.values())


@pytest.mark.parametrize(
    ("live", "averaged", "in_mid_run", "at_the_end"), [(5e-4, 5e-2, 0, 0), (5e-2, 5e-4, 0, 1), (5e-4, 5e-4, 1, 1)]
)
def test_who_dies(live, averaged, in_mid_run, at_the_end):
    model = Net()
    heard = []
    search = search_of(model, listeners=[heard.append])
    assert event(search, model, 3, live, averaged) == in_mid_run
    assert heard[-1].executed == (averaged < 1e-3)
    model = Net()
    assert event(search_of(model), model, 9, live, averaged) == at_the_end


def test_a_small_saving_cuts_nothing_before_the_last_event():
    model = Net()
    search = search_of(model, dc.replace(QUICK, min_saving=1e9))
    assert event(search, model, 3, 0.0, 0.0) == 0
    assert search.history[-1].saving == search.groups[0].macs(1) == 64 * 8 + 64 * (9 + 8)
    assert not search.history[-1].executed
    assert event(search, model, 9, 0.0, 0.0) == 1
    assert search.history[-1].macs == macs(search.graph).total({}) - search.groups[0].macs(1)
    assert [each.epoch for each in search.history] == [4, 10]


def train(model: nn.Module, search: GateSearch, epochs: range, lr: float = 0.05, average: object = None) -> None:
    """A loop of one's own: the network learns the brightest quarter of an image."""
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    averages = () if average is None else (average,)
    for step in range(4 * epochs.start, 4 * epochs.stop):
        generator = torch.Generator().manual_seed(step)
        y = torch.randint(4, (32,), generator=generator)
        x = torch.randn(32, 3, 8, 8, generator=generator) * 0.5
        for index, label in enumerate(y.tolist()):
            x[index, :, 4 * (label // 2) :, 4 * (label % 2) :] += 0.5
        state = StepState(model.train(), optimizer, step, step // 4, averages=averages)
        search.before_step(state)
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        if average is not None:
            average.update_parameters(model)
        search.after_step(state)
        optimizer.zero_grad()
        if step % 4 == 3:
            search.end_epoch(state)


def test_a_search_removes_units_in_any_loop_and_its_plan_tells_which():
    torch.manual_seed(0)
    model = Net()
    dense = copy.deepcopy(model)
    average = torch.optim.swa_utils.AveragedModel(model)
    search = search_of(model, dc.replace(QUICK, rho=0.25, eps=0.05, interval=2, decay=0.9), epochs=8)
    train(model, search, range(8), lr=0.1, average=average)
    units = [sum(each.units.values()) for each in search.history]
    assert len(units) == 4
    assert units == sorted(units, reverse=True)
    assert 0 < units[-1] < sum(each.group.size for each in search.groups)
    small = apply(dense, search.plan, search.graph)
    shapes = {name: tensor.shape for name, tensor in small.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in average.module.state_dict().items()}
    assert search.history[-1].macs == macs(trace(model, torch.zeros(1, 3, 8, 8))).total({})
    assert sum(search.history[-1].gates) == sum(search.history[-2].units.values())


def test_a_search_that_was_stopped_continues_where_it_was():
    settings = dc.replace(QUICK, rho=0.25, eps=0.05, interval=2, decay=0.9)
    torch.manual_seed(0)
    first, second = Net(), Net()
    second.load_state_dict(first.state_dict())
    search, again = search_of(first, settings, 8), search_of(second, settings, 8)
    train(first, search, range(6), lr=0.1)
    assert search.plan.edits
    again.load_state_dict(search.state_dict())
    again.reshape(second)
    second.load_state_dict(first.state_dict())
    for model, each in ((first, search), (second, again)):
        train(model, each, range(6, 8), lr=0.1)
    assert search.plan == again.plan
    assert [each.to_dict() for each in search.history] == [each.to_dict() for each in again.history]
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    for changed in (dc.replace(settings, interval=3), dc.replace(settings, rho=1.0)):
        with pytest.raises(StateError, match="Resume with the same settings"):
            search_of(Net(), changed, 8).load_state_dict(search.state_dict())


def test_a_penalty_that_kills_the_network_stops_it():
    torch.manual_seed(0)
    model = Linear()
    search = search_of(model, dc.replace(QUICK, rho=50.0, eps=0.5, decay=0.0), epochs=20)
    with pytest.raises(ModelError, match=r"after epoch \d+: all \d+ units of group '.*' are dead.*lower rho"):
        train(model, search, range(20), lr=0.02)


@pytest.mark.parametrize("limit", ["macs<=40%", "macs<=75%, params<=80%"])
def test_a_budget_is_met_within_one_percent(limit):
    torch.manual_seed(0)
    model = Net()
    graph = trace(model, torch.zeros(1, 3, 8, 8))
    budget = SearchBudget.of(limit, graph)
    excesses = []
    search = search_of(
        model,
        dc.replace(QUICK, rho=0.01, eps=0.05, interval=2, decay=0.9),
        epochs=8,
        budget=budget,
        listeners=[lambda _: excesses.append(budget.limits.excess(search.survivors.sizes()))],
    )
    train(model, search, range(8), lr=0.1)
    assert len(excesses) == 4
    assert min(excesses) >= -0.01  # no event removes more than the budget asks for
    assert excesses[1] > 0
    assert excesses[2] <= 0  # a quarter of the epochs is left to repair the network
    assert search.history[2].units == search.history[3].units
    assert max(each.rho for each in search.history) > 0.01  # it began too weak
    assert search.rho == 0


def test_budgets_respect_legal_sizes_and_refuse_what_cannot_be_reached():
    torch.manual_seed(0)
    model = Net()
    graph = trace(model, torch.zeros(1, 3, 8, 8))
    groups = [dc.replace(group, step=8, least=8) for group in graph.groups]
    search = search_of(
        model, dc.replace(QUICK, rho=0.0), epochs=2, budget=SearchBudget.of("macs<=50%", graph), groups=groups
    )
    train(model, search, range(2))
    sizes, limits = search.survivors.sizes(), search.budget.limits
    assert all(sizes[name] % 8 == 0 for name in search.survivors.units)
    assert limits.excess(sizes) <= 0
    for name, branch in search.emptied.items():  # nothing more would have fitted
        size = 0 if branch.name in search.survivors.dropped else sizes[name]
        more = {key: value for key, value in sizes.items() if key != branch.name} | {name: size + 8}
        assert size == graph[name].size or limits.excess(more) > 0
    with pytest.raises(InfeasibleBudget, match="cannot reach the budget"):
        search_of(Net(), budget=SearchBudget.of("macs<=1%", graph))


def test_frozen_gates_are_refused():
    model = Net()
    search = search_of(model)
    optimizer = torch.optim.SGD(model.head.parameters(), 0.1)
    with pytest.raises(ModelError, match=r"does not train 'first\.paths\.0\.1\.1\.weight'"):
        search.before_step(state_of(model, optimizer))
