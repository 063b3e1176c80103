"""Fine-tuning with views, with a memory bank after any method, and runs that are stopped in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import edakari
import edakari.pipeline.context as context_module
from edakari.core.method import Job
from edakari.errors import DataError, EdakariError, RecipeError, RunFolderError
from edakari.methods.knowledge.ensemble import EnsembleSearch
from edakari.pipeline import read_recipe, recipe_from
from edakari.pipeline.context import RecipeSubject, Run
from edakari.pipeline.folder import RunFolder
from edakari.pipeline.teaching import networks_between

EKG = {"name": "ekg", "warmup_images": 8, "search_images": 8}
BANK = {"epochs": 2, "lr": 0.05, "views": 2, "teacher": "bank", "bank": {"teachers": 3}}
PLAIN = """
from torch import nn


def plain():
    layers = [nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
"""


@pytest.fixture
def ekg(content):
    return {**content, "method": EKG, "finetune": BANK, "measure": None}


def same(first, second):
    state = second.model.state_dict()
    return first.plan == second.plan and all(
        torch.equal(value, state[name]) for name, value in first.model.state_dict().items()
    )


@pytest.mark.parametrize("method", ["magnitude", EKG])
def test_a_bank_teaches_after_any_method(ekg, tmp_path, method):
    result = edakari.run(recipe_from({**ekg, "method": method}), tmp_path / "run")
    epochs = result.report["epochs"]
    assert len(epochs) == 2
    assert all(epoch["bank"] > 0 for epoch in epochs)
    assert not (tmp_path / "run" / "work").exists()


class Killed(Exception):
    pass


def test_a_run_killed_in_the_search_and_in_the_fine_tuning_ends_the_same(ekg, tmp_path, monkeypatch):
    whole = edakari.run(recipe_from(ekg), tmp_path / "whole")
    folder, save, looks, fit = (
        tmp_path / "parts",
        EnsembleSearch._save,
        EnsembleSearch._best_candidate,
        context_module.fit,
    )
    calls = []

    def saved_then_killed(self):
        save(self)
        raise Killed

    def counted(self, *args):
        calls.append(1)
        return looks(self, *args)

    def killed_after_an_epoch(*args, evaluate=None, **keywords):
        if evaluate is None:  # a training of the method
            return fit(*args, **keywords)

        def once(model):
            evaluate(model)
            raise Killed

        return fit(*args, evaluate=once, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(EnsembleSearch, "_save", saved_then_killed)
        with pytest.raises(Killed):
            edakari.run(recipe_from(ekg), folder)
    monkeypatch.setattr(EnsembleSearch, "_best_candidate", counted)
    with monkeypatch.context() as patched:
        patched.setattr(context_module, "fit", killed_after_an_epoch)
        with pytest.raises(Killed):
            edakari.run(recipe_from(ekg), folder)
    steps = [entry for entry in whole.report["log"] if entry["stage"].startswith("step")]
    assert len(calls) == len(steps) - 1
    assert (folder / "work" / "bank" / "bank.json").is_file()
    result = edakari.run(recipe_from(ekg), folder)
    assert len(calls) == len(steps) - 1
    assert same(result, whole)


def test_a_bank_that_is_kept_serves_the_same_run_only(ekg, tmp_path):
    kept = {**BANK, "bank": {"teachers": 3, "folder": str(tmp_path / "bank")}}
    first = edakari.run(recipe_from({**ekg, "finetune": kept}), tmp_path / "first")
    logits = (tmp_path / "bank" / "logits.npy").read_bytes()
    assert same(first, edakari.run(recipe_from({**ekg, "finetune": kept}), tmp_path / "second"))
    assert (tmp_path / "bank" / "logits.npy").read_bytes() == logits
    with pytest.raises(RunFolderError, match="memory bank"):
        edakari.run(recipe_from({**ekg, "finetune": kept, "budget": "macs<=60%"}), tmp_path / "third")


def test_networks_between_lie_on_the_way(ekg, tmp_path):
    recipe = recipe_from({**ekg, "method": "magnitude", "finetune": None})
    result = edakari.run(recipe, tmp_path / "run")
    run = Run(recipe, RecipeSubject(recipe), RunFolder(tmp_path / "run"))
    counts = [sum(p.numel() for p in each.parameters()) for each in networks_between(result.plan, run.dense, run, 3)]
    whole = sum(p.numel() for p in run.dense.parameters())
    left = sum(p.numel() for p in result.model.parameters())
    assert counts[0] == whole
    assert whole > counts[1] > counts[2] > left


def test_the_dense_network_as_teacher_needs_a_weight(content):
    with pytest.raises(RecipeError, match=r"finetune.distill.weight"):
        recipe_from({**content, "finetune": {"epochs": 1, "teacher": "dense"}})
    assert recipe_from({**content, "finetune": {"teacher": "dense", "distill": {"weight": 0.5}}}).finetune.views == 1


@pytest.mark.parametrize("data", ["training", "augmented", "held_out"])
def test_search_data(ekg, tmp_path, data):
    settings = {**ekg["data"], "augment": "jitter", "hold_out": data == "held_out", "calibration_size": 24}
    recipe = recipe_from(
        {**ekg, "data": settings, "method": {**EKG, "warmup_images": 4, "search_data": data}, "finetune": None}
    )
    assert edakari.run(recipe, tmp_path / data).plan.edits


def test_held_out_images_have_to_be_held_out(ekg, tmp_path):
    recipe = recipe_from({**ekg, "method": {**EKG, "search_data": "held_out"}})
    with pytest.raises(EdakariError, match="hold_out: true"):
        edakari.run(recipe, tmp_path / "run")


def test_a_search_set_smaller_than_the_classes_is_refused(ekg, tmp_path):
    data = {**ekg["data"], "hold_out": True, "calibration_size": 2}
    recipe = recipe_from({**ekg, "data": data, "method": {**EKG, "search_images": 1, "search_data": "held_out"}})
    with pytest.raises(DataError, match=r"no image in the search set; raise data\.calibration_size"):
        edakari.run(recipe, tmp_path / "run")


def test_the_report_says_what_does_not_apply_without_batch_normalisation(ekg, tmp_path):
    (tmp_path / "plain.py").write_text(PLAIN)
    model = {"name": f"{tmp_path / 'plain.py'}:plain", "weights": "random"}
    edakari.run(recipe_from({**ekg, "model": model, "finetune": None}), tmp_path / "run")
    assert "no batch normalisation: batch statistics" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("network", [18, 34, 50])
def test_imagenet_recipes_run_on_a_folder_of_images(tmp_path, network):
    rng, image = np.random.default_rng(0), pytest.importorskip("PIL.Image")
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(6):
                pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                image.fromarray(pixels).save(tmp_path / split / name / f"{number}.png")
    changes = {
        "model.weights": "random",
        "model.options": "{num_classes: 2}",
        "data.source": str(tmp_path),
        "data.image_size": "32",
        "data.batch_size": "4",
        "data.workers": "0",
        "method.warmup_images": "2",
        "finetune.epochs": "1",
        "finetune.precision": "fp32",
        "finetune.bank.teachers": "2",
        "measure": "null",
        "export": "[]",
        "device": "cpu",
        "groups.round_to": "32",
        "groups.include": '["layer4.*", "layer3.*"]',
        "budget": "macs<=85%",
    }
    path = Path(__file__).parents[2] / "recipes" / f"imagenet_resnet{network}_ekg.yaml"
    result = edakari.run(read_recipe(path, [f"{key}={value}" for key, value in changes.items()]), tmp_path / "run")
    dense, _, tuned = result.report["networks"]
    assert tuned["costs"]["macs"] <= 0.85 * dense["costs"]["macs"]
    assert np.isfinite(result.report["epochs"][0]["bank"])


def test_other_tasks_are_told_what_is_missing():
    from edakari.methods.ekg import EnsembleKnowledgePruning
    from edakari.testing import ToyTask, toy_cnn, toy_job

    class Plain:
        example, batches, outputs, loss, evaluate = (
            ToyTask.example,
            ToyTask.batches,
            ToyTask.outputs,
            ToyTask.loss,
            ToyTask.evaluate,
        )
        metric = "accuracy"

    job: Job = toy_job(toy_cnn())
    object.__setattr__(job, "task", Plain())
    with pytest.raises(EdakariError, match="indexed examples"):
        EnsembleKnowledgePruning().prune(job)
