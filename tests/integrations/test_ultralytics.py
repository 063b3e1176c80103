"""Training by ultralytics' trainers: of any network by their loop, and of the pruned network itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import edakari
from edakari.errors import DataError, MissingPackage, RecipeError, SettingsError, WrongArgument
from edakari.integrations.ultralytics import fit, own_loss, trainer_for
from edakari.testing import check_fit
from tests.integrations.oracle import SCHEDULE, SCHEDULES, Record, check_same

try:
    import ultralytics
except ModuleNotFoundError:
    ultralytics = None

installed = pytest.mark.skipif(ultralytics is None, reason="ultralytics is not installed; the nightly job has it")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.skipif(ultralytics is not None, reason="ultralytics is installed")
@pytest.mark.parametrize("call", [fit, lambda: trainer_for(nn.Identity()), lambda: own_loss(nn.Identity(), {})])
def test_a_missing_library_is_one_clear_error(call: Any) -> None:
    with pytest.raises(MissingPackage, match="needs ultralytics, which is not installed; install it with: pip install"):
        call()


@installed
@pytest.mark.parametrize("name", SCHEDULES)
def test_it_trains_as_the_own_loop_does(name: str) -> None:
    check_same(fit(verbose=False), SCHEDULES[name])


@installed
def test_it_keeps_the_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_fit(fit())
    assert not list(tmp_path.iterdir()), "nothing is left behind"


@installed
def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(SettingsError, match="lr0 is decided by the schedule"):
        fit(lr0=0.1)
    with pytest.raises(RecipeError, match="fp16"):
        check_same(fit(), edakari.Schedule(epochs=1, lr=0.1, precision="fp16"))
    with pytest.raises(WrongArgument, match="takes a network of ultralytics"):
        trainer_for(nn.Linear(2, 2))


def tiny_data(folder: Path, count: int = 8, classes: int = 2) -> Path:
    """Images of 64 pixels with one bright rectangle each, in the layout of YOLO."""
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            image = draw.integers(0, 80, (64, 64, 3), dtype=np.uint8)
            x, y = draw.integers(0, 32, 2)
            image[y : y + 24, x : x + 24] = (250, 60, 60) if index % classes else (60, 60, 250)
            Image.fromarray(image).save(folder / "images" / split / f"{index}.png")
            line = f"{index % classes} {(x + 12) / 64:.4f} {(y + 12) / 64:.4f} 0.375 0.375\n"
            (folder / "labels" / split / f"{index}.txt").write_text(line, encoding="utf-8")
    names = "\n".join(f"  {index}: class{index}" for index in range(classes))
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames:\n{names}\n")
    return folder / "data.yaml"


def yolo(classes: int = 2) -> Any:
    torch.manual_seed(0)
    return ultralytics.nn.tasks.DetectionModel("yolo11n.yaml", nc=classes, verbose=False).eval()


@installed
def test_their_trainer_trains_the_pruned_network_and_calls_the_hooks(tmp_path: Path) -> None:
    small = edakari.prune(yolo(), torch.zeros(1, 3, 64, 64), "macs<=60%").model
    shapes = {name: value.shape for name, value in small.state_dict().items()}
    before = {name: value.clone() for name, value in small.state_dict().items()}
    record, data = Record(), tiny_data(tmp_path / "data")
    how = {
        "data": str(data),
        "imgsz": 64,
        "batch": 4,
        "epochs": 2,
        "workers": 0,
        "plots": False,
        "device": "cpu",
        "save_dir": str(tmp_path / "run"),
        "nbs": 4,
        "optimizer": "SGD",
        "amp": False,
    }
    trainer = trainer_for(small, [record])(overrides=how)
    trainer.train()
    assert trainer.model is small
    assert {name: value.shape for name, value in small.state_dict().items()} == shapes
    assert any(not torch.equal(value, before[name]) for name, value in small.state_dict().items())
    assert record.calls[0] == ("before", 0, 0)
    assert record.calls[-1][0] == "end"
    assert sum(name == "after" for name, _, _ in record.calls) == trainer.calls.step == 4
    kept = torch.load(trainer.best, weights_only=False)["model"]
    assert {name: value.shape for name, value in kept.state_dict().items()} == shapes
    with pytest.raises(DataError, match=r"the network has 2 classes, but .* has 3"):
        trainer_for(small)(overrides={**how, "data": str(tiny_data(tmp_path / "other", classes=3))}).train()


@installed
def test_a_yolo_is_fine_tuned_by_its_own_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 64, 64, generator=generator)
    targets = {
        "cls": torch.tensor([[0.0], [1.0], [0.0], [1.0]]),
        "bboxes": torch.rand(4, 4, generator=generator) * 0.4 + 0.3,
        "batch_idx": torch.arange(4.0),
    }
    task = edakari.Task.of(torch.zeros(1, 3, 64, 64), train=[(images, targets)] * 2, loss=own_loss)
    how: Any = {"finetune": SCHEDULE, "device": "cpu", "recalibrate": 0}
    found = edakari.prune(yolo(), task, "macs<=70%", "taylor", fit=fit(), **how)
    wanted = edakari.prune(yolo(), task, "macs<=70%", "taylor", **how)
    assert found.plan.edits == wanted.plan.edits
    for name, value in wanted.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], value, rtol=1e-3, atol=1e-4)
