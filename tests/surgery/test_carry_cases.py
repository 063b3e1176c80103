"""What `carry` does with groups, names, ties, averages of one's own, and states that cannot be cut."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import edakari as ek
from edakari.core.copying import copied
from edakari.core.plan import DropBranch, KeepChannels, KeepTokens, Plan
from edakari.errors import EdakariWarning, PlanError, StateError, WrongArgument
from edakari.testing import enlivened, random_plan, toy_vit
from tests.surgery.masked_training import (
    EXAMPLE,
    OPTIMIZERS,
    Make,
    cnn,
    halves,
    positions,
    states_of,
    timm_optimizer,
    train,
)


@pytest.mark.parametrize("name", ["sgd", "adamw fused", "adamw foreach", "nadam", "timm lookahead", "timm lamb"])
def test_a_group_stays_when_its_parameters_have_gone(name: str) -> None:
    model = cnn()
    graph = ek.trace(model, EXAMPLE)
    branch = graph.branches[0]
    inside = [param for key, param in model.named_parameters() if key in branch.parameters]
    rest = [(key, param) for key, param in model.named_parameters() if key not in branch.parameters]
    make = OPTIMIZERS[name]
    optimizer = make([{"params": inside, "lr": 0.02}, {"params": [param for _, param in rest], "lr": 0.01}])
    scheduler = None if "lookahead" in name else torch.optim.lr_scheduler.StepLR(optimizer, 1)
    train(model, optimizer, 2)
    plan = Plan((DropBranch(branch.name),), graph.fingerprint, graph.inputs)
    small = ek.apply(model, plan, graph)
    ek.carry(optimizer, model, small, plan, graph=graph)
    first, *others = optimizer.param_groups
    assert first["params"] == []
    assert first["lr"] == 0.02
    held = [param for group in others for param in group["params"]]
    assert {id(param) for param in held} == {id(param) for param in small.parameters()}
    assert states_of(optimizer).keys() <= set(small.parameters())
    train(small, optimizer, 2)
    optimizer.load_state_dict(optimizer.state_dict())
    if scheduler is not None:
        scheduler.step()


def test_names_of_parameters_follow() -> None:
    model = cnn()
    optimizer = torch.optim.AdamW(model.named_parameters())
    small, plan = halves(model, drop=1.0)
    ek.carry(optimizer, model, small, plan)
    assert optimizer.param_groups[0]["param_names"] == [name for name, _ in small.named_parameters()]
    assert len(list(small.parameters())) < len(list(model.parameters()))


def test_a_tied_parameter_keeps_its_state_when_its_first_name_goes() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.last, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
            self.last.weight = self.branch.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            return self.head(self.last(x + self.branch(x))).mean((2, 3))

    model = Shared().double()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    train(model, optimizer, 2)
    momentum = optimizer.state[model.last.weight]["momentum_buffer"].clone()
    graph = ek.trace(model, EXAMPLE)
    plan = Plan(tuple(DropBranch(branch.name) for branch in graph.branches), graph.fingerprint, graph.inputs)
    small = ek.apply(model, plan, graph)
    assert "branch.weight" not in dict(small.named_parameters())
    ek.carry(optimizer, model, small, plan)
    torch.testing.assert_close(optimizer.state[small.last.weight]["momentum_buffer"], momentum)


def test_what_the_optimizer_does_not_train_and_what_is_not_the_models() -> None:
    model, centres = cnn(), torch.zeros(4, 3, requires_grad=True)
    for name, param in model.named_parameters():
        param.requires_grad_(not name.startswith("stem"))  # frozen, and the head is not in the optimizer
    params = [param for name, param in model.named_parameters() if not name.startswith("head")]
    optimizer = torch.optim.Adam([{"params": [*params, centres]}])
    train(model, optimizer, 2)
    centres.grad = torch.ones_like(centres)
    optimizer.step()
    moment = optimizer.state[centres]["exp_avg"]
    small, plan = halves(model)
    ek.carry(optimizer, model, small, plan)
    held = optimizer.param_groups[0]["params"]
    wanted = [param for name, param in small.named_parameters() if not name.startswith("head")]
    assert [id(param) for param in held] == [id(param) for param in (*wanted, centres)]
    assert optimizer.state[centres]["exp_avg"] is moment
    assert not any(param.requires_grad for param in small.stem.parameters())
    assert not optimizer.state.keys() & set(model.parameters())


def test_wrapped_networks_are_unwrapped() -> None:
    model = cnn()
    wrapped = nn.DataParallel(model)
    optimizer, average = torch.optim.Adam(wrapped.parameters()), AveragedModel(wrapped)
    train(model, optimizer, 1)
    small, plan = halves(model)
    ek.carry(optimizer, wrapped, nn.DataParallel(small), plan, average)
    average.update_parameters(nn.DataParallel(small))
    train(small, optimizer, 1)
    assert {id(param) for param in optimizer.param_groups[0]["params"]} == {id(param) for param in small.parameters()}


class Shadow:
    """An average of a user's own: tensors by name, and the network itself."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.shadow = {name: param.detach().clone() for name, param in model.named_parameters()}
        self.in_order = [param.detach().clone() for param in model.parameters()]


def test_averages_of_tensors_follow() -> None:
    model = cnn()
    optimizer, average = torch.optim.Adam(model.parameters()), Shadow(model)
    small, plan = halves(model, drop=1.0)
    ek.carry(optimizer, model, small, plan, average)
    assert average.model is small
    for (name, param), value in zip(small.named_parameters(), average.in_order, strict=True):
        torch.testing.assert_close(average.shadow[name], param.detach())
        torch.testing.assert_close(value, param.detach())


def test_selectors_of_tokens_are_not_trained_without_a_word() -> None:
    model = enlivened(toy_vit())
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, 1)
    graph = ek.trace(model, EXAMPLE)
    edit = KeepTokens("blocks.1", 8, "dynamicvit")
    plan = Plan((edit,), graph.fingerprint, graph.inputs)
    small = ek.apply(model, plan, graph)
    with pytest.warns(EdakariWarning, match="add_param_group"):
        ek.carry(optimizer, model, small, plan)
    train(small, optimizer, 1)


class Rows(torch.optim.Optimizer):
    """An optimizer with a matrix over the rows of each weight, which may look like a square weight's own state."""

    def __init__(self, params: Any, on_rows: bool = True) -> None:
        super().__init__(params, {"lr": 0.1})
        self.on_rows = on_rows

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                rows = param.grad.flatten(1) if param.dim() > 1 else param.grad[:, None]
                self.state[param]["parts"] = {"flat": param.grad.flatten(), "pair": (param.grad.clone(), 3)}
                if self.on_rows:
                    self.state[param]["rows"] = rows @ rows.T
                param.sub_(param.grad, alpha=group["lr"])


def square() -> nn.Module:
    layers = [nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))]
    return nn.Sequential(*layers).double()


def test_nested_and_flat_states_are_cut() -> None:
    model = square()
    optimizer = Rows(model.parameters(), on_rows=False)
    train(model, optimizer, 1)
    gradients = {name: param.grad.flatten() for name, param in model.named_parameters()}
    small, plan = halves(model)
    where = positions(model, plan)
    ek.carry(optimizer, model, small, plan)
    for name, param in small.named_parameters():
        parts = optimizer.state[param]["parts"]
        assert torch.equal(parts["pair"][0], gradients[name][where[name]])
        assert torch.equal(parts["flat"], gradients[name][where[name]].flatten())
        assert parts["pair"][1] == 3
        assert parts["pair"][0].stride() == param.stride()


def unchanged(optimizer: torch.optim.Optimizer) -> list[int]:
    return [id(param) for group in optimizer.param_groups for param in group["params"]] + [*map(id, optimizer.state)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda params: Rows(list(params)[2:]), r"'rows' of parameter '3.weight'.*\[6, 6\]"),
        (torch.optim.Adafactor, "'row_var' of parameter"),
        (torch.optim.LBFGS, "history"),
        (timm_optimizer("adafactorbv", min_dim_size_to_factor=4), "'exp_avg_sq_r' of parameter"),
    ],
)
def test_states_that_join_entries_are_refused_and_may_be_cleared(make: Make, message: str) -> None:
    model = square()
    optimizer = make(model.parameters())
    for _ in range(2):

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = model(torch.ones_like(EXAMPLE)).square().sum()
            loss.backward()
            return loss

        closure()
        optimizer.step(closure)
    small, plan = halves(model)
    before = unchanged(optimizer)
    with pytest.raises(StateError, match=message) as caught:
        ek.carry(optimizer, model, small, plan)
    assert "optimizer.state.pop" in str(caught.value)
    assert unchanged(optimizer) == before
    optimizer.state.clear()
    ek.carry(optimizer, model, small, plan)
    model = small
    closure()
    optimizer.step(closure)


def test_states_that_join_entries_stay_where_nothing_is_cut() -> None:
    model = square()
    optimizer = Rows(model.parameters())
    train(model, optimizer, 1)
    kept = {name: optimizer.state[param] for name, param in model.named_parameters()}
    plan = random_plan(ek.trace(model, EXAMPLE), 1.0)
    small = ek.apply(model, plan)
    ek.carry(optimizer, model, small, plan)
    for name, param in small.named_parameters():
        assert optimizer.state[param]["rows"] is kept[name]["rows"]


def test_tensors_that_an_optimizer_holds_elsewhere() -> None:
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    vars(optimizer)["trained"] = list(model.parameters())
    small, plan = halves(model)
    ek.carry(optimizer, model, small, plan)
    assert [id(each) for each in vars(optimizer)["trained"]] == [id(each) for each in small.parameters()]
    for held in (dict.fromkeys(model.parameters(), 1), {"a": [torch.zeros(3)]}, tuple(model.parameters())):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        vars(optimizer)["memory"] = held
        with pytest.raises(StateError, match="'memory'"):
            ek.carry(optimizer, model, small, plan)
    uncut = random_plan(ek.trace(model, EXAMPLE), 1.0)  # even so, there are new parameters
    with pytest.raises(StateError, match="'memory'"):
        ek.carry(optimizer, model, ek.apply(model, uncut), uncut)


def test_a_state_that_processes_divide_is_refused() -> None:
    divided = type("ZeroRedundancyOptimizer", (torch.optim.SGD,), {})  # torch's own needs a process group
    model = cnn()
    small, plan = halves(model)
    with pytest.raises(StateError, match="divided among processes"):
        ek.carry(divided(model.parameters(), 0.1), model, small, plan)


def test_what_does_not_belong_together_is_told() -> None:
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    small, plan = halves(model)
    with pytest.raises(StateError, match=r"trains no parameter of this ToyCNN.*not a copy"):
        ek.carry(torch.optim.SGD(cnn().parameters(), 0.1), model, small, plan)
    with pytest.raises(StateError, match="already"):
        ek.carry(torch.optim.SGD(small.parameters(), 0.1), model, small, plan)
    with pytest.raises(PlanError, match="not the result of the plan"):
        ek.carry(optimizer, model, cnn(), plan)
    with pytest.raises(PlanError, match="not the result of the plan: it has no"):
        ek.carry(optimizer, model, halves(model, drop=1.0)[0], plan)
    with pytest.raises(PlanError, match="another network"):
        ek.carry(optimizer, small, model, plan)
    with pytest.raises(WrongArgument, match="optimizer"):
        ek.carry(model, optimizer, small, plan)
    with pytest.raises(PlanError, match="plan"):
        ek.carry(optimizer, model, plan, small)
    for wrong in (copied(model), nn.Identity(), AveragedModel(nn.Linear(2, 2))):
        with pytest.raises(StateError, match="no averaged weights"):
            ek.carry(optimizer, model, small, plan, wrong)
    assert unchanged(optimizer) == [id(param) for param in model.parameters()]


def test_twice_and_the_plans_joined() -> None:
    model = cnn()
    optimizer, at_once = (torch.optim.Adam(model.parameters()) for _ in range(2))
    train(model, optimizer, 2)
    at_once.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    first = random_plan(ek.trace(model, EXAMPLE), 0.8, 1)
    middle = ek.apply(model, first)
    second = random_plan(ek.trace(middle, EXAMPLE), 0.6, 2, drop=0.5)
    small, other = ek.apply(middle, second), ek.apply(model, first.then(second))
    ek.carry(optimizer, model, middle, first)
    ek.carry(optimizer, middle, small, second)
    ek.carry(at_once, model, other, first.then(second))
    assert any(isinstance(edit, KeepChannels) for edit in second.edits)
    for one, two in zip(small.parameters(), other.parameters(), strict=True):
        assert torch.equal(optimizer.state[one]["exp_avg"], at_once.state[two]["exp_avg"])
