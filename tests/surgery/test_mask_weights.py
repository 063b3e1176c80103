"""Masked weights: apply, simulate and zeroing by hand agree, alone and joined with cuts in any order."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from torch import nn

import edakari
from edakari.core.copying import copied
from edakari.core.graph import Graph
from edakari.core.plan import DropBranch, KeepChannels, Plan
from edakari.errors import EdakariWarning, PlanError, WrongArgument
from edakari.graph import trace
from edakari.surgery import apply, held_masks, simulate
from edakari.surgery.carrying import carry
from edakari.surgery.weight_masking import mask_weights
from edakari.testing import enlivened, exactness, random_plan, toy_cnn, toy_vit


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm, self.out = nn.Linear(4, 6), nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(torch.relu(self.embed(x)))[0][:, -1])


class Mixed(nn.Module):
    """Tied weights, torch's own attention, a transposed convolution, and a parameter that code multiplies with."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.matrix, self.up = nn.Parameter(torch.rand(8, 6)), nn.ConvTranspose1d(6, 4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + self.attention(x, x, x)[0]
        y = self.b(torch.relu(self.a(y))) @ self.matrix
        return self.up(y.transpose(1, 2)).mean(-1)


NETWORKS = {
    "cnn": (toy_cnn, (1, 3, 16, 16)),
    "vit": (toy_vit, (1, 3, 16, 16)),
    "resnet": (lambda: edakari.build("edakari:resnet20"), (1, 3, 16, 16)),
    "recurrent": (Recurrent, (1, 3, 4)),
    "mixed": (Mixed, (1, 3, 8)),
}


def network(name: str) -> tuple[nn.Module, torch.Tensor, Graph]:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model = enlivened(make())
    example = torch.randn(shape, dtype=torch.float64)
    return model, example, trace(model, example)


def masked(graph: Graph, model: nn.Module, seed: int, every: int = 1) -> Plan:
    """A plan that masks about half of the weights of each parameter."""
    generator = torch.Generator().manual_seed(seed)
    named = list(model.named_parameters())[::every]
    return mask_weights(graph, {name: torch.rand(each.shape, generator=generator) < 0.6 for name, each in named})


def zeroed(model: nn.Module, plan: Plan) -> nn.Module:
    """The network with the masked weights set to zero by hand."""
    made = copied(model)
    with torch.no_grad():
        for name, mask in plan.masks().items():
            made.get_parameter(name).mul_(mask)
    return made


def without_masks(plan: Plan) -> Plan:
    edits = tuple(edit for edit in plan.edits if isinstance(edit, KeepChannels | DropBranch))
    return Plan(edits, plan.fingerprint, plan.inputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_masks_and_cuts_are_zeroing_by_hand_and_cutting_in_any_order(name: str) -> None:
    model, example, graph = network(name)
    x = torch.randn(3, *example.shape[1:], dtype=torch.float64)
    kinds = {"mask": lambda m, g, seed: masked(g, m, seed, 2), "cut": lambda m, g, seed: random_plan(g, 0.8, seed=seed)}
    for order in (("mask", "cut", "mask"), ("cut", "mask", "cut")):
        now, plans, graphs = model, [], []
        for seed, kind in enumerate(order):
            graphs.append(trace(now, example))
            plans.append(kinds[kind](now, graphs[-1], seed))
            # by hand: zeros first, and then a cut that masks nothing
            by_hand = apply(zeroed(now, plans[-1]), without_masks(plans[-1]), graphs[-1])
            now = apply(now, plans[-1], graphs[-1])
            assert all(map(torch.equal, now.parameters(), by_hand.parameters()))
        joined = plans[0].then(plans[1], graphs[0]).then(plans[2], graphs[0])
        assert joined == plans[0].then(plans[1].then(plans[2], graphs[1]), graphs[0])
        at_once = apply(model, joined, graph)
        assert all(map(torch.equal, at_once.parameters(), now.parameters()))
        assert held_masks(at_once) == held_masks(now)
        assert exactness(model, x, joined, graph) < 1e-12
        held = held_masks(now)
        assert held.counts()[0] < held.counts()[1]
        for parameter, mask in held.items():
            assert not now.get_parameter(parameter)[~mask].any()


def test_a_mask_alone_equals_zeroing_and_leaves_the_network_as_it_was() -> None:
    for name in NETWORKS:
        model, example, graph = network(name)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        plan = masked(graph, model, 5)
        x = torch.randn(3, *example.shape[1:], dtype=torch.float64)
        with torch.no_grad():
            wanted = zeroed(model, plan)(x)
            assert not torch.equal(wanted, model(x))
            assert torch.equal(apply(model, plan, graph)(x), wanted)
            twin = simulate(model, plan, graph)
            assert torch.allclose(twin(x), wanted, rtol=1e-12, atol=1e-12)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        with pytest.raises((RuntimeError, AssertionError, ValueError, IndexError)):  # the network's own
            twin(torch.zeros(()))
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_masks_of_dropped_branches_go_with_them() -> None:
    model, x, graph = network("resnet")
    branch = graph.branches[0]
    gone = [name for name in branch.parameters if name.endswith("weight")]
    drop = Plan((DropBranch(branch.name),), graph.fingerprint, graph.inputs)
    plan = masked(graph, model, 0).then(drop)
    small = apply(model, plan, graph)
    assert gone
    assert not set(gone) & set(held_masks(small))
    assert exactness(model, x, plan, graph) < 1e-12
    assert plan.masks().keys() >= set(gone)


class TwoBranches(nn.Module):
    """A residual branch whose weight the classifier shares."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.head.weight = self.body.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.body(x)).mean((2, 3))


def test_a_tied_weight_keeps_its_mask_where_its_first_name_is_dropped() -> None:
    model, x = TwoBranches().double(), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    graph = trace(model, x)
    mask = torch.rand(8, 8, 1, 1) < 0.5
    plan = mask_weights(graph, {"body.weight": mask})
    drops = Plan(tuple(DropBranch(branch.name) for branch in graph.branches), graph.fingerprint, graph.inputs)
    small = apply(model, plan.then(drops), graph)
    assert len(drops.edits) == 1
    assert torch.equal(held_masks(small)["head.weight"], mask)
    assert not small.head.weight[~mask].any()
    assert exactness(model, x, plan.then(drops)) < 1e-12
    with pytest.raises(PlanError, match="did you mean"):
        mask_weights(graph, {"head.weight": mask})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_masks_work_in_every_precision_and_through_wrappers(dtype: torch.dtype) -> None:
    model = toy_cnn().to(dtype)
    example = torch.zeros(1, 3, 16, 16, dtype=dtype)
    compiled = torch.compile(model, backend="eager")
    plan = masked(trace(compiled, example), model, 0)
    for given in (model, compiled, nn.DataParallel(model)):
        small = apply(given, plan)
        assert all(not small.get_parameter(name)[~mask].any() for name, mask in plan.masks().items())
        assert {parameter.dtype for parameter in small.parameters()} == {dtype}


def test_masked_weights_are_zeros_even_if_they_were_not_finite() -> None:
    model, example = toy_cnn(), torch.zeros(1, 3, 16, 16)
    with torch.no_grad():
        model.head.weight[0, 0], model.head.weight[1, 1] = float("nan"), float("inf")
    plan = mask_weights(trace(model, example), {"head.weight": model.head.weight.isfinite()})
    assert torch.isfinite(apply(model, plan)(example)).all()
    assert torch.isfinite(simulate(model, plan)(example)).all()


def test_frozen_weights_stay_frozen_and_trained_ones_train() -> None:
    model, example = toy_cnn(), torch.zeros(1, 3, 16, 16)
    model.head.weight.requires_grad_(False)
    small = apply(model, masked(trace(model, example), model, 0))
    assert not small.head.weight.requires_grad
    small(example).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"head.wait": torch.ones(4, 32) > 0}, "did you mean 'head.weight'"),
        ({"module.head.weight": torch.ones(4, 32) > 0}, "without wrappers"),
        ({"head.weight": torch.ones(32, 4) > 0}, r"shape \[32, 4\], and the parameter \[4, 32\]"),
        ({"head.weight": torch.ones(4, 32)}, "torch.float32"),
        ({"head.weight": torch.full((4, 32), float("nan"))}, "torch.float32"),
        ({"stem.1.running_mean": torch.ones(16) > 0}, "no parameter 'stem.1.running_mean'"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks: dict[str, torch.Tensor], message: str) -> None:
    graph = trace(toy_cnn(), torch.zeros(1, 3, 16, 16))
    with pytest.raises(PlanError, match=message):
        mask_weights(graph, masks)
    with pytest.raises(WrongArgument, match="graph takes a Graph"):
        mask_weights(toy_cnn(), masks)  # type: ignore[arg-type]


def test_a_mask_that_keeps_nothing_is_allowed_and_said() -> None:
    model, x, graph = network("cnn")
    with pytest.warns(EdakariWarning, match="'head.weight' keeps none"):
        plan = mask_weights(graph, {"head.weight": torch.zeros(4, 32, dtype=torch.bool)})
    with torch.no_grad():
        assert torch.equal(apply(model, plan, graph)(x), model.head.bias[None])


def test_no_masks_are_an_empty_plan() -> None:
    model, x, graph = network("cnn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = mask_weights(graph, {})
    assert plan.edits == ()
    assert torch.equal(apply(model, plan, graph)(x), model(x))


def test_states_of_optimizers_are_carried_whole_and_averages_masked() -> None:
    model, x, graph = network("cnn")
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    average = torch.optim.swa_utils.AveragedModel(model)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
        average.update_parameters(model)
    plan = masked(graph, model, 0).then(random_plan(graph, 0.7))
    small = apply(model, plan, graph)
    moments = [optimizer.state[parameter]["exp_avg"].clone() for parameter in model.parameters()]
    cut_only = apply(model, without_masks(plan), graph)
    wanted = torch.optim.Adam(model.parameters(), 0.01)
    wanted.load_state_dict(optimizer.state_dict())
    carry(wanted, model, cut_only, without_masks(plan), graph=graph)
    carry(optimizer, model, small, plan, average, graph=graph)
    pairs = list(zip(small.parameters(), cut_only.parameters(), moments, strict=True))
    assert all(torch.equal(optimizer.state[a]["exp_avg"], wanted.state[b]["exp_avg"]) for a, b, _ in pairs)
    for name, mask in held_masks(small).items():
        assert not average.module.get_parameter(name)[~mask].any()
        assert average.module.get_parameter(name)[mask].any() or not mask.any()


def test_a_list_of_averages_is_masked_like_a_network_of_them() -> None:
    class Averages:
        def __init__(self, model: nn.Module) -> None:
            self.shadow = [parameter.detach().clone() for parameter in model.parameters()]

    model, _, graph = network("cnn")
    plan = masked(graph, model, 0)
    average, small = Averages(model), apply(model, plan, graph)
    carry(torch.optim.SGD(model.parameters(), 0.1), model, small, plan, average, graph=graph)
    assert all(map(torch.equal, average.shadow, small.parameters()))


def test_held_masks_survive_copies_and_leave_out_replaced_layers() -> None:
    model, x, graph = network("cnn")
    small = apply(model, masked(graph, model, 0), graph)
    assert held_masks(copied(small)) == held_masks(small)
    assert held_masks(model) == held_masks(copied(model))
    assert len(held_masks(model)) == 0
    small.head = nn.Linear(32, 7).double()
    assert "head.weight" not in held_masks(small)
    again = apply(small, random_plan(trace(small, x), 0.5))
    left = held_masks(again)
    assert left.keys() == held_masks(small).keys()
    assert all(again.get_parameter(name).shape == mask.shape for name, mask in left.items())


def test_every_order_of_three_masks_is_the_same_plan_of_zeros() -> None:
    model, _, graph = network("mixed")
    plans = [masked(graph, model, seed, every) for seed, every in enumerate((1, 2, 3))]
    found = set()
    for a, b, c in itertools.permutations(plans):
        found.add(a.then(b).then(c).masks().digest())
        found.add(a.then(b.then(c)).masks().digest())
    assert len(found) == 1
