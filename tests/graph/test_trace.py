"""Tracing: groups, names, reasons, costs of a forward pass that touches no data."""

from __future__ import annotations

import json
from typing import Any

import pytest
import timm
import torch
from torch import nn

from edakari.core.layout import extent
from edakari.core.plan import KeepChannels, Plan
from edakari.errors import ModelError
from edakari.graph import example_for, example_of, spec_of_inputs, trace
from edakari.graph.rules import RULES, rule
from edakari.surgery import apply, simulate
from edakari.testing import exactness, random_plan


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(216, 4)
    )


def test_groups_are_named_after_their_producers():
    graph = trace(small(), torch.zeros(1, 3, 8, 8))
    assert [(group.name, group.size) for group in graph.groups] == [("0", 8), ("3", 6)]
    assert [(m.tensor, m.dim) for m in graph.members("3")] == [("3.weight", 0), ("3.bias", 0), ("5.weight", 1)]


def test_what_cannot_be_pruned_says_why():
    graph = trace(small(), torch.zeros(1, 3, 8, 8))
    reasons = {unprunable.where: unprunable.reason for unprunable in graph.unprunable}
    assert reasons["5.weight[0]"] == "the network's output"
    assert "aten.convolution in 0" in reasons["0.weight[1]"]


def test_a_vit_has_heads_head_dimensions_widths_and_one_embedding():
    graph = trace(timm.create_model("vit_tiny_patch16_224"), torch.zeros(1, 3, 224, 224))
    kinds = [group.kind for group in graph.groups]
    assert {kind: kinds.count(kind) for kind in kinds} == {"embedding": 1, "head": 12, "head_dim": 12, "hidden": 12}
    assert graph["blocks.0.attn.qkv:head"].size == 3
    assert graph["patch_embed.proj"].size == 192


def test_the_network_stays_as_it_was():
    model = small().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, torch.zeros(1, 3, 8, 8))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(not vars(module).get("_forward_hooks") for module in model.modules())


def test_the_fingerprint_knows_the_network_and_not_the_batch():
    a = trace(small(), torch.zeros(1, 3, 8, 8)).fingerprint
    assert trace(small(), torch.zeros(4, 3, 8, 8)).fingerprint == a
    other = nn.Sequential(nn.Conv2d(3, 9, 3), *list(small())[1:3][:0], nn.Flatten(), nn.Linear(324, 4))
    assert trace(other, torch.zeros(1, 3, 8, 8)).fingerprint != a


def test_a_cut_network_keeps_its_group_names():
    from edakari.surgery import apply
    from edakari.testing import random_plan

    model, x = timm.create_model("resnet18"), torch.zeros(1, 3, 64, 64)
    graph = trace(model, x)
    plan = random_plan(graph, 0.5)
    again = trace(apply(model, plan), x)
    assert [group.name for group in again.groups] == [group.name for group in graph.groups]
    assert {group.name: group.size for group in again.groups} == dict(plan.sizes())


def test_examples_survive_json():
    example = {"x": torch.zeros(2, 3), "flags": (1, None, "a"), "more": [torch.tensor([[7, 2]])]}
    spec = json.loads(json.dumps(spec_of_inputs(example)))
    again = example_of(spec, None)
    assert spec_of_inputs(again) == spec
    assert torch.equal(again["more"][0], example["more"][0])
    assert again["x"].is_meta


def test_an_example_keeps_few_integers_and_no_floats():
    small, large, mask = torch.arange(1024), torch.arange(1025), torch.ones(3, 1000, dtype=torch.bool)
    spec = spec_of_inputs((small, large, torch.tensor([[True], [False]]), torch.rand(3), mask, small[:0]))
    assert len(json.dumps(spec)) < 7000
    again = example_of(spec, "cpu")
    assert torch.equal(again[4], mask)
    assert again[5].shape == (0,)
    assert torch.equal(again[0], small)
    assert not again[1].any()
    assert again[1].shape == large.shape
    assert again[2].tolist() == [[True], [False]]
    assert not again[3].any()


def test_an_example_keeps_the_boxes_of_its_targets():
    """Detectors refuse boxes without a height."""
    boxes = torch.rand(3, 4, dtype=torch.float64)
    target = {
        "boxes": boxes,
        "points": boxes.float()[:1],
        "none": boxes * 0,
        "bad": boxes / 0,
        "map": torch.rand(2, 16, 17),
    }
    spec = json.loads(json.dumps(spec_of_inputs(([torch.rand(3, 32, 32)], [target], boxes))))
    pictures, (again,), alone = example_of(spec, "cpu")
    assert torch.equal(again["boxes"], boxes)
    assert torch.equal(again["points"], target["points"])
    assert not any(each.any() for each in (*pictures, again["none"], again["bad"], again["map"], alone))
    (picture,), (target,), _ = example_for(small().half(), spec, "cpu")
    assert (picture.dtype, target["points"].dtype, target["boxes"].dtype) == (torch.half, torch.half, torch.double)


@pytest.mark.parametrize("values", [[1, 2], [], [1, 2, "a"], [[1], [2]], [2**70, 0, 0]])
def test_values_that_do_not_fit_an_example_are_refused(values: list[Any]):
    with pytest.raises(ModelError, match="Was the plan's file edited"):
        example_of({"tensor": [[3], "int64"], "values": values})
    with pytest.raises(ModelError, match="object"):
        spec_of_inputs(object())


@pytest.mark.parametrize("example", [torch.zeros(1, 4, 8, 8), torch.zeros(3), torch.zeros(1, 3, 9, 9)])
def test_an_example_of_the_wrong_shape_is_one_clear_error(example):
    with pytest.raises(ModelError, match=r"forward pass of Sequential fails on an example of shape"):
        trace(small(), example)


def test_inputs_may_be_a_tuple_or_a_dict():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(4, 8), nn.Linear(5, 8), nn.Linear(8, 2)

        def forward(self, x, y):
            return {"y": self.out(torch.relu(self.a(x) + self.b(y)))}

    left = trace(Two(), (torch.zeros(1, 4), torch.zeros(1, 5)))
    right = trace(Two(), {"x": torch.zeros(1, 4), "y": torch.zeros(1, 5)})
    assert [group.name for group in left.groups] == [group.name for group in right.groups] == ["a"]
    assert left.fingerprint == right.fingerprint


def test_a_rule_of_ones_own_frees_what_was_pinned():
    class Renormed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.out = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            y = self.a(x)
            return self.out(torch.renorm(y, 2, 0, 1.0))

    assert not trace(Renormed(), torch.zeros(1, 4)).groups
    try:
        rule("aten.renorm")(RULES["pointwise"])
        assert [group.name for group in trace(Renormed(), torch.zeros(1, 4)).groups] == ["a"]
    finally:
        del RULES["aten.renorm"]


def test_parameters_that_the_forward_pass_does_not_use_stay():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.spare, self.out = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.out(self.a(x))

    graph = trace(Spare(), torch.zeros(1, 4))
    assert [group.name for group in graph.groups] == ["a"]
    assert any("spare.weight" in r.where and "not used" in r.reason for r in graph.unprunable)


class LooksAtValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        y = torch.relu(self.first(x))
        if y.sum().item() >= 0:
            y = self.second(y)
        return self.out(y + torch.arange(8.0)[None, :1])


def test_a_network_that_looks_at_values_is_traced_on_the_cpu():
    from edakari.surgery import apply
    from edakari.testing import random_plan

    model = LooksAtValues()
    graph = trace(model, torch.zeros(1, 4))
    assert graph.device == "cpu"
    assert [group.name for group in graph.groups] == ["first", "second"]
    assert apply(model, random_plan(graph))(torch.randn(3, 4)).shape == (3, 2)
    assert trace(small(), torch.zeros(1, 3, 8, 8)).device == "meta"


def test_operators_say_what_goes_in_and_what_decides_their_time():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.ConvTranspose2d(8, 4, 2, stride=2, output_padding=1),
    )
    operators = {o.name + o.module: o for o in trace(net, torch.zeros(1, 3, 32, 32)).operators}
    conv, pool, up = (operators[n] for n in ("aten.convolution0", "aten.max_pool2d_with_indices1", "aten.convolution2"))
    assert conv.settings == {
        "stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1, "transposed": False, "bias": False,
    }  # fmt: skip
    assert pool.settings == {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1), "dilation": (1, 1)}
    assert up.settings["transposed"]
    assert up.settings["output_padding"] == (1, 1)
    assert [extent(dim, {"0": 5}) for dim in pool.inputs[0]] == [1, 5, 16, 16]
    assert [extent(dim, {"0": 5}) for dim in up.inputs[1]] == [5, 4, 2, 2]


class WithAuxiliaryHead(nn.Module):
    """Has a head that runs in training alone, as Inception's does."""

    def __init__(self):
        super().__init__()
        self.body, self.top = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.aux = nn.Sequential(nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.aux_top = nn.Linear(6, 4)

    def forward(self, x):
        x = self.body(x)
        y = self.top(x.mean((2, 3)))
        return (y, self.aux_top(self.aux(x))) if self.training else y


def test_what_runs_in_training_alone_is_cut_along():
    model = WithAuxiliaryHead()
    graph = trace(model, torch.zeros(1, 3, 8, 8))
    assert {group.name: group.size for group in graph.groups} == {"body": 8, "aux.0": 6}
    assert [(m.tensor, m.dim) for m in graph.members("body")][-1] == ("aux.0.weight", 1)
    assert not any(operator.module.startswith("aux") for operator in graph.operators)
    plan = Plan((KeepChannels("body", (0, 2, 5)), KeepChannels("aux.0", (1, 4))), graph.fingerprint, graph.inputs)
    x = torch.randn(4, 3, 8, 8)
    small, masked = apply(model, plan).train(), simulate(model, plan).train()
    assert [tuple(y.shape) for y in small(x)] == [(4, 4), (4, 4)]
    assert torch.allclose(small.eval()(x), masked.eval()(x), atol=1e-6)


def test_training_code_that_needs_more_than_the_example_is_left_alone():
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.top, self.unused = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1), nn.Linear(2, 2)

        def forward(self, x, targets=None):
            y = self.top(self.body(x))
            return (y - targets["y"]).abs().sum() if self.training else y

    graph = trace(Detector(), torch.zeros(1, 3, 8, 8))
    assert [group.name for group in graph.groups] == ["body"]
    assert "not used" in next(each.reason for each in graph.unprunable if each.where == "unused.weight[0]")


class WritesToItsInput(nn.Module):
    """Scales images in place, as networks for restoration do; with `.item()` it cannot run without data."""

    def __init__(self, looks: bool) -> None:
        super().__init__()
        self.looks = looks
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))

    def forward(self, batch):
        images = batch["images"]
        images *= 255.0 if not self.looks or images.abs().max().item() < 2 else 1.0
        batch["seen"] = True
        return self.body(images)


@pytest.mark.parametrize("looks", [False, True])
def test_an_example_that_the_network_writes_to_stays_as_it_is(looks):
    model = WritesToItsInput(looks).double().eval()
    example = ({"images": torch.rand(1, 3, 8, 8, dtype=torch.float64)},)
    before = example[0]["images"].clone()
    graph = trace(model, example)
    assert exactness(model, example, random_plan(graph)) < 1e-12
    assert list(example[0]) == ["images"]
    assert torch.equal(example[0]["images"], before)
