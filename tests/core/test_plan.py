"""Plans: joining, JSON, digests."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edakari.core.plan import DropBranch, KeepChannels, KeepTokens, MaskWeights, Plan, keep
from edakari.errors import PlanError

INPUTS = {"tensor": [[1, 3, 8, 8], "float32"]}
SIZE = 9


def plan(*edits: object, method: str = "") -> Plan:
    return Plan(tuple(edits), "f" * 8, INPUTS, method)  # type: ignore[arg-type]


def cut(plan: Plan, rows: dict[str, list[int]]) -> dict[str, list[int]]:
    """What apply does, on lists."""
    chosen = {edit.group: edit.indices for edit in plan.edits if isinstance(edit, KeepChannels)}
    return {name: [items[i] for i in chosen[name]] if name in chosen else items for name, items in rows.items()}


subsets = st.sets(st.integers(0, SIZE - 1), min_size=1).map(sorted)


@given(st.dictionaries(st.sampled_from("abc"), subsets), st.data())
def test_then_is_one_plan_after_the_other(first: dict[str, list[int]], data: st.DataObject) -> None:
    dense = {name: list(range(SIZE)) for name in "abc"}
    earlier = plan(*(KeepChannels(name, tuple(rows)) for name, rows in first.items()))
    left = cut(earlier, dense)
    second = {
        name: data.draw(st.sets(st.integers(0, len(left[name]) - 1), min_size=1).map(sorted))
        for name in data.draw(st.sets(st.sampled_from("abc")))
    }
    later = plan(*(KeepChannels(name, tuple(rows)) for name, rows in sorted(second.items())), method="m")
    joined = earlier.then(later)
    assert cut(joined, dense) == cut(later, left)
    assert joined.method == "m"
    assert joined.fingerprint == earlier.fingerprint


def test_then_refuses_a_coordinate_that_is_gone() -> None:
    with pytest.raises(PlanError, match=r"'a'.*keeps 2"):
        plan(KeepChannels("a", (1, 4))).then(plan(KeepChannels("a", (2,))))


def test_then_keeps_other_edits_once() -> None:
    drop = DropBranch("layer1.0")
    assert plan(drop).then(plan(drop, DropBranch("layer1.1"))).edits == (drop, DropBranch("layer1.1"))


def test_json_round_trip_of_every_kind_of_edit() -> None:
    whole = plan(
        KeepChannels("a", (0, 2)),
        KeepTokens("blocks.3", 98, "head", (("package", "sum"),)),
        DropBranch("b"),
        MaskWeights("w", "00ff", (2, 3), 5),
    )
    assert Plan.from_json(whole.to_json()) == whole
    assert whole.sizes() == {"a": 2, "b": 0, "blocks.3:tokens": 98}


def test_digest_depends_on_content_only() -> None:
    assert plan(KeepChannels("a", (0,))).digest() == plan(KeepChannels("a", (0,))).digest()
    assert plan(KeepChannels("a", (0,))).digest() != plan(KeepChannels("a", (1,))).digest()


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"version": 1}', plan(DropBranch("x")).to_json()[:-9]])
def test_a_damaged_plan_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="not a plan"):
        Plan.from_json(text)


def test_a_plan_of_another_version_is_refused() -> None:
    content = json.loads(plan().to_json()) | {"version": 99}
    with pytest.raises(PlanError, match="version 99"):
        Plan.from_json(json.dumps(content))


@pytest.mark.parametrize("edit", [{"kind": "Nothing"}, {"kind": "DropBranch", "wrong": 1}])
def test_an_unknown_edit_is_refused(edit: dict[str, object]) -> None:
    content = json.loads(plan().to_json()) | {"edits": [edit]}
    with pytest.raises(PlanError):
        Plan.from_json(json.dumps(content))


@pytest.mark.parametrize("indices", [[], [0, 0], [-1], [4]])
def test_keep_checks_indices(indices: list[int]) -> None:
    with pytest.raises(PlanError, match="4 channels"):
        keep(indices, "a", 4)


def test_keep_sorts() -> None:
    assert keep([3, 1], "a", 4) == KeepChannels("a", (1, 3))


def test_a_chain_is_named_by_its_last_method() -> None:
    assert plan(method="first").then(plan(method="second")).method == "second"
    assert plan(method="first").then(plan()).method == "first"
