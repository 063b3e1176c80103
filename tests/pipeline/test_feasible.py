"""Networks and budgets with which a method cannot finish are refused before anything is evaluated or trained."""

from __future__ import annotations

from typing import Any

import pytest

import edakari
from edakari.errors import EdakariError, InfeasibleBudget, ModelError, PlanError
from edakari.pipeline import recipe_from, stages
from edakari.pipeline.checking import check_recipe

WITHOUT_NORMS = """
from torch import nn


def plain() -> nn.Module:
    parts = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(12, 3))
"""
CASES: dict[str, tuple[dict[str, Any], type[EdakariError], str]] = {
    "no gates": ({"method": "gate_search", "model": "plain"}, ModelError, "none of the 2 groups has gates"),
    "no gates, alone masks": (
        {"method": "supertickets", "model": "plain", "budget": "sparsity>=50%"},
        ModelError,
        "none of the 2 groups has gates",
    ),
    "too few units with gates": (
        {"method": "gate_search", "budget": "macs<=1%"},
        InfeasibleBudget,
        "groups with gates cannot reach",
    ),
    "one of two limits": (
        {"method": "supertickets", "budget": "macs<=1%, sparsity>=50%"},
        InfeasibleBudget,
        "groups with gates cannot reach",
    ),
    "fixed widths": (
        {"method": "gate_search", "budget": "macs<=5%", "groups": {"widths": {"3": 6}}},
        InfeasibleBudget,
        "(?s)cannot reach.*fixed",
    ),
    "excluded layers": (
        {"method": {"name": "gradual_magnitude", "excluded": ["3"]}, "budget": "sparsity>=90%"},
        InfeasibleBudget,
        "excluded layers",
    ),
    "a pattern without a layer": (
        {"method": {"name": "supertickets", "excluded": ["frist"]}, "budget": "sparsity>=90%"},
        PlanError,
        "frist",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_told_by_a_check_and_by_a_run_before_anything_is_evaluated(
    content: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    changes, error, said = CASES[case]
    if "model" in changes:
        (tmp_path / "plain.py").write_text(WITHOUT_NORMS)
        changes = {**changes, "model": {"name": f"{tmp_path}/plain.py:plain", "weights": "random"}}
    recipe = recipe_from({**content, **changes})

    def evaluated(run: Any) -> None:
        raise AssertionError("the run went on")

    monkeypatch.setattr(stages, "dense_stage", evaluated)
    with pytest.raises(error, match=said):
        check_recipe(recipe)
    with pytest.raises(error, match=said):
        edakari.run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_can_be_done_passes(content: dict[str, Any]) -> None:
    for method, budget in (("gate_search", "macs<=60%"), ("supertickets", "macs<=60%, sparsity>=50%")):
        for groups in ({}, {"widths": {"3": 6}}):
            recipe = recipe_from({**content, "method": method, "budget": budget, "groups": groups})
            assert check_recipe(recipe).limits["macs"] > 0


@pytest.mark.parametrize("budget", ["latency<=60%", "latency<=60%, macs<=1%"])
def test_a_latency_is_not_measured_for_it(content: dict[str, Any], budget: str) -> None:
    for method, sparsity in (("gate_search", ""), ("supertickets", ", sparsity>=50%")):
        recipe = recipe_from({**content, "method": method, "budget": budget + sparsity})
        if "macs" in budget:
            with pytest.raises(InfeasibleBudget, match="groups with gates cannot reach"):
                check_recipe(recipe)
        else:
            assert not check_recipe(recipe).limits
