"""Masks of single weights: packing, digests, and the algebra of plans that mask."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from edakari.core.graph import Graph
from edakari.core.layout import Axis, Fixed, Product
from edakari.core.packed_masks import PackedMask
from edakari.core.plan import KeepChannels, MaskWeights, Plan
from edakari.core.weight_masks import WeightMasks
from edakari.errors import ModelError, PlanError

LAYOUTS = {"first": (Axis("a", 4), Fixed(3)), "second": (Axis("b", 3), Product((Axis("a", 4), Fixed(2))))}
SHAPES = {"first": (4, 3), "second": (3, 8)}
GRAPH = Graph((), LAYOUTS, ("first", "second"), (), (), (), None, "meta", {}, "dense")


def plan_of(masks: dict[str, np.ndarray], channels: dict[str, list[int]], fingerprint: str = "dense") -> Plan:
    packed = {name: PackedMask.of(mask) for name, mask in masks.items()}
    edits = [KeepChannels(group, tuple(indices)) for group, indices in channels.items()]
    masked = [MaskWeights(name, mask.digest, mask.shape, mask.count) for name, mask in packed.items()]
    bits = {mask.digest: mask.bits for mask in packed.values()}
    return Plan((*edits, *masked), fingerprint, None, bits=bits)


def carried_out(plan: Plan, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What apply does, on arrays: zeros, then cuts."""
    found = {}
    chosen = {edit.group: list(edit.indices) for edit in plan.edits if isinstance(edit, KeepChannels)}
    for name, values in weights.items():
        mask = plan.packed_masks().get(name)
        values = values if mask is None else np.where(mask.array(), values, 0)
        a, b = chosen.get("a"), chosen.get("b")
        if name == "first":
            found[name] = values if a is None else values[a]
        else:
            columns = range(values.shape[1]) if a is None else [2 * index + each for index in a for each in (0, 1)]
            found[name] = values[range(len(values)) if b is None else b][:, columns]
    return found


@st.composite
def plans(draw: st.DrawFn, sizes: dict[str, int]) -> tuple[Plan, dict[str, int]]:
    """A plan for the network at these sizes, and the sizes that it leaves."""
    channels, shapes = {}, {"first": (sizes["a"], 3), "second": (sizes["b"], 2 * sizes["a"])}
    for group, size in sizes.items():
        if draw(st.booleans()):
            channels[group] = draw(st.sets(st.integers(0, size - 1), min_size=1).map(sorted))
    names = draw(st.sets(st.sampled_from(["first", "second"])))
    masks = {name: draw(arrays.arrays(np.bool_, shapes[name])) for name in sorted(names)}
    left = {group: len(channels.get(group, range(size))) for group, size in sizes.items()}
    return plan_of(masks, channels), left


def graph_at(sizes: dict[str, int]) -> Graph:
    a, b = Axis("a", sizes["a"]), Axis("b", sizes["b"])
    layouts = {"first": (a, Fixed(3)), "second": (b, Product((a, Fixed(2))))}
    return Graph((), layouts, ("first", "second"), (), (), (), None, "meta", {}, "dense")


@given(st.data())
def test_then_is_one_plan_after_the_other_and_associative(data: st.DataObject) -> None:
    a, after_a = data.draw(plans({"a": 4, "b": 3}))
    b, after_b = data.draw(plans(after_a))
    c, _ = data.draw(plans(after_b))
    weights = {name: np.arange(1, 1 + np.prod(shape)).reshape(shape) for name, shape in SHAPES.items()}
    wanted = carried_out(c, carried_out(b, carried_out(a, weights)))
    left = a.then(b, GRAPH).then(c, GRAPH)
    right = a.then(b.then(c, graph_at(after_a)), GRAPH)
    assert left == right
    assert left.digest() == right.digest()
    for joined in (left, right):
        found = carried_out(joined, weights)
        assert all(np.array_equal(found[name], wanted[name]) for name in weights)
        assert {edit.digest for edit in joined.edits if isinstance(edit, MaskWeights)} == joined.bits.keys()


@given(arrays.arrays(np.bool_, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)))
def test_packing_is_undone_by_unpacking(mask: np.ndarray) -> None:
    packed = PackedMask.of(mask)
    assert np.array_equal(packed.array(), mask)
    assert packed.array().shape == mask.shape
    assert packed.count == mask.sum()
    assert len(packed.bits) == -(-mask.size // 8)
    masks = WeightMasks({"w": torch.from_numpy(mask.copy())})
    assert WeightMasks.unpack(masks.pack()) == masks
    assert masks.counts() == (mask.sum(), mask.size)


def test_digests_tell_shapes_bits_and_names_apart() -> None:
    mask = torch.tensor([True, False, True, False])
    every = [{"a": mask}, {"b": mask}, {"a": ~mask}, {"a": mask.view(2, 2)}, {"a": mask, "b": mask}, {}]
    assert len({WeightMasks(masks).digest() for masks in every}) == len(every)
    assert WeightMasks({"a": mask, "b": ~mask}) == WeightMasks({"b": ~mask, "a": mask})
    assert WeightMasks({"a": mask}) != {"a": mask}


def test_digests_are_equal_in_another_process() -> None:
    code = (
        "import torch; from edakari.core.weight_masks import WeightMasks; "
        "print(WeightMasks({'a': torch.arange(24).view(2, 3, 4) % 5 == 0}).digest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert WeightMasks({"a": torch.arange(24).view(2, 3, 4) % 5 == 0}).digest() == other


def test_masks_do_not_change_with_the_tensor_that_they_were_made_of() -> None:
    mask = torch.ones(3, dtype=torch.bool)
    masks = WeightMasks({"a": mask})
    mask[0] = False
    assert masks.counts() == (3, 3)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"w": torch.ones(2)}, r"'w' is of type torch.float32.*mask != 0"),
        ({"w": torch.tensor([float("nan")])}, "torch.float32"),
        ({"w": [True]}, "'w' takes a bool tensor"),
        ([torch.ones(2) > 0], "a dict of bool tensors"),
        ({"w": torch.ones(2, dtype=torch.bool, device="meta")}, "no values"),
    ],
)
def test_other_things_than_bool_tensors_are_refused(masks: object, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        WeightMasks(masks)  # type: ignore[arg-type]


def test_bits_are_needed_and_checked_where_masks_are_used() -> None:
    mask = np.array([[True, False, True]] * 4)
    whole = plan_of({"first": mask}, {})
    bare = Plan.from_json(whole.to_json())
    assert bare == whole
    with pytest.raises(PlanError, match="without the bits"):
        bare.masks()
    flipped = bytes([whole.packed_masks()["first"].bits[0] ^ 1, *whole.packed_masks()["first"].bits[1:]])
    for wrong in (flipped, b"", flipped + b"0"):
        edit = whole.edits[0]
        assert isinstance(edit, MaskWeights)
        with pytest.raises(PlanError, match="'first' are not those"):
            Plan(whole.edits, "dense", None, bits={edit.digest: wrong}).masks()


def test_a_mask_after_a_cut_needs_the_graph() -> None:
    earlier = plan_of({}, {"a": [0, 2]})
    later = plan_of({"first": np.zeros((2, 3), np.bool_)}, {})
    with pytest.raises(PlanError, match="pass the graph"):
        earlier.then(later)
    joined = earlier.then(later, GRAPH).masks()["first"]
    assert joined.tolist() == [[False] * 3, [True] * 3, [False] * 3, [True] * 3]
    with pytest.raises(PlanError, match=r"leaves the shape \[2, 3\]"):
        earlier.then(plan_of({"first": np.zeros((3, 3), np.bool_)}, {}), GRAPH)
    with pytest.raises(PlanError, match="'third', which"):
        earlier.then(plan_of({"third": np.zeros((3, 3), np.bool_)}, {}), GRAPH)
    with pytest.raises(PlanError, match="another network"):
        plan_of({}, {}, "other").then(later, GRAPH)
    with pytest.raises(PlanError, match="shape"):
        later.then(plan_of({"first": np.zeros((3, 3), np.bool_)}, {}))


@pytest.mark.parametrize("wrong", [{"count": 13}, {"count": -1}, {"shape": [4, -3]}, {"shape": [4, 2.5]}, {"shape": 4}])
def test_counts_and_shapes_in_a_plans_text_are_checked(wrong: dict[str, object]) -> None:
    content = json.loads(plan_of({"first": np.ones((4, 3), np.bool_)}, {}).to_json())
    content["edits"][0] |= wrong
    with pytest.raises(PlanError, match="not a plan"):
        Plan.from_json(json.dumps(content))


def test_two_of_four_keeps_the_larger_two_of_each_row() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 5), nn.Conv2d(8, 3, 3), nn.Conv2d(6, 2, 1))
    masks = WeightMasks.two_of_four(model, ["0.weight", "1.weight"])
    for name, mask in masks.items():
        weight = model.get_parameter(name).detach()
        rows = weight.movedim(1, -1).reshape(-1, 4).abs()
        keep = mask.movedim(1, -1).reshape(-1, 4)
        assert (keep.sum(1) == 2).all()
        for row, kept in zip(rows, keep, strict=True):
            assert row[kept].min() >= row[~kept].max()
    with torch.no_grad():
        model[0].weight.fill_(1)
    assert WeightMasks.two_of_four(model, ["0.weight"])["0.weight"][0].tolist() == [True, True, False, False] * 2
    with pytest.raises(PlanError, match=r"'2.weight' of shape \[2, 6, 1, 1\].*multiple of 4"):
        WeightMasks.two_of_four(model, ["2.weight"])
    with pytest.raises(PlanError, match=r"did you mean '0\.weight'"):
        WeightMasks.two_of_four(model, ["0.weights"])
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        WeightMasks.two_of_four(model, ["0.weight"])
