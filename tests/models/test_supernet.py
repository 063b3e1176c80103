"""The supernet: its sizes to the digit, and cuts of the smallest one against masks in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from edakari.cost import COSTS
from edakari.errors import ModelError
from edakari.graph import fixed_graph, trace
from edakari.models import build, default_example
from edakari.models.supernet_blocks import Fusion, SearchBlock
from edakari.models.token_mixer import TokenMixer
from edakari.surgery import apply
from edakari.testing import enlivened, exactness, random_plan

ADE20K = {"head": "segmentation", "num_classes": 150, "head_width": 180}
GOLDEN = {
    "imagenet": ({}, (224, 224), (67, 47_952), (13_039_360, 13_243_868, 11_438_360), 2_422_799_760, (1000,)),
    "cityscapes": (
        {"head": "segmentation"},
        (512, 1024),
        (61, 44_928),
        (9_923_059, 10_110_235, 9_921_330),
        61_836_632_064,
        (19, 128, 256),
    ),
    "ade20k": (ADE20K, (512, 512), (61, 44_928), (10_240_350, 10_427_706, 10_213_200), 36_114_665_472, (150, 128, 128)),
    "coco": (
        {"head": "pose"},
        (256, 192),
        (61, 44_928),
        (9_922_877, 10_110_053, 9_921_330),
        5_796_631_296,
        (17, 64, 48),
    ),
}
"""Options, image, (blocks, units), (weights of layers, all parameters, maskable weights), MACs, output."""
SQUARE = {"cityscapes": 5_917_958_928, "ade20k": 6_912_572_688, "coco": 5_917_394_448}
"""MACs at 224 x 224."""


def abstract(**options: object) -> nn.Module:
    with torch.device("meta"):
        return build("edakari:supernet", **options).requires_grad_(False)


def counted(model: nn.Module, size: tuple[int, int]) -> tuple[int, torch.Size]:
    """MACs by torch's own counter, and the shape of the output."""
    with FlopCounterMode(display=False) as counter:
        shape = model(torch.zeros(1, 3, *size, device="meta")).shape[1:]
    return counter.get_total_flops() // 2, shape


@pytest.mark.parametrize("name", GOLDEN)
def test_the_supernets_have_the_papers_sizes(name):
    options, size, parts, sizes, macs, output = GOLDEN[name]
    model = abstract(**options)
    blocks = [module for module in model.modules() if isinstance(module, SearchBlock)]
    assert (len(blocks), sum(path[1][1].num_features for block in blocks for path in block.paths)) == parts
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    weights = sum(param.numel() for layer in layers for param in layer.parameters())
    last = sum(param.numel() for param in model.head.classifier.parameters())
    assert (weights, sum(param.numel() for param in model.parameters()), weights - last) == sizes
    assert name == "ade20k" or default_example("edakari:supernet", model).shape == (1, 3, *size)
    assert counted(model, size) == (macs, output)
    if name in SQUARE:
        assert counted(model, (224, 224))[0] == SQUARE[name]


@pytest.mark.parametrize("name", ["imagenet", "coco"])
def test_our_own_count_of_the_supernets_agrees(name):
    options, size, _, sizes, macs, _ = GOLDEN[name]
    graph = fixed_graph(abstract(**options), torch.zeros(1, 3, *size, device="meta"))
    assert COSTS["macs"](graph).total({}) == macs
    assert COSTS["params"](graph).total({}) == sizes[1]


@pytest.mark.parametrize(
    "options",
    [
        {"num_classes": 5},
        {"num_classes": 4, "head": "segmentation"},
        {"num_classes": 3, "head": "pose", "in_chans": 1},
        {"num_classes": 5, "transformer": "residual", "tokens": 11},
    ],
    ids=["classification", "segmentation", "pose", "transformer"],
)
def test_the_tiny_supernet_is_cut_exactly(options):
    torch.manual_seed(0)
    model = enlivened(build("edakari:supernet", preset="tiny", **options)).requires_grad_(False)
    x = torch.randn(2, *default_example("edakari:supernet", model).shape[1:], dtype=torch.float64)
    graph = trace(model, x[:1])
    for seed, drop in ((0, 0.0), (1, 0.5)):
        plan = random_plan(graph, keep=(0.2, 0.7), seed=seed, drop=drop)
        assert exactness(model, x, plan, graph) < 1e-12
        small = apply(model, plan, graph)
        with FlopCounterMode(display=False) as counter:
            small(x[:1])
        assert COSTS["macs"](graph).total(plan.sizes()) == counter.get_total_flops() / 2
        assert COSTS["params"](graph).total(plan.sizes()) == sum(param.numel() for param in small.parameters())


def test_paths_and_tokens_are_groups_of_their_own_and_what_lies_on_an_identity_is_a_branch():
    model = build("edakari:supernet", preset="tiny", transformer="residual", tokens=11)
    graph = trace(model, torch.zeros(1, 3, 32, 32))
    offered = {branch.name.removesuffix(":branch") for branch in graph.branches}
    for name, module in model.named_modules():
        if isinstance(module, SearchBlock):
            parts = {name, f"{name}.mixer", *(f"{name}.paths.{index}" for index in range(3))}
            assert parts & offered == (parts if isinstance(module.shortcut, nn.Identity) else set())
            for index, path in enumerate(module.paths):
                gate = {member.tensor for member in graph.members(f"{name}.paths.{index}.0.0")}
                assert f"{name}.paths.{index}.1.1.weight" in gate
                assert all(member.startswith(f"{name}.paths.{index}.") for member in gate)
                assert graph[f"{name}.paths.{index}.0.0"].size == path[1][1].num_features
        elif isinstance(module, TokenMixer):
            tokens = {member.tensor.removeprefix(f"{name}.") for member in graph.members(f"{name}.squeeze")}
            assert {"queries", "squeeze.weight", "norm.weight", "expand.weight"} <= tokens
            assert graph[f"{name}.squeeze"].size == 11


@pytest.mark.parametrize(("tokens", "macs"), [(8, 447_488), (64, 4_497_408)])
def test_a_token_mixer_costs_what_the_formula_says(tokens, macs):
    with torch.device("meta"):
        mixer = TokenMixer(36, 36, tokens).requires_grad_(False).eval()
    with FlopCounterMode(display=False) as counter:
        mixer(torch.zeros(1, 36, 28, 28, device="meta"))
    assert counter.get_total_flops() // 2 == macs
    assert macs == 64 * tokens * (36 + 2 + 36) + 256 * tokens**2 + 49_152 * tokens


def test_tokens_are_maps_with_coordinates_and_order_does_not_matter():
    """Tokens in another order, with their queries, give the same result; what they are made of is seen in torch."""
    torch.manual_seed(0)
    mixer = enlivened(TokenMixer(6, 6, 5))
    x = torch.randn(2, 6, 7, 9, dtype=torch.float64)
    order = torch.tensor([3, 0, 4, 1, 2])
    other = copy.deepcopy(mixer)
    with torch.no_grad():
        other.queries.copy_(mixer.queries[order])
        other.squeeze.weight.copy_(mixer.squeeze.weight[order])
        other.expand.weight.copy_(mixer.expand.weight[:, order])
        for mine, its in zip(other.norm.state_dict().values(), mixer.norm.state_dict().values(), strict=True):
            if mine.ndim:
                mine.copy_(its[order])
        assert torch.allclose(other(x), mixer(x), atol=1e-12)
        other.queries[0] += 1
        assert not torch.allclose(other(x), mixer(x), atol=1e-6)
    for index in (0, 1):
        assert mixer.coordinates[0, index].mean().abs() < 1e-6
        assert mixer.coordinates[0, index].std(correction=0) == pytest.approx(1)


def test_a_block_is_its_shortcut_and_its_normalised_paths():
    torch.manual_seed(0)
    block = enlivened(SearchBlock(6, 9, 2))
    x = torch.randn(2, 6, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        summed = sum(path(x) for path in block.paths)
        normed = functional.batch_norm(
            summed, block.norm.running_mean, block.norm.running_var, block.norm.weight, block.norm.bias
        )
        assert torch.allclose(block(x), block.shortcut(x) + normed, atol=1e-9)
    assert block.shortcut.groups == 3
    assert [path[1][0].kernel_size for path in block.paths] == [(3, 3), (5, 5), (7, 7)]


@pytest.mark.parametrize("side", [33, 46])
def test_maps_of_odd_sizes_are_fused(side):
    fusion = Fusion((4, 6, 8), (4, 6, 8, 10), SearchBlock)
    sizes = [side, -(-side // 2), -(-side // 4)]
    maps = [torch.zeros(1, width, size, size) for width, size in zip((4, 6, 8), sizes, strict=True)]
    shapes = [tuple(found.shape[1:]) for found in fusion(maps)]
    assert shapes == [(4, *[sizes[0]] * 2), (6, *[sizes[1]] * 2), (8, *[sizes[2]] * 2), (10, *[-(-sizes[2] // 2)] * 2)]
    assert sum(isinstance(module, SearchBlock) for module in fusion.modules()) == 8
    with torch.no_grad():
        assert build("edakari:supernet", preset="tiny")(torch.zeros(1, 3, side, side)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head": "segmention"}, "segmentation"),
        ({"preset": "large"}, "paper, small, tiny"),
        ({"transformer": True}, "none, residual, all"),
        ({"head_width": 180}, "omit it"),
        ({"num_classes": 0}, "at least 1"),
        ({"tokens": 0, "transformer": "all"}, "at least 1"),
    ],
)
def test_a_wrong_option_is_one_clear_error(options, words):
    with pytest.raises(ModelError, match=words):
        build("edakari:supernet", **options)


@pytest.mark.parametrize("preset", ["paper", "small", "tiny"])
def test_dense_heads_have_a_quarter_of_the_images_resolution(preset):
    model = abstract(preset=preset, head="pose", num_classes=3)
    assert model(torch.zeros(2, 3, 64, 32, device="meta")).shape == (2, 3, 16, 8)


def test_settings_of_batch_norms_and_weights_follow_the_task():
    torch.manual_seed(0)
    for head, momentum, eps in (("classification", 0.01, 1e-3), ("segmentation", 0.01, 1e-3), ("pose", 0.1, 1e-5)):
        model = build("edakari:supernet", preset="small", head=head)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        assert {(norm.momentum, norm.eps) for norm in norms} == {(momentum, eps)}
        deviation = model.stages[1][1].branches[1][0].paths[2][1][0].weight.std().item()
        assert deviation == pytest.approx(0.001 if head == "pose" else (2 / 49) ** 0.5, rel=0.1)
