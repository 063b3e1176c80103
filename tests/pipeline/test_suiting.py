"""Every method with every task: it runs, or the recipe says in one sentence why not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from edakari.core.method import METHODS
from edakari.core.output_kinds import OUTPUT_KINDS
from edakari.criteria.labels import labels_of
from edakari.errors import DataError, RecipeError
from edakari.pipeline import recipe_from
from edakari.pipeline.suiting import require_classes, unsuited
from edakari.tasks import TASKS

CLASSES = {"classification", "multilabel", "segmentation"}
NEEDS = {
    "rfc": CLASSES,
    "dlrfc": CLASSES,
    "ekg": {"classification"},
    "isp": {"classification", "multilabel"},
    "spvit": {"classification", "multilabel"},
    "dynamicvit": {"classification", "multilabel"},
}
"""Tasks that methods with classes can work with; the others, which go by losses or weights, work with all."""


def content(task: str, method: Any, **more: Any) -> dict[str, Any]:
    placed = {"criterion": {"responses": {"reduce": "max"}}} if task == "segmentation" else {}
    settings = {"name": method, **(placed if method in ("rfc", "dlrfc") else {})}
    return {"model": "edakari:fashion_cnn", "data": {"task": task}, "method": settings, "budget": "macs<=50%", **more}


@pytest.mark.parametrize("method", METHODS.choices())
@pytest.mark.parametrize("task", TASKS.names())
def test_a_method_suits_a_task_or_the_recipe_says_why_not(task: str, method: str) -> None:
    suits = task in NEEDS.get(method, set(TASKS.names()))
    if suits:
        assert not list(unsuited(recipe_from(content(task, method))))
        return
    with pytest.raises(RecipeError) as caught:
        recipe_from(content(task, method))
    (line,) = str(caught.value).splitlines()
    assert line.startswith("recipe: method")
    assert f"data.task {task!r} has " in line
    # it is the criterion of both that needs classes
    assert f"'{'rfc' if method == 'dlrfc' else method}' " in line


def test_labels_at_pixels_have_places() -> None:
    for method in ("rfc", "dlrfc"):
        with pytest.raises(RecipeError, match=r"method\.criterion\.responses\.reduce: .* to 'max', found 'l2'"):
            recipe_from({**content("segmentation", method), "method": method})


@pytest.mark.parametrize("task", TASKS.names())
@pytest.mark.parametrize("tuning", [{"views": 2}, {"teacher": "bank"}, {"distill": {"weight": 0.5}}], ids=str)
def test_a_teacher_suits_a_task_or_the_recipe_says_why_not(task: str, tuning: dict[str, Any]) -> None:
    boxes = {"detection", "instance_segmentation", "keypoints"}
    ((name, _),) = tuning.items()
    suits = task not in boxes if name == "distill" else task == "classification"
    recipe = content(task, "magnitude", finetune={"epochs": 1, **tuning})
    if suits:
        recipe_from(recipe)
        return
    with pytest.raises(RecipeError, match=rf"^recipe: finetune\.{name}.*found {task!r}"):
        recipe_from(recipe)


@pytest.mark.parametrize("task", TASKS.names())
def test_filters_are_shown_by_classes(task: str) -> None:
    data = recipe_from(content(task, "magnitude")).data
    if task in CLASSES:
        require_classes(data)
        return
    with pytest.raises(DataError, match=rf"filters are shown by the classes .* data\.task {task!r} has "):
        require_classes(data)


def test_every_task_names_what_its_networks_answer() -> None:
    for name in TASKS.names():
        assert TASKS[name].output_kind in OUTPUT_KINDS, name  # type: ignore[attr-defined]


def test_a_task_of_ones_own_suits_everything_until_its_batches_are_seen(tmp_path: Any) -> None:
    (tmp_path / "own.py").write_text("def task(data, margin=0.5):\n    return None\n")
    for method in ("rfc", "ekg", "isp"):
        recipe = recipe_from(content(f"{tmp_path}/own.py:task", method))
        assert recipe.data.task.margin == 0.5  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "labels",
    [torch.rand(4, 8, 8), torch.rand(4), torch.rand(4, 3), torch.full((4, 3), 2)],
    ids=["depth", "number", "numbers", "counts"],
)
def test_numbers_are_no_labels(labels: torch.Tensor) -> None:
    with pytest.raises(DataError, match=r"classes can be counted of integers .* take a criterion without classes"):
        labels_of((torch.zeros(4, 3, 8, 8), labels), torch.zeros(4, 3), "data")
