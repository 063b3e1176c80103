"""Detection: what networks of several libraries are given and give, and how well boxes are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edakari.core.objective import task_objective
from edakari.errors import DataError
from edakari.tasks import DataSettings, task_from_settings
from edakari.tasks.detection import Detection
from edakari.tasks.detectors import Torchvision, learning
from edakari.tasks.placing import Placing, sent_back

CLASSES = ("disc", "square")


def coco(folder: Path, count: int = 6) -> str:
    """Images of 40 x 60 with one or two boxes each, one of which may be a crowd."""
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(count):
        pixels = generator.integers(0, 60, (40, 60, 3), dtype=np.uint8)
        for which in range(1 + number % 2):
            x, y, side = 4 + 28 * which, 6 + number, 16
            pixels[y : y + side, x : x + side, which] = 250
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": which + 5, "bbox": [x, y, side, side]}
                | {"area": side * side, "iscrowd": int(number == 3 and which == 1)}
            )
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 40, "width": 60})
    categories = [{"id": 5, "name": CLASSES[0]}, {"id": 6, "name": CLASSES[1]}]
    path = folder / "boxes.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return f"coco:{path}"


def task_on(folder: Path, **settings: Any) -> Detection:
    source = coco(folder)
    given = {"train": (source,), "val": source, "image_size": (64, 96), "batch_size": 2, "workers": 0, **settings}
    task = task_from_settings(DataSettings(task="detection", **given))  # type: ignore[arg-type]
    assert isinstance(task, Detection)
    return task


class Oracle(nn.Module):
    """A detector that knows the answers; it is called as torchvision's are."""

    def __init__(self, task: Detection, shift: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.norm, self.calls = nn.BatchNorm2d(3), []  # type: ignore[var-annotated]
        self.shift = shift
        self.answers = [target for _, targets in task.batches("val") for target in targets]
        self.seen = 0

    def forward(self, images: list[torch.Tensor], targets: Any = None) -> Any:
        if self.training:
            self.calls.append((images, targets, self.norm.training))
            return {"boxes": sum(each["boxes"].sum() for each in targets) * 0 + self.weight + 2.0}
        answers = self.answers[self.seen : self.seen + len(images)]
        self.seen += len(images)
        return [
            {
                "boxes": each["boxes"] + self.shift,
                "labels": each["labels"] + 1,
                "scores": torch.full((len(each["labels"]),), 0.9),
            }
            for each in answers
        ]


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_a_detector_that_knows_the_answers_has_full_precision(tmp_path: Path, resize: str) -> None:
    pytest.importorskip("faster_coco_eval")
    task = task_on(tmp_path, resize=resize)
    figures = task.evaluate(Oracle(task))
    assert figures == pytest.approx({"map": 1.0, "map50": 1.0, "map75": 1.0, "recall": 1.0})
    moved = task.evaluate(Oracle(task, shift=64 / 40 * 3))  # by 3 of 16 pixels each way: IoU 169 / 343
    assert moved["map50"] == 0.0
    near = task.evaluate(Oracle(task, shift=64 / 40))  # by 1 pixel: IoU 225 / 287 = 0.78
    if resize == "letterbox":
        assert near["map"] == pytest.approx(0.6, abs=1e-6)  # thresholds 0.5 to 0.75, of ten
    assert task.metric == "map"


def test_losses_are_the_networks_own_and_leave_norms_as_they_are(tmp_path: Path) -> None:
    task = task_on(tmp_path)
    model = Oracle(task).eval()
    batch = next(iter(task.batches("calibration")))
    terms = task_objective(task)(model, batch)
    assert {name: float(value.detach()) for name, value in terms.items()} == {"boxes": 2.0}
    ((images, targets, norm_trained),) = model.calls
    assert not norm_trained
    assert not model.training
    assert [tuple(each.shape) for each in images] == [(3, 64, 96)] * 2
    assert min(int(each["labels"].min()) for each in targets) == 1
    crowded = [len(target["labels"]) for _, targets in task.batches("val") for target in targets]
    assert crowded == [1, 2, 1, 2, 1, 2]
    with pytest.raises(DataError, match="no function of its boxes"):
        task.loss([], batch)


def test_crowds_are_no_targets(tmp_path: Path) -> None:
    task = task_on(tmp_path)
    model = Oracle(task)
    for batch in task.batches("val"):
        task.objective(model, batch)
    given = [len(target["labels"]) for _, targets, _ in model.calls for target in targets]
    assert given == [1, 2, 1, 1, 1, 2]


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("size", [(64, 96), (96, 50)])
def test_boxes_move_with_their_images_and_back(resize: Any, size: tuple[int, int]) -> None:
    from torchvision import tv_tensors

    pixels = torch.zeros(3, 40, 60, dtype=torch.uint8)
    pixels[:, 10:30, 20:50] = 255
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[20.0, 10, 50, 30]]), format="XYXY", canvas_size=(40, 60))
    target = {"boxes": boxes, "labels": torch.zeros(1, dtype=torch.int64)}
    image, placed = Placing(size, resize)("none")(tv_tensors.Image(pixels), target)
    assert image.shape == (3, *size)
    x0, y0, x1, y1 = placed["boxes"][0].round().int().tolist()
    inside = torch.zeros(size)
    inside[y0:y1, x0:x1] = 1
    bright = (image[0] > 180).float()
    assert float((bright * inside).sum() / torch.maximum(bright, inside).sum()) > 0.9
    back = sent_back(torch.as_tensor(placed["boxes"]), placed["placed"], placed["original"])
    torch.testing.assert_close(back, torch.as_tensor(boxes), atol=1e-3, rtol=0)


def test_mirrored_keypoints_change_places_in_pairs() -> None:
    from torchvision import tv_tensors

    torch.manual_seed(0)
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[2.0, 2, 18, 18]]), format="XYXY", canvas_size=(20, 20))
    points = tv_tensors.KeyPoints(torch.tensor([[[4.0, 5], [12, 6], [9, 9]]]), canvas_size=(20, 20))
    target = {"boxes": boxes, "labels": torch.zeros(1), "keypoints": points, "visible": torch.tensor([[2, 1, 0]])}
    transform = Placing((20, 20), flip_pairs=((0, 1),))("light")
    image = tv_tensors.Image(torch.zeros(3, 20, 20, dtype=torch.uint8))
    seen = [transform(image, target)[1] for _ in range(20)]
    mirrored = [each for each in seen if each["visible"][0].tolist() == [1, 2, 0]]
    assert 0 < len(mirrored) < 20
    width = 20 - torch.tensor([[12.0, 6], [4, 5], [9, 9]])[:, 0]
    for each in mirrored:
        assert (torch.as_tensor(each["keypoints"])[0, :, 0] - width).abs().max() <= 1


def test_random_crops_leave_boxes_inside(tmp_path: Path) -> None:
    task = task_on(tmp_path, augment="jitter")
    batches = task.batches("train")
    counts = set()
    for epoch in range(4):
        batches.set_epoch(epoch)
        for images, targets in batches:
            assert images.shape[1:] == (3, 64, 96)
            for target in targets:
                boxes = torch.as_tensor(target["boxes"])
                assert len(boxes) == len(target["labels"]) == len(target["iscrowd"])
                assert (boxes >= 0).all()
                assert (boxes <= torch.tensor([96, 64, 96, 64])).all()
                assert ((boxes[:, 2:] - boxes[:, :2]) > 0).all()
                counts.add(len(boxes))
    assert counts >= {1, 2}


def test_a_network_of_other_classes_is_refused(tmp_path: Path) -> None:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    task = task_on(tmp_path)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).eval()
    with pytest.raises(
        DataError, match=r"SSD tells 3 classes apart, but the data has 2: disc, square; build it with as many .*=3"
    ):
        task.evaluate(model)
    with pytest.raises(DataError, match="gave a Tensor in evaluation mode, where a detector gives a list of dicts"):
        task.evaluate(nn.Sequential(nn.Identity(), Stacked()))
    with pytest.raises(DataError, match=r"data\.image_size"):
        task_on(tmp_path, image_size=None)


class Stacked(nn.Module):
    def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(images)


def test_learning_restores_every_mode() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), nn.Sequential(nn.ReLU().train())).eval()
    model[2][0].train()
    modes = [module.training for module in model.modules()]
    with learning(model):
        assert [module.training for module in model.modules()] == [True, False, False, True, True]
    assert [module.training for module in model.modules()] == modes
    assert Torchvision().classes(model) is None
