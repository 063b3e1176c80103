"""Sensitivities of groups, from scores whose spread is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import edakari
from edakari.core.plan import KeepChannels, Plan
from edakari.core.space import Group
from edakari.pipeline.scored import sensitivities
from edakari.report import collect, render


def figures(scores: list[float], kept: tuple[int, ...]) -> dict[str, float]:
    plan = Plan((KeepChannels("a", kept),), "", {})
    return sensitivities([Group("a", "channel", len(scores))], {"a": torch.tensor(scores)}, plan)[0]


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_equal_channels_are_as_sensitive_as_can_be_whatever_their_unit(size: int) -> None:
    found = figures([7.0] * size, (0,))
    assert found["weaker_half"] == pytest.approx(0.5)
    assert found["removed"] == pytest.approx(1 - 1 / size)


def test_channels_of_no_score_are_not_sensitive_and_their_removal_loses_nothing() -> None:
    found = figures([0.0, 3.0, 0.0, 1.0, -2.0], (1, 3))
    assert (found["weaker_half"], found["removed"]) == (0.0, 0.0)


def test_a_group_that_was_not_scored_whole_is_left_out() -> None:
    groups = [Group("a", "channel", 4), Group("b", "channel", 2), Group("c", "channel", 2)]
    found = sensitivities(groups, {"a": torch.ones(3), "b": torch.zeros(2)}, Plan((), "", {}))
    assert found == []


def test_the_report_of_a_run_draws_each_scored_group(content: dict[str, Any], tmp_path: Path) -> None:
    edakari.run({**content, "finetune": None, "measure": None}, tmp_path / "run")
    report = collect(tmp_path / "run")
    assert {each["name"] for each in report["sensitivity"]} == {each["name"] for each in report["groups"]}
    assert json.loads((tmp_path / "run/kept/scores.json").read_text()) == report["sensitivity"]
    assert all(0 < each["weaker_half"] <= 0.5 for each in report["sensitivity"])
    chart = render(report).partition("Width against sensitivity")[2].partition("</svg>")[0]
    assert chart.count("<circle") == len(report["groups"])
