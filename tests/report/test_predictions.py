"""What networks find, beside the annotation: drawn by the tasks, by one command, for tasks of a user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import edakari
from edakari.cli.main import app
from edakari.errors import DataError
from edakari.explain.predictions import prediction_view
from edakari.tasks import drawing
from tests.pipeline.test_detection import NETWORK
from tests.tasks.test_detection import Oracle, coco, task_on


def explained(run: Path, *options: str) -> str:
    done = CliRunner().invoke(app, ["explain", "predictions", str(run), "--trust", *options])
    assert done.exit_code == 0, done.output
    assert min(Image.open(run / "explain" / "predictions.png").size) > 300
    assert (run / "report.html").read_text(encoding="utf-8").count("data:image/png;base64,") == 1
    return done.output


def test_predictions_of_classes_are_drawn_by_one_command(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**content, "measure": None, "finetune": None}))
    run = tmp_path / "run"
    assert CliRunner().invoke(app, ["prune", str(tmp_path / "recipe.yaml"), "--output", str(run)]).exit_code == 0
    assert "first 3 validation images" in explained(run, "--images", "3").replace("\n", " ")
    written = json.loads((run / "explain" / "predictions.json").read_text(encoding="utf-8"))
    assert [each["file"] for each in written["pictures"]] == ["predictions.png"]


def test_predictions_of_a_detector_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faster_coco_eval")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network.py").write_text(NETWORK, encoding="utf-8")
    source = coco(tmp_path)
    data = {"task": "detection", "train": [source], "val": source, "image_size": [64, 96], "batch_size": 2}
    recipe = {
        "model": {"name": "network.py:make", "weights": "random"},
        "data": {**data, "workers": 0, "calibration_size": 4},
        "method": "magnitude",
        "budget": "macs<=60%",
        "device": "cpu",
    }
    edakari.run(recipe, tmp_path / "run", trust_code=True)
    explained(tmp_path / "run")


def test_boxes_of_the_truth_and_of_both_networks_are_drawn(tmp_path: Path) -> None:
    task = task_on(tmp_path)
    right, wrong = Oracle(task), Oracle(task, shift=40.0)
    view = prediction_view(right, wrong, task, images=3)
    assert len(view.rows) == 3
    for truth, found, moved in view.rows:
        plain = np.zeros_like(truth)
        assert truth.dtype == np.uint8
        assert truth.shape == found.shape == moved.shape == (64 * 4, 96 * 4, 3)
        # the same boxes in both, with a score beside the class in one; other boxes in the third
        inside = truth.astype(int) - found
        assert 0 < (inside != 0).mean() < (truth.astype(int) - moved != 0).mean()
        assert (truth != plain).any()


PICTURE = torch.zeros(3, 20, 30, dtype=torch.uint8)


@pytest.mark.parametrize("count", [0, 2])
def test_objects_with_masks_and_keypoints_become_pictures(count: int) -> None:
    masks = torch.zeros(count, 1, 20, 30)
    masks[:, :, 5:9, 5:9] = 0.9
    found = {
        "boxes": torch.tensor([[4.0, 4, 10, 10], [0, 0, 29, 19]])[:count],
        "labels": torch.tensor([0, 5])[:count],
        "scores": torch.tensor([0.9, 0.2])[:count],
        "masks": masks,
        "keypoints": torch.full((count, 3, 3), 7.0),
    }
    drawn = drawing.boxed(PICTURE, found, ["thing"])
    assert drawn.dtype == torch.uint8
    assert drawn.shape == (3, 240, 360)
    assert bool(drawn.any()) == bool(count)
    assert not drawn[:, 150:, 200:].any()  # the second has too low a score
    assert PICTURE.sum() == 0
    target = {**found, "masks": masks[:, 0].to(torch.uint8), "visible": torch.zeros(count, 3)}
    assert drawing.boxed(PICTURE, target, ["thing"]).shape == drawn.shape


def test_maps_become_pictures() -> None:
    labels = torch.full((20, 30), 255)
    labels[:10] = 1
    drawn = drawing.coloured(PICTURE, labels, 2)
    assert drawn[:, :120].any()
    assert not drawn[:, 120:].any()  # what is ignored is not coloured
    depths = drawing.grey(torch.arange(4.0).reshape(2, 2))
    assert depths[:, 0, 0].tolist() == [0, 0, 0]
    assert depths[:, -1, -1].tolist() == [255, 255, 255]


class Own:
    """A task of a user's own, with what drawing needs."""

    def batches(self, split: str) -> Any:
        return [(torch.rand(2, 1, 4, 4), torch.tensor([0, 1]))]

    def outputs(self, model: nn.Module, batch: Any) -> Any:
        return {"sums": model(batch[0])}


class Drawn(Own):
    """The same, with a method that draws."""

    def drawn(self, image: torch.Tensor, shown: Any) -> torch.Tensor:
        assert image.shape == (3, 4, 4)
        return image // 2 if isinstance(shown, dict) else image


class Wrong(Own):
    """The same, which draws numbers."""

    def drawn(self, image: torch.Tensor, shown: Any) -> torch.Tensor:
        return image.float()


def test_a_task_made_of_functions_may_draw_itself() -> None:
    images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])

    def drawn(image: torch.Tensor, shown: Any) -> torch.Tensor:
        return image * int(shown.ndim == 0)  # black for outputs

    parts: dict[str, Any] = {"val": [(images, labels)], "evaluate": lambda model, batches: {"score": 1.0}}
    view = prediction_view(nn.Flatten(), nn.Flatten(), edakari.Task.of(images[:1], drawn=drawn, **parts))
    assert [[bool(picture.any()) for picture in row] for row in view.rows] == [[True, False, False]] * 2
    with pytest.raises(DataError, match="no method drawn"):
        prediction_view(nn.Flatten(), nn.Flatten(), edakari.Task.of(images[:1], **parts))


def test_a_task_of_ones_own_may_draw_itself() -> None:
    network: Any = nn.Flatten()
    own: Any = Drawn()
    view = prediction_view(network, network, own, images=1)
    ((truth, dense, pruned),) = view.rows
    assert np.array_equal(truth // 2, dense)
    assert np.array_equal(dense, pruned)
    with pytest.raises(DataError, match=r"Own has no method drawn\(image, shown\)"):
        prediction_view(network, network, Own())  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"float32 \[3, 4, 4\]"):
        prediction_view(network, network, Wrong())  # type: ignore[arg-type]
