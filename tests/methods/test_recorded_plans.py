"""Plans that methods made when each criterion had a method of its own; the same settings lead to the same plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from edakari.core.method import method_named
from edakari.testing import toy_cnn, toy_job

RECORDED = json.loads((Path(__file__).parent / "recorded_plans.json").read_text(encoding="utf-8"))
SETTINGS: dict[str, dict[str, Any]] = {
    "magnitude": {},
    "magnitude p=1 knapsack": {"criterion": {"p": 1}, "allocator": "knapsack"},
    "bn_scale": {},
    "fpgm": {"allocator": "uniform"},
    "taylor": {"criterion": {"max_batches": 2}},
    "taylor iterations": {"iterations": 3, "recovery_epochs": 1},
    "random": {},
    "rfc": {},
    "rfc variance": {"criterion": {"measure": "variance", "responses": {"top": 8}}},
    "dlrfc": {"trial": {"images": 64}},
    "dlrfc joint": {"trial": {"joint": True, "soft": "off", "tolerance": 0.3, "recovery_epochs": 0}},
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_method_makes_the_plan_that_it_made(name: str) -> None:
    torch.manual_seed(0)
    plan = method_named(name.split()[0])(**SETTINGS[name]).prune(toy_job(toy_cnn(), "macs<=45%", seed=3)).plan
    found = {edit.group: list(edit.indices) for edit in plan.edits}
    assert {"method": plan.method, "edits": found} == RECORDED[name]
