"""Objects with masks and with keypoints: precision of networks that know the answers, and real ones that learn."""

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
from edakari.tasks.oks import COCO_SIGMAS, KeypointPrecision, sigmas_for

POINTS = 3


def coco(folder: Path, count: int = 4) -> str:
    """Images of 40 x 60 with squares, whose keypoints are two corners and the centre; one of them is not labelled."""
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(count):
        pixels = generator.integers(0, 60, (40, 60, 3), dtype=np.uint8)
        for which in range(1 + number % 2):
            x, y, side = 4 + 28 * which, 6 + number, 16
            pixels[y : y + side, x : x + side, which] = 250
            corners = [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]
            seen = 0 if number == 2 else 2
            points = [x, y, 2, x + side, y + side, 1, x + side / 2, y + side / 2, seen]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "bbox": [x, y, side, side]}
                | {"area": side * side, "iscrowd": 0, "keypoints": points, "num_keypoints": 3 if seen else 2}
                | {"segmentation": [[float(value) for corner in corners for value in corner]]}
            )
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 40, "width": 60})
    category = {"id": 1, "name": "square", "keypoints": ["first", "second", "centre"], "skeleton": []}
    path = folder / "objects.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [category]}))
    return f"coco:{path}"


def task_on(folder: Path, name: str, **settings: Any) -> Any:
    pytest.importorskip("faster_coco_eval")
    source = coco(folder)
    given = {"train": (source,), "val": source, "image_size": (64, 96), "batch_size": 2, "workers": 0, **settings}
    return task_from_settings(DataSettings(task=name, **given))


class Oracle(nn.Module):
    """A detector that knows the answers, moved by some pixels of the input."""

    def __init__(self, task: Any, shift: float = 0.0, without: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.shift, self.without = shift, without
        self.answers = [target for _, targets in task.batches("val") for target in targets]
        self.seen = 0

    def forward(self, images: list[torch.Tensor]) -> Any:
        answers = self.answers[self.seen : self.seen + len(images)]
        self.seen += len(images)
        found = []
        for each in answers:
            count = len(each["labels"])
            made = {
                "boxes": each["boxes"] + self.shift,
                "labels": each["labels"] + 1,
                "scores": torch.full((count,), 0.9),
            }
            if "masks" in each:
                made["masks"] = torch.roll(torch.as_tensor(each["masks"]), round(self.shift), 2)[:, None].float() * 0.8
            if "keypoints" in each:
                made["keypoints"] = torch.as_tensor(each["keypoints"]) + self.shift
            found.append({name: value for name, value in made.items() if name not in self.without})
        return found


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_known_masks_have_full_precision(tmp_path: Path, resize: str) -> None:
    task = task_on(tmp_path, "instance_segmentation", resize=resize)
    figures = task.evaluate(Oracle(task))
    assert figures == pytest.approx({"mask_map": 1.0, "mask_map50": 1.0, "map": 1.0, "map50": 1.0})
    moved = task.evaluate(Oracle(task, shift=20))
    assert moved["mask_map50"] == moved["map50"] == 0.0
    with pytest.raises(DataError, match=r"gives no masks; data\.task instance_segmentation"):
        task.evaluate(Oracle(task, without=("masks",)))


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_known_keypoints_have_full_precision(tmp_path: Path, resize: str) -> None:
    task = task_on(tmp_path, "keypoints", resize=resize)
    assert task.evaluate(Oracle(task)) == pytest.approx({"oks_map": 1.0, "oks_map50": 1.0})
    assert task.evaluate(Oracle(task, shift=30)) == {"oks_map": 0.0, "oks_map50": 0.0}
    with pytest.raises(DataError, match=r"gives no keypoints; data\.task keypoints"):
        task.evaluate(Oracle(task, without=("keypoints",)))


def oks(found: np.ndarray, truth: np.ndarray, seen: np.ndarray, area: float, sigmas: np.ndarray) -> float:
    """The definition: mean over labelled keypoints of exp(-d^2 / (2 * area * (2 * sigma)^2))."""
    squares = ((found - truth) ** 2).sum(1)
    each = np.exp(-squares / (2 * area * (2 * sigmas) ** 2))
    return float(each[seen > 0].mean())


def test_precision_of_one_pose_is_the_part_of_thresholds_that_its_oks_reaches() -> None:
    pytest.importorskip("faster_coco_eval")
    generator = np.random.default_rng(0)
    for _ in range(20):
        truth, seen = generator.uniform(10, 90, (17, 2)), generator.integers(0, 3, 17)
        seen[0] = 2
        area, scale = float(generator.uniform(500, 3000)), generator.uniform(0.5, 6)
        found = truth + generator.normal(0, scale, (17, 2))
        target = {
            "keypoints": torch.tensor(truth)[None].float(), "visible": torch.tensor(seen)[None],
            "boxes": torch.tensor([[5.0, 5, 95, 95]]), "labels": torch.tensor([0]), "area": torch.tensor([area]),
            "iscrowd": torch.tensor([False]), "placed": torch.tensor([1.0, 1, 0, 0]),
            "original": torch.tensor([100, 100]),
        }  # fmt: skip
        precision = KeypointPrecision(COCO_SIGMAS, ("person",))
        precision.add(target, torch.tensor([0]), torch.tensor(found)[None].float(), torch.tensor([0.5]))
        reached = oks(found, truth, seen, area, np.array(COCO_SIGMAS)) >= np.arange(0.5, 0.96, 0.05)
        assert precision.compute()["oks_map"] == pytest.approx(reached.mean(), abs=1e-6)


def test_parts_of_an_image_are_judged_together() -> None:
    """Two poses of one image, each of which is predicted in the other's part."""
    pytest.importorskip("faster_coco_eval")
    poses = [torch.rand(17, 2, generator=torch.Generator().manual_seed(seed)) * 40 + 50 * seed for seed in range(2)]
    for image, expected in ((7, 1.0), (None, 0.0)):
        precision = KeypointPrecision(COCO_SIGMAS, ("person",))
        for truth, found in (poses, reversed(poses)):
            target = {
                "keypoints": truth[None], "visible": torch.full((1, 17), 2), "boxes": torch.tensor([[0.0, 0, 99, 99]]),
                "labels": torch.tensor([0]), "area": torch.tensor([1500.0]), "iscrowd": torch.tensor([False]),
                "placed": torch.tensor([1.0, 1, 0, 0]), "original": torch.tensor([100, 100]),
            }  # fmt: skip
            precision.add(target, torch.tensor([0]), found[None], torch.tensor([0.5]), image)
        assert precision.compute()["oks_map"] == pytest.approx(expected, abs=1e-6)


def test_sigmas_fit_the_keypoints() -> None:
    assert sigmas_for((), 17) == COCO_SIGMAS
    assert sigmas_for((), 3) == (0.05,) * 3
    assert sigmas_for((0.1, 0.2), 2) == (0.1, 0.2)
    with pytest.raises(DataError, match="2 sigmas, but the data has 3 keypoints"):
        sigmas_for((0.1, 0.2), 3)


def small(kind: str) -> nn.Module:
    from torchvision.models.detection import KeypointRCNN, MaskRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.ops import MultiScaleRoIAlign

    torch.manual_seed(0)
    backbone: Any = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
    backbone.out_channels = 16
    pool = MultiScaleRoIAlign(["0"], 7, 2)
    common = {
        "rpn_anchor_generator": AnchorGenerator(((16,),), ((1.0,),)), "box_roi_pool": pool,
        "box_head": TwoMLPHead(16 * 49, 16), "box_predictor": FastRCNNPredictor(16, 2), "min_size": 64, "max_size": 96,
        "rpn_post_nms_top_n_train": 20, "box_batch_size_per_image": 16,
    }  # fmt: skip
    if kind == "masks":
        heads = {"mask_roi_pool": MultiScaleRoIAlign(["0"], 14, 2), "mask_head": MaskRCNNHeads(16, (8,), 1)}
        return MaskRCNN(backbone, **common, **heads, mask_predictor=MaskRCNNPredictor(8, 8, 2))
    heads = {"keypoint_roi_pool": MultiScaleRoIAlign(["0"], 14, 2), "keypoint_head": KeypointRCNNHeads(16, (8,))}
    return KeypointRCNN(backbone, **common, **heads, keypoint_predictor=KeypointRCNNPredictor(8, POINTS))


@pytest.mark.parametrize(
    ("name", "kind", "term"),
    [("instance_segmentation", "masks", "loss_mask"), ("keypoints", "points", "loss_keypoint")],
)
def test_torchvisions_networks_learn_and_are_judged(tmp_path: Path, name: str, kind: str, term: str) -> None:
    task = task_on(tmp_path, name)
    model = small(kind).train()
    terms = task_objective(task)(model, next(iter(task.batches("train"))))
    assert term in terms
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None for parameter in model.parameters())
    figures = task.evaluate(model)
    assert set(figures) >= {task.metric}
    assert all(0 <= value <= 1 for value in figures.values())
    assert model.training
