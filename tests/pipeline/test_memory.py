"""Runs of networks and tasks that are there, in memory and in folders: the stages are those of recipes."""

from __future__ import annotations

import dataclasses as dc

import pytest
import torch
from torch import nn

import edakari
from edakari.core.budget import Budget
from edakari.core.protocols import Schedule
from edakari.errors import RunFolderError
from edakari.methods.score import ScorePruning
from edakari.pipeline import FinetuneSettings, PruneSettings, recipe_from, run_given
from edakari.pipeline.context import RecipeSubject
from edakari.pipeline.load import networks
from edakari.results import STAGES


def equal(first: nn.Module, second: nn.Module) -> bool:
    state = second.state_dict()
    return all(torch.equal(value, state[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize("method", ["magnitude", {"name": "ekg", "warmup_images": 8, "search_images": 8}])
def test_a_run_in_memory_ends_as_the_run_of_its_recipe(content, tmp_path, method):
    bank = {"epochs": 1, "lr": 0.05, "teacher": "bank", "bank": {"teachers": 2}}
    recipe = recipe_from({**content, "method": method, "finetune": bank, "measure": None})
    whole = edakari.run(recipe, tmp_path / "run")
    subject, told = RecipeSubject(recipe), []
    settings = PruneSettings(**{field.name: getattr(recipe, field.name) for field in dc.fields(PruneSettings)})
    model = subject.model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = run_given(model, subject.task(), settings, notify=lambda stage, state, _: told.append((stage, state)))
    assert [stage for stage, state in told if state == "done"] == list(STAGES)
    assert found.folder is None
    assert found.plan == whole.plan
    assert equal(found.model, whole.model)
    for name in ("networks", "groups", "epochs", "limits", "difference"):
        assert found.report[name] == whole.report[name], name
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


class Nothing:
    """A task without data, which cannot judge."""

    metric = "accuracy"

    def __init__(self, example):
        self.given = example

    def example(self):
        return self.given

    def batches(self, split):
        return ()

    def outputs(self, model, batch):
        raise AssertionError

    def loss(self, outputs, batch):
        raise AssertionError

    def evaluate(self, model, split="val"):
        return {}


class Both(nn.Module):
    """A network of two inputs, by keywords."""

    def __init__(self):
        super().__init__()
        self.words, self.image = nn.Embedding(10, 8), nn.Linear(6, 8)
        self.hidden, self.head = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, words, image):
        return self.head(self.hidden(self.words(words).mean(1) + self.image(image)).relu())


@pytest.mark.parametrize("output", [False, True])
def test_neither_data_nor_one_tensor_is_needed(tmp_path, output):
    torch.manual_seed(0)
    model, example = Both(), {"words": torch.tensor([[1, 2, 3]]), "image": torch.randn(1, 6)}
    settings = PruneSettings(method=ScorePruning(), budget=Budget.parse("params<=60%"), device="cpu")
    folder = tmp_path / "run" if output else None
    found = run_given(model, Nothing(example), settings, folder=folder)
    dense, pruned, _ = found.report["networks"]
    assert pruned["costs"]["params"] <= 0.6 * dense["costs"]["params"]
    assert sum(value.numel() for value in found.model.parameters()) == pruned["costs"]["params"]
    assert found.report["metric"] is None
    assert found.results.check.difference < 1e-12
    assert found.model(**example).shape == (1, 3)


def test_a_network_that_is_handed_in_goes_on_in_its_folder(content, tmp_path):
    subject = RecipeSubject(recipe_from(content))
    model, task = subject.model(), subject.task()
    settings = PruneSettings(
        method=ScorePruning(),
        budget=Budget.parse("macs<=50%"),
        finetune=FinetuneSettings.of(Schedule(epochs=1, lr=0.05)),
        device="cpu",
    )
    folder = tmp_path / "run"
    first = run_given(model, task, settings, folder=folder)
    (folder / "stages" / "report.json").unlink()
    again = run_given(model, task, settings, folder=folder)
    assert (first.fresh, again.fresh) == (True, True)
    assert equal(first.model, again.model)
    assert not run_given(model, task, settings, folder=folder).fresh
    with pytest.raises(RunFolderError, match="budget"):
        run_given(model, task, dc.replace(settings, budget=Budget.parse("macs<=60%")), folder=folder)
    (folder / "stages" / "report.json").unlink()
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(RunFolderError, match="other weights than the Sequential"):
        run_given(model, task, settings, folder=folder)
    with pytest.raises(RunFolderError, match=r"edakari\.prune"):
        networks(folder)
