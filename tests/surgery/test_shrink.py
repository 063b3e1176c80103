"""A network that becomes smaller in place continues its training as the dense one does with the same parts masked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import edakari as ek
from edakari.core.copying import copied
from edakari.core.following import CutTensor
from edakari.core.plan import KeepTokens, Plan
from edakari.errors import ModelError, PlanError, StateError, WrongArgument
from edakari.surgery.weight_masking import mask_weights
from edakari.testing import enlivened, random_plan, toy_vit
from tests.surgery.masked_training import (
    EXAMPLE,
    OPTIMIZERS,
    cnn,
    distance,
    masked,
    parts_of,
    positions,
    states_of,
    tied,
    train,
    trained,
)


class Recurrent(nn.Module):
    """Widths in lists of tensors, in a shared settings object, and in a parametrized layer."""

    def __init__(self, settings: dict[str, int]) -> None:
        super().__init__()
        self.settings = settings
        self.stem = parametrizations.weight_norm(nn.Conv2d(3, settings["width"], 3, stride=4))
        self.cells = nn.LSTM(settings["width"], 6, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).reshape(len(x), self.settings["width"], -1).transpose(1, 2)
        return self.head(self.cells(x)[0].mean(1))


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


def recurrent() -> nn.Module:
    torch.manual_seed(0)
    return Recurrent({"width": 8}).double()


def attending() -> nn.Module:
    torch.manual_seed(0)
    return Attending().double()


def vit() -> nn.Module:
    return enlivened(toy_vit())


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "cnn": cnn,
    "tied": tied,
    "recurrent": recurrent,
    "attending": attending,
    "vit": vit,
}


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, *EXAMPLE.shape[1:], generator=torch.Generator().manual_seed(5), dtype=torch.float64)


class Held:
    """A follower that holds a tensor for each parameter."""

    def __init__(self, model: nn.Module) -> None:
        self.values = {name: param.detach().clone() for name, param in model.named_parameters()}
        self.removed: list[str] = []

    def follow(self, pairs: Sequence[CutTensor]) -> None:
        known = {pair.name: pair for pair in pairs if pair.name in self.values}
        self.removed = [name for name, pair in known.items() if pair.after is None]
        self.values = {
            pair.new_name: pair.cut(self.values[name]) for name, pair in known.items() if pair.after is not None
        }


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_becomes_what_apply_returns(name: str) -> None:
    model = NETWORKS[name]()
    graph = ek.trace(model, EXAMPLE)
    plan = random_plan(graph, (0.3, 0.8), 3, drop=0.5)
    wanted, parts = ek.apply(model, plan, graph), dict(model.named_modules())
    follower = Held(model)
    pairs = ek.shrink(model, plan, graph=graph, followers=[follower])
    assert repr(model) == repr(wanted)
    found = dict(model.named_parameters())
    assert [*found] == [path for path, _ in wanted.named_parameters()]
    for path, value in wanted.state_dict().items():
        assert torch.equal(value, model.state_dict()[path]), path
        assert path not in follower.values or torch.equal(value, follower.values[path])
    assert follower.values.keys() == found.keys()
    same = {path: module for path, module in model.named_modules() if type(module) is type(parts.get(path))}
    assert all(module is parts[path] for path, module in same.items() if "attention" not in path)
    assert all(
        pair.after is pair.before or pair.after is found.get(pair.new_name) for pair in pairs if pair.name in found
    )
    torch.testing.assert_close(model(images()), wanted(images()), rtol=0, atol=0)
    again = ek.trace(model, EXAMPLE)
    assert again.fingerprint == ek.trace(wanted, EXAMPLE).fingerprint
    ek.shrink(model, random_plan(again, 0.7, 1), graph=again)
    model(images()).sum().backward()
    assert all(param.grad is not None for param in model.parameters())


@pytest.mark.parametrize("name", ["sgd", "adamw foreach", "rmsprop", "timm lookahead"])
@pytest.mark.parametrize("build", [cnn, tied])
def test_training_continues_as_if_masked(name: str, build: Callable[[], nn.Module]) -> None:
    model, optimizer = trained(build, OPTIMIZERS[name])
    graph = ek.trace(model, EXAMPLE)
    plan = random_plan(graph, (0.3, 0.8), 2, drop=0.5)
    where = positions(model, plan)
    before = {p: dict(s) for p, s in states_of(optimizer).items()}
    pairs = ek.shrink(model, plan, optimizer, graph=graph)
    held = [param for group in optimizer.param_groups for param in group["params"]]
    assert {id(param) for param in held} == {id(param) for param in model.parameters()}
    for pair in (pair for pair in pairs if pair.before in before and pair.after is not None):
        for key, value in states_of(optimizer)[pair.after].items():
            old = before[pair.before][key]
            if isinstance(old, torch.Tensor) and old.shape == pair.before.shape and old.dim():
                assert torch.equal(value, pair.cut(old))
            else:
                assert value == old
    train(model, optimizer, 4, seed=1)
    twin, _ = masked(build, OPTIMIZERS[name], where)
    assert distance(model, twin, where) < 1e-11


def test_averages_hooks_modes_and_flags_stay() -> None:
    model = cnn()
    optimizer = torch.optim.Adam(model.parameters())
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
    seen: list[tuple[int, ...]] = []
    part = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    handles = [each.register_forward_hook(lambda *given: seen.append(tuple(given[2].shape))) for each in (part, model)]
    frozen = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    train(model, optimizer, 2)
    frozen.eval()
    frozen.weight.requires_grad_(False)
    average.update_parameters(model)
    seen.clear()
    graph = ek.trace(model, EXAMPLE)
    seen.clear()
    plan = random_plan(graph, 0.5, 0)
    wanted = ek.apply(average.module, plan)
    ek.shrink(model, plan, optimizer, average, graph=graph)
    seen.clear()
    model(images())
    assert seen == [(2, part.out_channels, *seen[0][2:]), (2, seen[1][1])]
    for handle in handles:
        handle.remove()
    model(images())
    assert len(seen) == 2
    assert model.training
    assert not frozen.training
    assert not frozen.weight.requires_grad
    assert frozen.weight.shape == (frozen.num_features,)
    for name, value in average.module.state_dict().items():
        assert torch.equal(value, wanted.state_dict()[name])
    average.update_parameters(model)


def test_settings_that_others_hold_stay_as_they_are() -> None:
    settings = {"width": 8}
    model, other = Recurrent(settings).double(), Recurrent(settings).double()
    expected = other(images())
    ek.shrink(model, random_plan(ek.trace(model, EXAMPLE), 0.5))
    assert model.settings["width"] < 8
    assert settings == {"width": 8}
    assert torch.equal(other(images()), expected)


class Elsewhere(nn.Module):
    """Its code takes a weight from an object that edakari does not look into."""

    class Box:
        def __init__(self, weight: torch.Tensor) -> None:
            self.weight = weight

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, stride=4), nn.Linear(8, 4)
        self.box = self.Box(self.head.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.stem(x).relu().mean((2, 3)), self.box.weight, self.head.bias)


def unchanged(model: nn.Module, call: Callable[[], Any], error: type[Exception], words: str) -> None:
    before = {name: (id(value), value.detach().clone()) for name, value in parts_of(model).items()}
    shown = repr(model)
    with pytest.raises(error, match=words):
        call()
    assert repr(model) == shown
    for name, value in parts_of(model).items():
        assert id(value) == before[name][0]
        assert torch.equal(value, before[name][1])


def test_what_cannot_be_done_changes_nothing() -> None:
    model, other = cnn(), cnn()
    graph = ek.trace(model, EXAMPLE)
    plan = random_plan(graph, 0.5)
    optimizer, strange = torch.optim.Adam(model.parameters()), torch.optim.Adam(other.parameters())
    train(model, optimizer, 1)
    states = {param: dict(state) for param, state in optimizer.state.items()}
    held = Held(model)
    wrong = Plan(plan.edits, "0" * 64, plan.inputs)
    unchanged(model, lambda: ek.shrink(model, wrong, optimizer), PlanError, "fingerprint")
    unchanged(model, lambda: ek.shrink(model, plan, strange), StateError, "trains no parameter")
    unchanged(model, lambda: ek.shrink(model, plan, optimizer, object(), followers=[held]), StateError, "no averaged")
    unchanged(model, lambda: ek.shrink(model, plan, optimizer, followers=[model]), WrongArgument, "follow")  # type: ignore[list-item]
    unchanged(model, lambda: ek.shrink(model, plan, model), WrongArgument, "optimizer takes")  # type: ignore[arg-type]
    assert held.removed == []
    assert all(dict(optimizer.state[param]) == state for param, state in states.items())
    factored = torch.optim.Adafactor(model.parameters())
    train(model, factored, 1)
    unchanged(model, lambda: ek.shrink(model, plan, factored), StateError, "cannot be cut exactly")
    tokens = vit()
    traced = ek.trace(tokens, EXAMPLE)
    selecting = Plan((KeepTokens("blocks.1", 8, "dynamicvit"),), traced.fingerprint, traced.inputs)
    unchanged(tokens, lambda: ek.shrink(tokens, selecting), PlanError, "prunes tokens")


def test_a_weight_held_elsewhere_is_told_before_anything_changes() -> None:
    model = Elsewhere().double()
    plan = random_plan(ek.trace(model, EXAMPLE), 0.5)
    unchanged(model, lambda: ek.shrink(model, plan), PlanError, "outside of the attributes")
    copy = ek.apply(model, plan)  # which follows it into any object
    assert copy(images()).shape == (2, 4)


def test_compiled_networks_stay_compiled() -> None:
    model = cnn()
    wanted = copied(model)
    compiled = torch.compile(model, backend="eager", dynamic=False)
    compiled(images())
    plan = random_plan(ek.trace(model, EXAMPLE), 0.5)
    ek.shrink(compiled, plan)
    torch.testing.assert_close(compiled(images()), ek.apply(wanted, plan)(images()))
    inside = cnn()
    name, part = next(iter(inside.named_children()))
    setattr(inside, name, torch.compile(part, backend="eager"))
    held = getattr(inside, name)
    plan = random_plan(ek.trace(inside, EXAMPLE), 0.5)
    wanted = ek.apply(inside, plan)
    ek.shrink(inside, plan)
    assert getattr(inside, name) is held
    torch.testing.assert_close(inside(images()), wanted(images()))


def test_a_wrapper_that_keeps_sizes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.parallel.DistributedDataParallel, "__init__", lambda self, module: None)
    wrapped = nn.Module.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = model = cnn()
    plan = random_plan(ek.trace(model, EXAMPLE), 0.5)
    unchanged(model, lambda: ek.shrink(wrapped, plan), ModelError, "new DistributedDataParallel around it")


def test_masked_weights_become_zeros_in_parameters_that_stay() -> None:
    model = cnn()
    graph = ek.trace(model, EXAMPLE)
    weights = {name: param.detach() for name, param in model.named_parameters() if param.dim() > 1}
    masks = mask_weights(graph, {name: weight.abs() > weight.abs().median() for name, weight in weights.items()})
    for plan in (masks, masks.then(random_plan(graph, 0.5))):
        model = cnn()
        wanted = ek.apply(model, plan)
        ek.shrink(model, plan)
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in wanted.state_dict().items())
        assert sum(int((param == 0).sum()) for param in model.parameters() if param.dim() > 1) > 1000
