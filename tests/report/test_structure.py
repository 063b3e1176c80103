"""The tree of modules that `edakari inspect` shows, on networks small enough to know what must come out."""

import typing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from edakari.cli.tree import TreeSettings, module_tree
from edakari.core.layout import Axis, Fixed, extent
from edakari.cost import dense
from edakari.graph import trace
from edakari.models import build, default_example
from edakari.models.supernet_blocks import SearchBlock
from edakari.report import rows as rows_of
from edakari.report.inspection import as_json, inspection
from edakari.report.outline import condensed, group_names, name_in, pin_lines, runs
from edakari.report.pins import pinned_by_reason
from edakari.report.rows import brackets, lanes, network_rows
from edakari.report.structure import ModuleNode, shortcuts, structure


class Block(nn.Module):
    """A residual block with a projection where the width changes."""

    def __init__(self, width: int, wider: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(width, wider, 1) if wider > width else nn.Identity()
        self.conv1 = nn.Conv2d(width, 12, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, wider, 3, padding=1)

    def forward(self, x):
        return self.conv2(self.norm1(self.conv1(x)).relu()) + self.project(x)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.Sequential(Block(8, 16), Block(16, 16), Block(16, 16), Block(16, 16))
        self.scale = nn.Parameter(torch.ones(16, 1, 1))
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        return self.head((self.blocks(self.stem(x)) * self.scale).mean((2, 3)))


def traced(model: nn.Module, *shape: int):
    graph = trace(model.eval(), torch.zeros(1, *shape))
    return graph, structure(graph, model)


@pytest.fixture
def residual():
    return traced(Residual(), 3, 8, 8)


def everything(node: ModuleNode):
    yield node
    for child in node.children:
        yield from everything(child)


def at(tree: ModuleNode, path: str) -> ModuleNode:
    return next(node for node in everything(tree) if node.path == path and not node.own)


@pytest.mark.parametrize("name", ["edakari:fashion_vit", "edakari:resnet20", "torchvision:vit_b_16"])
@pytest.mark.parametrize("short", [False, True])
def test_costs_add_up_from_the_layers_to_the_network(name, short):
    with torch.device("meta"):
        model = build(name)
    graph = trace(model, default_example(name, model))
    tree = structure(graph, model)
    tree = condensed(tree) if short else tree
    assert (tree.macs, tree.params) == (dense(graph)["macs"], dense(graph)["params"])
    for node in everything(tree):
        if node.children:
            assert node.macs == sum(child.macs for child in node.children)
            assert node.params == sum(child.params for child in node.children)


def test_widths_and_groups_are_those_of_the_layers(residual):
    _, tree = residual
    stem, conv1, block = at(tree, "stem"), at(tree, "blocks.0.conv1"), at(tree, "blocks.0")
    assert (stem.input_layout, stem.output_layout) == (Fixed(3), Axis("stem", 8))
    assert (conv1.input_layout, conv1.output_layout) == (Axis("stem", 8), Axis("blocks.0.conv1", 12))
    assert [extent(layout, {}) for layout in (block.input_layout, block.output_layout)] == [8, 16]
    assert (conv1.kind, conv1.detail) == ("Conv2d", "3×3")
    assert group_names(conv1.output_layout, "blocks.0") == ".conv1"
    assert group_names(conv1.input_layout, "blocks.0") == "stem"


def test_heads_are_one_width_with_two_groups():
    name = "edakari:fashion_vit"
    model = build(name)
    tree = structure(trace(model, default_example(name, model)), model)
    makers = {group_names(node.output_layout, "") for node in everything(tree) if node.kind == "Linear"}
    assert any(text.endswith(":head × head_dim") for text in makers)


def test_a_convolution_says_stride_and_grouping():
    model = nn.Sequential(nn.Conv2d(3, 8, (1, 3), stride=2), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1, groups=2))
    _, tree = traced(model, 3, 9, 9)
    assert [child.detail for child in tree.children] == ["1×3 /2", "3×3 depthwise", "1×1 2 groups"]


def test_own_parameters_of_a_module_with_children_are_a_child(residual):
    _, tree = residual
    own = next(node for node in everything(tree) if node.own)
    assert (own.path, own.own, own.params) == ("", "scale", 16)
    assert [child.own or child.path for child in tree.children] == ["stem", "blocks", "scale", "head"]


def test_children_stand_in_the_order_in_which_they_run(residual):
    _, tree = residual
    assert [name_in(node, "blocks.0") for node in condensed(at(tree, "blocks.0")).children] == [
        "conv1 + norm1",
        "conv2",
        "project",
    ]


def test_what_stays_has_its_operator_and_reason(residual):
    graph, tree = residual
    (pin,) = at(tree, "stem").pins
    assert (pin.tensor, pin.dim, pin.size, pin.operator, pin.module) == (
        "stem.weight",
        1,
        3,
        "aten.convolution",
        "stem",
    )
    assert pin_lines(at(tree, "stem"))[0].startswith("in: 3 left alone, aten.convolution ")
    assert pin_lines(at(tree, "head")) == ["out: 5 left alone, the network's output"]
    assert not any(node.pins for node in everything(tree) if node.path.startswith("blocks"))
    output = next(reason for reason in pinned_by_reason(graph) if reason.reason == "the network's output")
    assert (output.dims, output.tensors) == (2, ("head.weight", "head.bias"))
    assert output.params_share == pytest.approx((5 * 16 + 5) / dense(graph)["params"])


def test_equal_siblings_fold_and_others_do_not(residual):
    _, tree = residual
    blocks = condensed(at(tree, "blocks")).children
    assert [[node.path for node in run] for run in runs(blocks)] == [
        ["blocks.0"],
        ["blocks.1", "blocks.2", "blocks.3"],
    ]


def test_blocks_that_read_what_the_block_before_made_fold_too():
    layers = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(4)]
    _, tree = traced(nn.Sequential(nn.Conv2d(3, 8, 1), *layers, nn.Conv2d(8, 9, 1)), 3, 8, 8)
    counts = [len(run) for run in runs(condensed(tree).children)]
    assert counts == [1, 4, 1]


def test_blocks_of_one_class_and_other_widths_do_not_fold():
    _, tree = traced(nn.Sequential(Block(3, 8), Block(8, 16), Block(16, 16)), 3, 8, 8)
    assert [len(run) for run in runs(condensed(tree).children)] == [1, 1, 1]


def test_what_costs_nothing_is_left_out_and_single_children_take_their_parents_place():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), nn.Dropout(), nn.Conv2d(4, 2, 1))
    _, tree = traced(model, 3, 4, 4)
    assert [child.path for child in condensed(tree).children] == ["0.0", "2"]
    assert len(list(everything(tree))) == 6


def test_a_module_that_is_used_twice_is_counted_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model.append(model[0])
    graph, tree = traced(model, 4)
    assert tree.params == dense(graph)["params"] == 20
    assert tree.macs == dense(graph)["macs"] == 32


def test_modules_that_do_not_run_are_there_with_the_reason():
    model = Residual()
    model.spare = nn.Linear(3, 7)
    _, tree = traced(model, 3, 8, 8)
    assert pin_lines(at(tree, "spare")) == [
        "out: 7 left alone, not used in the forward pass that was traced",
        "in: 3 left alone, not used in the forward pass that was traced",
    ]


def test_residual_sums_are_told_from_the_graph(residual):
    graph, tree = residual
    assert [found.module for found in shortcuts(graph)] == ["blocks.0", "blocks.1", "blocks.2", "blocks.3"]
    rows = network_rows(graph, tree)
    first, second = brackets(graph, rows)[:2]
    assert [row.name for row in rows[first.first : first.last + 1]] == ["conv1 + norm1", "conv2", "project"]
    assert [rows[index].name for index in first.beside] == ["project"]
    assert second.beside == ()


def test_layers_produce_consume_or_carry_a_group():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.ReLU(),
        nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 6, 2),
        nn.Conv2d(6, 2, 1),
    )
    graph, tree = traced(model, 3, 8, 8)
    first, second = [group.name for group in graph.groups]
    assert [dict(row.roles) for row in network_rows(graph, tree)] == [
        {first: "produces"},
        {first: "carries"},
        {first: "consumes", second: "produces"},
        {second: "consumes"},
    ]
    alone, _ = traced(nn.ConvTranspose2d(3, 6, 2), 3, 8, 8)
    lines = pin_lines(structure(alone, nn.ConvTranspose2d(3, 6, 2)))
    assert [line.split(" left")[0] for line in lines] == ["in: 3", "out: 6"]


def test_both_sums_of_a_transformer_block_are_found():
    name = "edakari:fashion_vit"
    model = build(name)
    graph = trace(model, default_example(name, model))
    found = [shortcut.module for shortcut in shortcuts(graph)]
    assert len(found) == 2 * len(set(found)) > 0


def test_a_lane_goes_from_the_first_to_the_last_layer_of_a_group_and_meets_no_other(residual):
    graph, tree = residual
    rows = network_rows(graph, tree)
    tracks = lanes(graph, rows)
    assert {lane.group for lane in tracks} == {group.name for group in graph.groups}
    stem = next(lane for lane in tracks if lane.group == "stem")
    assert [rows[stem.first].name, rows[stem.last].name] == ["stem", "project"]
    assert {role for row in rows for group, role in row.roles.items() if group == "stem"} == {"produces", "consumes"}
    for one in tracks:
        for other in tracks:
            apart = one.last < other.first or other.last < one.first
            assert one is other or one.column != other.column or apart


def test_a_branch_that_can_be_dropped_is_marked_at_its_block(residual):
    graph, _ = residual
    branch = SimpleNamespace(
        name="blocks.1:branch", modules=("blocks.1.conv1", "blocks.1.norm1"), exit="blocks.1.conv2"
    )
    object.__setattr__(graph, "branches", (branch,))
    tree = structure(graph, Residual())
    assert at(tree, "blocks.1").droppable == ("conv1, norm1, conv2",)
    assert at(tree, "blocks.2").droppable == ()
    rows = network_rows(graph, tree)
    assert [bracket.droppable for bracket in brackets(graph, rows)] == [False, True, False, False]
    assert [len(run) for run in runs(condensed(at(tree, "blocks")).children)] == [1, 1, 2]


def test_parallel_paths_that_can_be_dropped_are_said_in_tree_and_summary():
    model = SearchBlock(8, 16, 2)
    graph, tree = traced(model, 8, 8, 8)
    assert [at(tree, name).droppable for name in ("paths.0", "paths.2", "shortcut", "norm")] == [("",)] * 3 + [()]
    assert at(tree, "").droppable == ("paths.0, paths.1, paths.2, norm",)
    assert f"parallel paths that can be dropped:  {len(graph.paths)}" in str(graph)
    assert "can be dropped" in module_tree(inspection("mine", graph, model), TreeSettings()).plain
    assert "parallel paths" not in str(traced(nn.Conv2d(3, 4, 1), 3, 4, 4)[0])


def test_as_json_has_the_whole_tree(residual):
    model = Residual()
    graph, _ = traced(model, 3, 8, 8)
    content = as_json(inspection("mine", graph, model))
    assert content["modules"]["macs_share"] == content["modules"]["params_share"] == 1.0
    assert [child["path"] or child["own"] for child in content["modules"]["children"]] == [
        "stem",
        "blocks",
        "scale",
        "head",
    ]
    assert content["modules"]["children"][0]["pins"][0]["operator"] == "aten.convolution"
    assert content["prunable_params"] == content["costs"]["params"] - 5  # all but the last layer's bias


class Sum(nn.Module):
    """Adds what two paths make."""

    def __init__(self, *paths: nn.Module) -> None:
        super().__init__()
        self.left, self.right = paths

    def forward(self, x):
        return self.left(x) + self.right(x)


def test_only_a_layer_that_skips_others_lies_on_the_shortcut():
    depthwise, own = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        # a depthwise convolution goes from the stream to the stream, and does not lie beside the others
        Sum(nn.Sequential(depthwise, nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1)), nn.Identity()),
        # neither of two projections takes more steps than the other
        Sum(nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)),
        nn.Conv2d(6, 2, 1),
    )
    graph, tree = traced(model, 3, 8, 8)
    rows = network_rows(graph, tree)
    assert [bracket.beside for bracket in brackets(graph, rows)] == [(), ()]
    # what reads a stream and writes it makes its values anew, unless it passes each channel on by itself
    graph, tree = traced(nn.Sequential(nn.Conv2d(3, 8, 1), Sum(own, depthwise), nn.Conv2d(8, 2, 1)), 3, 8, 8)
    (stream,) = [group.name for group in graph.groups]
    assert [row.roles[stream] for row in network_rows(graph, tree)] == ["produces", "produces", "carries", "consumes"]


def test_every_role_is_drawn_and_explained() -> None:
    templates = Path(rows_of.__file__).parent / "templates"
    css, page = ((templates / name).read_text(encoding="utf-8") for name in ("network.css", "network.html.j2"))
    for role in typing.get_args(rows_of.Role):
        assert f".dot.{role}" in css, role
        assert f"dot {role} " in page, role
