import json
import shutil
from pathlib import Path

import pytest
import torch

import edakari
import edakari.pipeline.stages as stages_module
import edakari.train.resume as resume_module
from edakari.errors import (
    EdakariError,
    InfeasibleBudget,
    ModelError,
    RecipeError,
    RunFolderError,
    SettingsError,
    UntrustedCode,
    WeightsError,
)
from edakari.pipeline import recipe_from, train_dense
from edakari.pipeline.load import networks
from edakari.results import STAGES
from edakari.surgery import apply


class Diary:
    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []

    def __call__(self, stage, state, figures) -> None:
        self.entries.append((stage, state))

    def stages(self, state: str) -> list[str]:
        return [stage for stage, found in self.entries if found == state]


def stop_at(monkeypatch, name: str) -> None:
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages_module, f"{name}_stage", interrupted)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_from_recipe_to_report(content, tmp_path):
    diary, folder = Diary(), tmp_path / "run"
    result = edakari.run(recipe_from({**content, "export": ["onnx", "program"]}), folder, notify=diary)
    assert diary.stages("done") == list(STAGES)
    assert result.fresh
    dense, pruned, tuned = result.report["networks"]
    answers = result.results.answers
    assert answers.images == 24
    assert answers.outcomes.both + answers.outcomes.only_dense == round(24 * dense["metrics"]["top1"])
    assert answers.outcomes.both + answers.outcomes.only_pruned == round(24 * tuned["metrics"]["top1"])
    assert len(list((folder / "explain").glob("changed_*.png"))) == len(answers.changed)
    assert pruned["costs"]["macs"] <= 0.5 * dense["costs"]["macs"]
    assert tuned["costs"] == pruned["costs"]
    assert set(tuned["latency"]) == {"torch"}
    assert sum(value.numel() for value in result.model.parameters()) == tuned["costs"]["params"]
    assert {path.name for path in (folder / "export").iterdir()} == {
        "model.json", "infer.py", *(f"{n}.{s}" for n in ("dense", "pruned") for s in ("onnx", "pt2")),
    }  # fmt: skip
    for name in (
        "recipe.yaml",
        "plan.json",
        "weights.safetensors",
        "environment.json",
        "report.html",
        "report.json",
        "report.png",
    ):
        assert (folder / name).is_file(), name
    assert not list(folder.rglob("*.part"))
    assert len(result.report["epochs"]) == 2
    assert json.loads((folder / "environment.json").read_text())["packages"]["torch"]
    loaded = networks(folder)
    assert torch.equal(loaded.pruned(loaded.example), result.model(loaded.example))


def test_a_finished_run_does_nothing(content, tmp_path):
    recipe, folder = recipe_from(content), tmp_path / "run"
    edakari.run(recipe, folder)
    before, diary = files(folder), Diary()
    result = edakari.run(recipe, folder, notify=diary)
    assert not result.fresh
    assert diary.stages("kept") == list(STAGES)
    assert diary.stages("start") == []
    assert files(folder) == before


@pytest.mark.parametrize("stage", ["dense", "finetune", "report"])
def test_an_interrupted_run_goes_on_to_the_same_result(content, tmp_path, monkeypatch, stage):
    recipe = recipe_from({**content, "measure": None})
    whole = edakari.run(recipe, tmp_path / "whole")
    with monkeypatch.context() as patched:
        stop_at(patched, stage)
        with pytest.raises(KeyboardInterrupt):
            edakari.run(recipe, tmp_path / "parts")
    diary = Diary()
    result = edakari.run(recipe, tmp_path / "parts", notify=diary)
    names = list(STAGES)
    assert diary.stages("kept") == names[: names.index(stage)]
    assert diary.stages("done") == names[names.index(stage) :]
    assert result.plan.digest() == whole.plan.digest()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, result.model.state_dict()[name]), name
    assert [network["metrics"] for network in result.report["networks"]] == [
        network["metrics"] for network in whole.report["networks"]
    ]


def test_a_run_of_random_weights_goes_on(content, tmp_path, monkeypatch):
    nets = tmp_path / "nets.py"
    nets.write_text(nets.read_text().replace("torch.manual_seed(0)", "pass"))
    recipe = recipe_from({**content, "finetune": None, "measure": None})
    with monkeypatch.context() as patched:
        stop_at(patched, "check")
        with pytest.raises(KeyboardInterrupt):
            edakari.run(recipe, tmp_path / "run")
    result = edakari.run(recipe, tmp_path / "run")
    dense = networks(tmp_path / "run", trust_code=True).dense  # what was not fine-tuned is cut from it as it is
    for name, value in apply(dense, result.plan).state_dict().items():
        assert torch.equal(value, result.model.state_dict()[name]), name


def test_a_run_does_not_go_on_with_other_weights(content, tmp_path, monkeypatch):
    recipe, folder = recipe_from({**content, "finetune": None, "measure": None}), tmp_path / "run"
    with monkeypatch.context() as patched:
        stop_at(patched, "check")
        with pytest.raises(KeyboardInterrupt):
            edakari.run(recipe, folder)
    nets = tmp_path / "nets.py"
    nets.write_text(nets.read_text().replace("manual_seed(0)", "manual_seed(1)"))
    with pytest.raises(RunFolderError, match="other weights"):
        edakari.run(recipe, folder)


def test_a_folder_of_another_recipe_is_left_alone(content, tmp_path):
    folder = tmp_path / "run"
    edakari.run(recipe_from({**content, "finetune": None, "measure": None}), folder)
    before = files(folder)
    with pytest.raises(RunFolderError, match="budget is 'macs<=50%' there and 'macs<=60%' here"):
        edakari.run(recipe_from({**content, "finetune": None, "measure": None, "budget": "macs<=60%"}), folder)
    assert files(folder) == before
    result = edakari.run(recipe_from({**content, "measure": None, "budget": "macs<=60%"}), folder, overwrite=True)
    assert result.report["budget"] == "macs<=60%"


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"budget": "macs<=0.001%"}, InfeasibleBudget, "macs"),
        ({"data": {"source": "nowhere"}}, EdakariError, "nowhere"),
        ({"model": {"name": "edakari:fashion_cnn", "weights": "none.safetensors"}}, EdakariError, "none.safetensors"),
        ({"model": {"name": "edakari:resnet20", "weights": "random"}}, EdakariError, "channel"),
        ({"groups": {"exclude": ["layer9"]}}, SettingsError, "groups.exclude: 'layer9'"),
    ],
)
def test_bad_input_leaves_nothing_behind(content, tmp_path, change, error, match):
    with pytest.raises(error, match=match):
        edakari.run(recipe_from({**content, **change}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_excluded_groups_stay_whole(content, tmp_path):
    recipe = recipe_from(
        {**content, "budget": "macs<=70%", "groups": {"exclude": ["3*"]}, "finetune": None, "measure": None}
    )
    result = edakari.run(recipe, tmp_path / "run")
    assert [group["kept"] < group["size"] for group in result.report["groups"]] == [True, False]
    assert result.report["networks"][-1]["name"] == "fine-tuned"


def test_a_full_disk_is_one_clear_error_and_the_run_goes_on_later(content, tmp_path, monkeypatch):
    recipe, folder = recipe_from({**content, "finetune": None, "measure": None}), tmp_path / "run"

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", "weights.safetensors")

    with monkeypatch.context() as patched:
        patched.setattr("edakari.surgery.stored_tensors.save_file", full)
        with pytest.raises(RunFolderError, match="disk is full"):
            edakari.run(recipe, folder)
    assert edakari.run(recipe, folder).fresh


def test_what_was_trained_outlives_an_error_and_is_not_trained_again(content, tmp_path, monkeypatch):
    method = {"name": "score", "criterion": "magnitude", "iterations": 2, "recovery_epochs": 1}
    recipe, folder = recipe_from({**content, "method": method, "finetune": None, "measure": None}), tmp_path / "run"

    def damaged(*args, **kwargs):
        raise RunFolderError("the network cannot be written")

    with monkeypatch.context() as patched:
        patched.setattr("edakari.pipeline.folder.save", damaged)
        with pytest.raises(RunFolderError, match="cannot be written"):
            edakari.run(recipe, folder)
    (history,) = folder.rglob("history.json")
    seconds = json.loads(history.read_text())["seconds"]
    with monkeypatch.context() as patched:
        patched.setattr("edakari.pipeline.folder.RunFolder.tidy", lambda self: None)
        assert edakari.run(recipe, folder).fresh
    assert json.loads(history.read_text())["seconds"] == seconds


def test_dense_training_writes_weights_that_a_recipe_can_start_from(content, tmp_path):
    recipe = recipe_from({**content, "train": {"epochs": 2, "lr": 0.1}})
    path = tmp_path / "tiny.safetensors"
    result = train_dense(recipe, path)
    assert len(result["epochs"]) == 2
    again = recipe_from(
        {**content, "model": {**content["model"], "weights": str(path)}, "finetune": None, "measure": None}
    )
    report = edakari.run(again, tmp_path / "run").report
    assert report["networks"][0]["metrics"] == result["metrics"]
    with pytest.raises(RunFolderError, match="already exists"):
        train_dense(recipe, path)
    with pytest.raises(RecipeError, match="no 'train' section"):
        train_dense(recipe_from(content), tmp_path / "other.safetensors")


def test_a_recipe_that_names_no_weights_is_refused(content, tmp_path):
    path = tmp_path / "none.safetensors"
    model = {"name": content["model"]["name"]}
    with pytest.raises(RecipeError, match=r"model\.weights is missing.*`as_built`.*write `random`"):
        edakari.run(recipe_from({**content, "model": model}), tmp_path / "run")
    missing = {**content, "model": {**model, "weights": str(path)}}
    with pytest.raises(WeightsError, match=r"there is no file.*edakari convert"):
        edakari.run(recipe_from(missing), tmp_path / "run")
    with pytest.raises(WeightsError, match=rf"`edakari train` with --output {path}"):
        edakari.run(recipe_from({**missing, "train": {"epochs": 1, "lr": 0.1}}), tmp_path / "run")
    with pytest.raises(WeightsError, match="as_built"):
        edakari.run(
            recipe_from({**content, "model": {"name": "edakari:resnet20", "weights": "as_built"}}), tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()


SEARCH = {"name": "gate_search", "epochs": 1, "interval": 1, "warmup_epochs": 0.0}


@pytest.mark.parametrize(
    ("weights", "method", "said"),
    [
        ("random", "magnitude", "do not predict those of a trained network"),
        ("random", SEARCH, "only the dense network's accuracies"),
        ("as_built", "magnitude", ""),
    ],
)
def test_random_weights_are_said_in_the_report(content, tmp_path, weights, method, said):
    model = {**content["model"], "weights": weights}
    asked = {**content, "model": model, "method": method, "finetune": None, "measure": None}
    result = edakari.run(recipe_from(asked), tmp_path / "run")
    assert result.report["random_weights"] == (weights == "random")
    page = (tmp_path / "run" / "report.html").read_text()
    assert ("random weights" in page) == (weights == "random")
    assert said in page


def test_a_recipe_trains_the_file_that_it_prunes(content, tmp_path):
    path = tmp_path / "tiny.safetensors"
    recipe = recipe_from(
        {**content, "model": {**content["model"], "weights": str(path)}, "train": {"epochs": 1, "lr": 0.1}}
    )
    train_dense(recipe, path)
    assert json.loads(path.with_suffix(".json").read_text())["recipe"]["model"]["weights"] == "random"
    first = path.read_bytes()
    train_dense(recipe, path, overwrite=True)  # from random weights again, not from those that it made
    assert path.read_bytes() == first
    assert sorted(found.name for found in tmp_path.glob("tiny*")) == ["tiny.json", "tiny.safetensors"]
    path.unlink()
    with pytest.raises(WeightsError, match=r"give --output .*tiny\.safetensors to train it"):
        train_dense(recipe, tmp_path / "other.safetensors")


def test_an_interrupted_training_goes_on_or_says_how(content, tmp_path, monkeypatch):
    def recipe(epochs):
        return recipe_from({**content, "train": {"epochs": epochs, "lr": 0.1}})

    whole = train_dense(recipe(2), tmp_path / "whole.safetensors")
    path = tmp_path / "tiny.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(
            "edakari.pipeline.dense_training.save_file", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            train_dense(recipe(2), path)
    with pytest.raises(RunFolderError, match=r"train\.epochs is 2 there and 1 here.*--set train\.epochs=2"):
        train_dense(recipe(1), path)
    assert train_dense(recipe(2), path) == whole
    assert path.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert len(train_dense(recipe(1), path, overwrite=True)["epochs"]) == 1


def test_a_log_survives_an_interruption(content, tmp_path, monkeypatch):
    method = {"name": "smcp", "epochs": 4, "warmup_epochs": 1, "ramp_epochs": 1, "freeze_epochs": 1, "interval": 1}
    recipe = recipe_from({**content, "method": {**method, "lr": 0.01}, "finetune": None, "measure": None})
    whole = edakari.run(recipe, tmp_path / "whole").report["log"]
    assert len(whole) == 3
    real, written = resume_module.write, []

    def killed(path, checkpoint):
        real(path, checkpoint)
        written.append(path)
        if len(written) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(resume_module, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            edakari.run(recipe, tmp_path / "parts")
    assert edakari.run(recipe, tmp_path / "parts").report["log"] == whole


def test_a_run_is_pruned_on(content, tmp_path, monkeypatch):
    quick = {**content, "finetune": {"epochs": 1, "lr": 0.05}, "measure": None}
    monkeypatch.chdir(tmp_path)
    first = edakari.run(recipe_from(quick), "runs/first")
    second = edakari.run(recipe_from({**quick, "model": "runs/first", "method": {"name": "taylor"}}), "runs/second")
    before, *_, after = second.report["networks"]
    assert before["costs"] == first.report["networks"][-1]["costs"]
    assert before["metrics"] == first.report["networks"][-1]["metrics"]
    assert after["costs"]["macs"] <= 0.5 * before["costs"]["macs"]
    assert not second.report["random_weights"]
    found = networks("runs/second", trust_code=True)
    assert torch.equal(found.dense(found.example), first.model(found.example))
    assert torch.equal(found.pruned(found.example), second.model(found.example))
    shutil.rmtree("runs/first")  # the second run's folder says all that is needed to build its network
    assert torch.equal(edakari.load("runs/second", trust_code=True)(found.example), second.model(found.example))
    monkeypatch.setenv("EDAKARI_CONFIG", str(tmp_path / "nothing is trusted"))
    with pytest.raises(UntrustedCode):
        edakari.build("runs/second")
    with pytest.raises(ModelError, match="comes with its weights"):
        edakari.build("runs/second", weights="random")
