"""Axes of a sweep, and what a wrong one gets."""

from __future__ import annotations

from typing import Any

import pytest

from edakari.errors import EdakariError, RecipeError
from edakari.sweeps.axes import Choices, Span, axes_of, combinations, label
from edakari.sweeps.plan import plan_of
from edakari.sweeps.settings import sweep_from

BASE = {"model": {"name": "edakari:fashion_cnn", "weights": "pretrained"}, "method": "magnitude", "budget": "macs<=50%"}


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"metod": ["taylor"]}, "unknown key of a recipe 'metod'; did you mean 'method'"),
        ({"method": []}, "takes a list of values"),
        ({"method": "taylor"}, "takes a list of values"),
        ({"seed": [0, 0]}, "has a value twice"),
        ({"seed": ["a"]}, "takes whole numbers"),
        ({"finetune.lr": {"low": 1, "high": 0.1}}, "low below high"),
        ({"finetune.lr": {"low": 0, "high": 0.1, "log": True}}, "log needs low above 0"),
        ({"finetune.lr": {"low": 0.1, "high": 1, "steps": 3}}, "perhaps log or step"),
        ({"method": ["magnitude", "magnitud"]}, "1 of 2 combinations cannot be run.*\n.*method=magnitud: .*magnitude"),
        (
            {"method": ["taylor", "gradual_magnitude"]},
            "1 of 2 combinations cannot be run.*\n.*method=gradual_magnitude",
        ),
        ({"finetune.epoch": [1, 2]}, "2 of 2 combinations cannot be run.*\n.*finetune.epoch: unknown key"),
        ({"method": ["sensitivity", "gradual_magnitude"], "budget": ["macs<=0"]}, "cannot be run"),
        ({"seed": list(range(101)), "data.seed": list(range(101))}, "make 10201 runs"),
    ],
)
def test_a_wrong_axis_is_told_before_anything_runs(axes: dict[str, Any], said: str) -> None:
    with pytest.raises(EdakariError, match=f"(?s){said}"):
        plan_of(sweep_from({"recipe": BASE, "axes": axes}), "sweep", trust_code=False)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"sampler": "tpe"}, "searches in ranges"),
        ({"pruner": "median"}, "searches in no range"),
        ({"axis": {}}, "unknown key; did you mean 'axes'"),
        ({"exclude": [{"seed": 5}]}, "no axis holds that value"),
        ({"trials": 0}, "trials"),
        ({"goal": {"subject_to": "latency<12"}}, "latency"),
    ],
)
def test_wrong_settings_are_told(more: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        plan_of(sweep_from({"recipe": BASE, "axes": {"seed": [0, 1]}, **more}), "sweep", trust_code=False)


def test_a_sweep_asks_for_something() -> None:
    with pytest.raises(RecipeError, match="needs axes"):
        sweep_from({"recipe": BASE})


def test_combinations_are_the_product_without_what_is_left_out() -> None:
    axes = axes_of({"seed": [0, 1], "method": ["a", {"name": "b", "epochs": 2}], "finetune.lr": [0.1]}, "sweep")
    found = list(combinations(axes, [{"method": "a", "seed": 1}], "sweep"))
    assert [(each["method"], each["seed"]) for each in found] == [("a", "0"), ("b epochs=2", "0"), ("b epochs=2", "1")]


def test_a_recipe_takes_the_values_of_its_point() -> None:
    recipe = {**BASE, "finetune": {"epochs": 4, "lr": 0.1}}
    axes = {"method.iterations": [2], "method": ["taylor"], "finetune.lr": {"low": 0.01, "high": 0.1}}
    plan = plan_of(sweep_from({"recipe": recipe, "axes": axes}), "sweep", trust_code=False)
    (point,) = plan.points()
    made = plan.recipe(type(point)(point.labels, {"finetune.lr": 0.05}))
    assert made.content["method"]["criterion"]["name"] == "taylor"
    assert made.content["method"]["iterations"] == 2
    assert made.finetune is not None
    assert (made.finetune.lr, made.finetune.epochs, made.finetune.counts_method) == (0.05, 4, True)


def test_ranges_and_lists_are_told_apart() -> None:
    lists, span = axes_of({"seed": [3], "finetune.epochs": {"low": 1, "high": 4}}, "sweep")
    assert isinstance(lists, Choices)
    assert isinstance(span, Span)
    assert span.whole
    assert label({"name": "score", "criterion": "taylor"}) == "score criterion=taylor"
