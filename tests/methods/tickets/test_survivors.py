"""A search that cuts in several events is saved with one plan for the dense network, and comes back from it."""

from __future__ import annotations

import dataclasses as dc
import functools
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edakari
from edakari.core.plan import DropBranch, KeepChannels
from edakari.core.weight_masks import WeightMasks
from edakari.errors import PlanError
from edakari.graph import maskable_weights, trace
from edakari.methods.tickets.gates import gates_of
from edakari.methods.tickets.survivors import Survivors, emptied_branches, names_after
from edakari.models import build
from edakari.surgery import apply, mask_weights
from edakari.surgery.origin import step_by, steps_of

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@functools.cache
def drawn(seed: int, events: int = 2) -> tuple[nn.Module, Any]:
    """A tiny supernet after some events that cut units and drop paths, and masks; the plan to it. Not to be changed."""
    random.seed(seed)
    torch.manual_seed(seed)
    model = build("edakari:supernet", preset="tiny")
    graph = trace(model, X)
    groups = {each.name: each for each in gates_of(model, graph)}
    emptied = emptied_branches(graph, list(groups.values()))
    left, now, names = Survivors.all_of(list(groups.values())), graph, {name: name for name in groups}
    for _ in range(events):
        keep = {}
        for name, units in left.units.items():
            share = 0.0 if name in emptied and random.random() < 0.2 else random.choice((0.6, 1.0))
            keep[name] = np.array([random.random() < share for _ in units])
            if share:
                keep[name][0] = True
        later = left.after(keep, emptied, graph)
        model = apply(model, left.step(later, graph, now, names), now)
        now, left = trace(model, X), later
        names = names_after(graph, now, {name: groups[name] for name in left.units})
    masks = {name: torch.rand(model.get_parameter(name).shape) < 0.5 for name in maskable_weights(now)[::2]}
    masked = mask_weights(now, WeightMasks(masks))
    plan = left.plan(graph).then(masked, graph=graph)
    return apply(model, masked, now), plan


@pytest.mark.parametrize("seed", range(2))
def test_a_network_after_several_events_comes_back_from_its_folder(seed, tmp_path):
    model, plan = drawn(seed)
    assert any(isinstance(edit, DropBranch) for edit in plan.edits)
    edakari.save(model, plan, tmp_path / "ticket")
    again = edakari.load(tmp_path / "ticket")
    assert torch.equal(again.eval()(X), model.eval()(X))
    assert edakari.surgery.held_masks(again).keys() == edakari.surgery.held_masks(model).keys()


def other_units(plan: Any) -> Any:
    cut = next(edit for edit in plan.edits if isinstance(edit, KeepChannels))
    indices = tuple(index + 1 for index in cut.indices) if cut.indices[0] == 0 else (0, *cut.indices[1:])
    return tuple(KeepChannels(cut.group, indices) if edit is cut else edit for edit in plan.edits)


def fewer_drops(plan: Any) -> Any:
    drop = next(edit for edit in plan.edits if isinstance(edit, DropBranch))
    return tuple(edit for edit in plan.edits if edit is not drop)


def no_masks(plan: Any) -> Any:
    return tuple(edit for edit in plan.edits if isinstance(edit, KeepChannels | DropBranch))


@pytest.mark.parametrize("change", [other_units, fewer_drops, no_masks])
def test_other_plans_are_told_from_it(change):
    model, plan = drawn(1)
    with pytest.raises(PlanError, match="not pruned by this plan"):
        step_by(dc.replace(plan, edits=change(plan)), steps_of(model))
