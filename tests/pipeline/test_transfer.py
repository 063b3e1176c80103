"""Recipes that move a pruned network to other data: trained as it is, or pruned on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edakari
from edakari.core.plan import KeepChannels, Plan
from edakari.errors import EdakariError, RecipeError, RunFolderError
from edakari.graph import trace
from edakari.models import build
from edakari.pipeline import read_recipe, run, train_dense
from edakari.pipeline.recipe import recipe_from
from edakari.surgery import apply, load, save
from edakari.surgery.structure import structure_of

CLASSES = 3


@pytest.fixture(scope="module")
def ticket(tmp_path_factory) -> Path:
    """A pruned network of ten classes, in a folder."""
    torch.manual_seed(0)
    model = build("edakari:resnet20")
    graph = trace(model, torch.zeros(1, 3, 32, 32))
    edits = tuple(KeepChannels(group.name, tuple(range(0, group.size, 2))) for group in graph.groups)
    plan = Plan(edits, graph.fingerprint, graph.inputs)
    folder = tmp_path_factory.mktemp("ticket") / "run"
    save(apply(model, plan, graph), plan, folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Coloured squares, one colour a class."""
    rng = np.random.default_rng(0)
    labels = np.arange(48) % CLASSES
    images = rng.integers(0, 40, (48, 32, 32, 3), dtype=np.uint8)
    images[np.arange(48), 8:24, 8:24, labels] += 200
    path = tmp_path_factory.mktemp("data") / "squares.npz"
    np.savez(path, images=images, labels=labels)
    return path


def recipe(ticket: Path, data: Path, **others: Any) -> dict[str, Any]:
    return {
        "model": str(ticket),
        "transfer": {},
        "data": {"train": [str(data)], "batch_size": 12, "augment": "none", "val_share": 0.25, "workers": 0},
        "train": {"epochs": 1, "lr": 0.05},
        "device": "cpu",
        **others,
    }


def test_a_ticket_is_trained_on_other_data_without_pruning(ticket, data, tmp_path):
    before: Any = load(ticket)
    result = train_dense(recipe(ticket, data), tmp_path / "moved")
    moved: Any = load(tmp_path / "moved")
    assert moved(torch.zeros(1, 3, 32, 32)).shape == (1, CLASSES)
    one, other = (structure_of(each).modules for each in (before, moved))
    assert {path for path in one if one[path] != other[path]} == {"classifier"}
    assert set(result["metrics"]) == {"top1", "loss"}
    assert not torch.equal(before.stem[0].weight, moved.stem[0].weight)  # all weights train
    assert not (tmp_path / "moved.work").exists()
    assert (tmp_path / "moved" / "training.json").is_file()
    with pytest.raises(RunFolderError, match="already exists"):
        train_dense(recipe(ticket, data), tmp_path / "moved")


def test_a_ticket_is_pruned_on_for_other_data(ticket, data, tmp_path):
    asked = recipe(ticket, data, method="magnitude", budget="macs<=60%", finetune={"epochs": 1, "lr": 0.01})
    del asked["train"]
    result = run(asked, tmp_path / "run")
    assert result.model(torch.zeros(1, 3, 32, 32)).shape == (1, CLASSES)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(load(tmp_path / "run")(x), result.model(x))


def test_a_dense_network_is_moved_and_written_as_a_folder(data, tmp_path):
    asked = recipe(Path("x"), data, model={"name": "edakari:resnet20", "weights": "random"})
    with pytest.raises(RunFolderError, match="name a folder"):
        train_dense(asked, tmp_path / "weights.safetensors")
    train_dense(asked | {"train": {"epochs": 1, "lr": 0.01}}, tmp_path / "moved")
    assert load(tmp_path / "moved")(torch.zeros(1, 3, 32, 32)).shape == (1, CLASSES)


def test_a_recipe_that_only_trains_has_no_method_and_prunes_nothing(ticket, data, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model: {ticket}\ntransfer: {{seed: 1}}\ndata: {{train: [{data}]}}\ntrain: {{epochs: 1}}\n")
    found = read_recipe(path)
    assert found.content["budget"] is None
    with pytest.raises(RecipeError, match="`edakari train` only trains"):
        run(found, tmp_path / "run")
    with pytest.raises(RecipeError, match=r"method.name: must name a method"):
        recipe_from({key: value for key, value in recipe(ticket, data).items() if key != "train"})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"transfer": {"layer": ["clasifier"]}}, "transfer of .*did you mean 'classifier'"),
        ({"transfer": {"outputs": 10}}, "fit the task already"),
        (
            {"transfer": {"head": "segmentation"}},
            "transfer.head.*is for tasks with a class at every pixel",
        ),
        ({"transfer": {"graft": "runs/pose"}}, "transfer.graft is the source of a new head"),
        ({"transfer": {"heads": "pose"}}, "transfer.heads.*unknown key; did you mean 'head'"),
    ],
)
def test_what_cannot_be_moved_is_told_before_anything_is_written(change, text, ticket, data, tmp_path):
    with pytest.raises(EdakariError, match=text):
        train_dense(recipe(ticket, data) | change, tmp_path / "moved")
    assert not list(tmp_path.iterdir())


def test_images_with_other_channels_are_told(ticket, data, tmp_path):
    asked = recipe(ticket, data)
    asked["data"] = {**asked["data"], "channels": 1}
    with pytest.raises(RecipeError, match="takes images of 3 channels, but those of the task have 1"):
        train_dense(asked, tmp_path / "moved")


def test_the_names_are_public():
    assert {"transfer", "FeatureHead"} <= set(edakari.__all__)
