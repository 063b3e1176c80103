"""Copies of networks whose parts share things, each against the network itself."""

from __future__ import annotations

import collections
import types
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from edakari import Plan, apply, simulate, trace
from edakari.core.copying import copied
from edakari.errors import ModelError
from edakari.testing import exactness, random_plan
from tests.core.keeping import Leaving, Parent, normalised, programs, tied
from tests.core.sharing import GLOBAL, SHARING, USED_BY_CLASS, Bus

STATE_OF_THE_PROGRAM = ("class, global", "class, closure")
"""Here every network of the class writes into one dictionary."""


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    GLOBAL.clear()
    USED_BY_CLASS.clear()


@pytest.fixture(params=SHARING)
def trained(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    """A network after a step of training and an evaluation, which left behind what they may."""
    net = SHARING[request.param]().double()
    net(torch.randn(2, 3, 6, 6).double()).square().sum().backward()
    with torch.inference_mode():
        net(torch.randn(2, 3, 6, 6).double())
    net(torch.randn(2, 3, 6, 6).double()).square().sum().backward()
    return request.param, net.eval()


def test_a_plan_that_cuts_nothing_gives_the_network(trained: tuple[str, nn.Module]) -> None:
    net, (x, y) = trained[1], torch.randn(2, 2, 3, 6, 6).double()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        wanted = net(y)
        graph = trace(net, x)
        small = apply(net, Plan((), graph.fingerprint, graph.inputs))
        assert torch.equal(small(y), wanted)
        net(x)  # leaves other tensors behind, in what is its own
        assert torch.equal(small(y), wanted)
        assert torch.equal(net(y), wanted)
        assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
        assert [*small.state_dict()] == [*state]
    flags = {name: value.requires_grad for name, value in net.named_parameters()}
    assert {name: value.requires_grad for name, value in small.named_parameters()} == flags
    small.train()(y).sum().backward()  # its history holds no weights of the network
    assert any(value.grad is not None for value in small.parameters())


@pytest.mark.parametrize("name", SHARING)
def test_it_does_not_matter_whether_a_network_ran(name: str) -> None:
    net, (x, y) = SHARING[name]().double().eval(), torch.randn(2, 2, 3, 6, 6).double()
    fresh = trace(net, x)
    plan = random_plan(fresh, 0.5)
    with torch.no_grad():
        wanted = apply(net, plan)(y)
        net(x[:1])
        assert trace(net, y).fingerprint == fresh.fingerprint
        assert torch.equal(apply(net, plan)(y), wanted)
        assert torch.equal(apply(net, plan, fresh)(y), wanted)


def test_a_copy_runs_its_own_weights(trained: tuple[str, nn.Module]) -> None:
    net, y = trained[1], torch.randn(2, 3, 6, 6).double()
    with torch.no_grad():
        graph = trace(net, y)
        small, twin = apply(net, Plan((), graph.fingerprint, graph.inputs)), copied(net)
        wanted = net(y)
        for value in net.parameters():
            value.copy_(torch.rand_like(value))
        others = net(y)
        assert float((others - wanted).abs().max()) > 1e-3
        assert torch.equal(small(y), wanted)
        assert torch.equal(twin(y), wanted)
        for value, new in zip(small.parameters(), net.parameters(), strict=True):
            value.copy_(new)
        assert torch.allclose(small(y), others, rtol=1e-12)


def test_pruned_networks_equal_masked_ones(trained: tuple[str, nn.Module]) -> None:
    net, (x, y) = trained[1], torch.randn(2, 2, 3, 6, 6).double()
    graph = trace(net, x)
    if trained[0] != "set":  # sums features in an order by address
        assert exactness(net, y, random_plan(graph, 0.5)) < 1e-12


def test_what_one_network_writes_another_does_not_see(trained: tuple[str, nn.Module]) -> None:
    name, net = trained
    if name in STATE_OF_THE_PROGRAM:
        pytest.skip("one dictionary for all networks of the class")
    x, y = torch.randn(2, 2, 3, 6, 6).double()
    graph = trace(net, x)
    plan = Plan((), graph.fingerprint, graph.inputs)
    with torch.no_grad():
        net(x)
        before = held(net)
        for other in (apply(net, plan), simulate(net, plan), copied(net)):
            other(y)
        trace(net, y)
    assert len(before) == len(held(net))
    assert all(torch.equal(one, two) for one, two in zip(before, held(net), strict=True))


def held(root: Any) -> list[torch.Tensor]:
    """Clones of all tensors that a network holds, whatever holds them."""
    found, seen, waiting = [], set[int](), [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, type | types.ModuleType):
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            found.append(value.detach().clone())
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple | collections.deque):
            waiting.extend(value)
        elif isinstance(value, Bus | nn.Module):
            waiting.append(vars(value))
        elif isinstance(value, types.MethodType):
            waiting.append(value.__self__)
    return found


def test_hooks_keep_their_order_ids_and_kinds() -> None:
    net, seen = nn.Linear(3, 3), list[str]()
    net.seen = seen
    net.register_forward_hook(lambda module, args, output: module.seen.append("behind"))
    net.register_forward_hook(lambda module, args, output: module.seen.append("first"), prepend=True)
    net.register_forward_pre_hook(lambda module, args, kwargs: module.seen.append("before"), with_kwargs=True)
    net.register_forward_hook(lambda module, args, output: module.seen.append("always"), always_call=True)
    net.handle = net.register_forward_hook(lambda module, args, output: module.seen.append("removable"))
    twin = copied(net)
    assert list(twin._forward_hooks) == list(net._forward_hooks)
    twin(torch.zeros(1, 3))
    assert (twin.seen, net.seen) == (["before", "first", "behind", "always", "removable"], [])
    twin.handle.remove()
    net(torch.zeros(1, 3))
    twin(torch.zeros(1, 3))
    assert net.seen == ["before", "first", "behind", "always", "removable"]
    assert twin.seen[5:] == ["before", "first", "behind", "always"]
    twin.seen.clear()
    with pytest.raises(RuntimeError):
        twin(torch.zeros(1, 4))
    assert twin.seen == ["before", "always"]


def test_the_program_is_shared_and_the_rest_is_not() -> None:
    net = programs()
    twin = copied(net)
    assert all(getattr(twin, name) is getattr(net, name) for name in ("lock", "log", "torch", "pattern", "file"))
    assert twin.event is not net.event
    assert float(torch.rand(1, generator=twin.generator)) == float(torch.rand(1, generator=net.generator))
    net.file.close()


def test_a_copy_has_what_state_dicts_do_not_say() -> None:
    net = tied()
    twin = copied(net)
    assert twin.again.weight is twin.body.weight
    assert twin.body.weight is not net.body.weight
    assert twin.body.weight.no_decay
    assert not twin.out.weight.requires_grad
    assert "passing" in dict(twin.body.named_buffers())
    assert "body.passing" not in twin.state_dict()


def test_parametrizations_of_a_copy_are_its_own() -> None:
    net = normalised(parametrizations.weight_norm)
    twin, other = copied(net), copied(net)
    wanted = net(torch.ones(1, 3, 6, 6))
    parametrize.remove_parametrizations(twin.body, "weight")
    parametrize.register_parametrization(other.body, "bias", nn.Softplus())
    assert torch.equal(net(torch.ones(1, 3, 6, 6)), wanted)
    assert torch.allclose(twin(torch.ones(1, 3, 6, 6)), wanted)
    assert not parametrize.is_parametrized(net.body, "bias")
    assert isinstance(other.body, nn.Conv2d)


def test_what_holds_itself_is_copied_once() -> None:
    net = nn.Linear(1, 1)
    loops: list[Any] = [{}, collections.OrderedDict(), collections.defaultdict(list), [], collections.deque(), Bus()]
    for loop in loops:
        if isinstance(loop, dict):
            loop["me"] = loop
        elif isinstance(loop, Bus):
            loop.me = loop  # type: ignore[attr-defined]
        else:
            loop.append(loop)
    net.loops, net.pair = loops, (loops,)

    def again(count: int) -> Any:
        return again(count - 1) if count else net

    net.again = again
    loops.append(net.pair)
    twin = copied(net)
    for loop in twin.loops[:3]:
        assert loop["me"] is loop
    for loop in twin.loops[3:5]:
        assert loop[0] is loop
    assert twin.loops[5].me is twin.loops[5]
    assert twin.loops[6] is twin.pair
    assert twin.pair[0] is twin.loops
    assert twin.again(3) is twin
    assert not {*map(id, twin.loops)} & {*map(id, loops)}


def test_caches_are_left_behind() -> None:
    net = Parent("cached function")
    net.way(torch.ones(6, 1, 1))
    net.cache = {"position": torch.ones(6)}
    twin = copied(net)
    assert twin.way.cache_info().currsize == 0
    assert twin.way.__wrapped__.__self__ is twin
    assert twin.cache == {}
    assert len(net.cache) == 1


def test_a_network_cut_in_inference_mode_can_be_trained() -> None:
    net = Leaving()
    with torch.inference_mode():
        graph = trace(net, torch.ones(1, 3, 6, 6))
        small = apply(net, random_plan(graph, 0.5))
    small(torch.ones(1, 3, 6, 6)).sum().backward()
    assert small.body.weight.grad is not None


def test_a_copy_has_its_own_module_with_a_way_of_copying_of_its_own() -> None:
    """Functions over such a module, and what it shares with others, are those of the copy."""

    class Own(Leaving):
        def __deepcopy__(self, memo: dict[int, Any]) -> Own:
            made = memo[id(self)] = Own()
            vars(made).update({name: memo.get(id(value), value) for name, value in vars(self).items()})
            return made

    net = nn.Sequential(Own(), nn.Flatten())
    net[0].way, net.bus = lambda: net[0].body.weight, [net[0]]
    twin = copied(net)
    assert twin[0].way() is twin[0].body.weight
    assert twin.bus[0] is twin[0]
    assert twin[0].body.weight is not net[0].body.weight


@pytest.mark.parametrize("held", [(each for each in "ab"), torch.cuda.Event], ids=["generator", "refuses"])
def test_what_cannot_be_copied_is_named(held: Any) -> None:
    class Refusing:
        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("never")

    net = nn.Sequential(nn.Conv2d(3, 6, 1), Leaving())
    net[1].kept = {"deep": [held if isinstance(held, types.GeneratorType) else Refusing()]}
    with pytest.raises(ModelError, match=r"'1\.kept' is or holds what cannot be copied \((TypeError|RuntimeError): "):
        trace(net, torch.ones(1, 3, 6, 6))
