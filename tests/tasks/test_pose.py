"""Heatmaps of keypoints: crops, the way to heatmaps and back, and precision."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edakari.errors import DataError, UnknownName
from edakari.tasks import DataSettings, task_from_settings
from edakari.tasks.oks import KeypointPrecision, points_in_original
from edakari.tasks.pose import Pose, heatmaps, peaks
from edakari.tasks.pose_data import UPPER, Cropping, PoseChanges
from tests.tasks.test_instances import coco

SIZE = (64, 48)


def task_on(folder: Path, **settings: Any) -> Pose:
    pytest.importorskip("faster_coco_eval")
    source = coco(folder)
    options = settings.pop("options", {})
    given = {"train": (source,), "val": source, "image_size": SIZE, "batch_size": 3, "workers": 0, **settings}
    task = task_from_settings(DataSettings(task={"name": "pose", **options}, **given))  # type: ignore[arg-type]
    assert isinstance(task, Pose)
    return task


class Oracle(nn.Module):
    """A network that knows the heatmaps of the validation images, in order."""

    def __init__(self, task: Pose, shift: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        points = [torch.as_tensor(target["keypoints"])[0] for _, targets in task.batches("val") for target in targets]
        self.maps = heatmaps((torch.stack(points) + shift) / 4, (SIZE[0] // 4, SIZE[1] // 4), 2.0)
        self.seen = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return self.maps[self.seen - len(images) : self.seen]


@settings(deadline=None, max_examples=30)
@given(st.floats(2, 14), st.floats(2, 10), st.floats(0.8, 3))
def test_the_peak_of_a_heatmap_is_its_keypoint(y: float, x: float, sigma: float) -> None:
    points = torch.tensor([[[x, y]]])
    found, values = peaks(heatmaps(points, (16, 12), sigma))
    assert (found - points).abs().max() <= 0.26  # a quarter of a pixel is the finest step
    assert values.min() > 0.5
    assert heatmaps(points + 20, (16, 12), sigma).sum() == 0


def test_crops_show_the_object_and_know_the_way_back(tmp_path: Path) -> None:
    task = task_on(tmp_path)
    assert task.data.joints == ("first", "second", "centre")
    sources: Any = task.data.source("val")
    count = 0
    for images, targets in task.batches("val"):
        assert images.shape[1:] == (3, *SIZE)
        for image, target in zip(images, targets, strict=True):
            _, whole = sources[count]
            back = points_in_original(target["keypoints"], target)
            torch.testing.assert_close(back, torch.as_tensor(whole["keypoints"]), atol=1e-3, rtol=0)
            centre = torch.as_tensor(target["keypoints"])[0, 2]
            assert (centre - torch.tensor([24.0, 32.0])).abs().max() < 3
            pixels = image * 0.225 + 0.45
            x, y = (int(each) for each in centre)
            assert pixels[:, y - 3 : y + 3, x - 3 : x + 3].amax() > 0.9
            count += 1
    assert count == len(sources) == 6


def test_known_heatmaps_have_full_precision(tmp_path: Path) -> None:
    task = task_on(tmp_path)
    figures = task.evaluate(Oracle(task))
    assert figures["oks_map50"] == 1.0
    assert figures["loss"] < 1e-12
    assert task.evaluate(Oracle(task, shift=12))["oks_map50"] == 0.0


def test_the_flip_test_averages_a_network_that_sees_mirrors(tmp_path: Path) -> None:
    class Mirrored(nn.Module):
        """Says the answer, or, of a mirrored image, the mirrored answer with pairs exchanged."""

        def __init__(self, oracle: Oracle) -> None:
            super().__init__()
            self.oracle, self.weight = oracle, nn.Parameter(torch.zeros(()))
            self.last = torch.zeros(())

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if self.last.shape == images.shape and torch.equal(self.last.flip(3), images):
                return self.answer.flip(3)[:, [1, 0, 2]]
            self.last, self.answer = images, self.oracle(images)
            return self.answer

    task = task_on(tmp_path, options={"flip_test": True})
    paired = Pose(task.data, task.options, ((0, 1),))
    assert paired.evaluate(Mirrored(Oracle(task)))["oks_map50"] == 1.0
    assert task.evaluate(Mirrored(Oracle(task)))["oks_map"] < 1.0  # whoever forgets the pairs mixes them up


def test_unlabelled_keypoints_do_not_count(tmp_path: Path) -> None:
    task = task_on(tmp_path)
    batch = next(iter(task.batches("val")))
    maps = torch.zeros(3, 3, 16, 12)
    hidden = [target["visible"][0].tolist() for target in batch[1]]
    assert all(row[2] == 2 for row in hidden)
    before = task.loss(maps, batch)["heatmaps"]
    batch[1][0]["visible"] = torch.zeros(1, 3, dtype=torch.int64)
    wrong = maps.clone()
    wrong[0] = 100
    torch.testing.assert_close(task.loss(wrong, batch)["heatmaps"], before, rtol=0.1, atol=0)


def test_a_network_learns_heatmaps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = task_on(tmp_path, augment="jitter")
    model = nn.Sequential(nn.Conv2d(3, 16, 5, 4, 2), nn.ReLU(), nn.Conv2d(16, 3, 5, 1, 2))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    batches, losses = task.batches("train"), []
    for epoch in range(12):
        batches.set_epoch(epoch)
        for batch in batches:
            optimizer.zero_grad()
            loss = task.loss(task.outputs(model, batch), batch)["heatmaps"]
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])


def test_other_outputs_are_refused(tmp_path: Path) -> None:
    task = task_on(tmp_path)
    with pytest.raises(DataError, match=r"gives \[3, 8, 64, 48\] for a batch, but the data has 3 keypoints"):
        task.evaluate(nn.Conv2d(3, 8, 1))
    with pytest.raises(DataError, match=r"such as \[256, 192\]"):
        task_on(tmp_path, image_size=None)


def test_all_keypoints_may_count_in_the_mean(tmp_path: Path) -> None:
    maps, losses = torch.randn(3, 3, 16, 12), []
    for average in ("labelled", "all"):
        task = task_on(tmp_path, options={"average": average})
        batch = next(iter(task.batches("val")))
        batch[1][0]["visible"] = torch.tensor([[2, 0, 0]])
        losses.append(float(task.loss(maps, batch)["heatmaps"]))
    assert losses[1] == pytest.approx(losses[0] * 7 / 9 / 2)


def test_rotated_crops_turn_keypoints_with_their_pixels(tmp_path: Path) -> None:
    task = task_on(tmp_path, options={"rotation": 45, "scale": 0.35, "shift": 0.0})
    prepare, source, turned = task.data.prepare("light"), task.data.source("train"), 0
    torch.manual_seed(0)
    for index in range(60):
        pixels, placed = prepare(*source[index % len(source)])
        corners = torch.as_tensor(placed["keypoints"])[0, :2]
        centre = corners.mean(0)
        assert (centre - torch.tensor([24.0, 32.0])).abs().max() < 3.5  # rotation is about the middle
        # of the bright square, and beyond of it: at 0.85, only where the square turned as far as its corners
        within, beyond = (
            [(x, y) for x, y in centre + reach * (corners - centre) if 1 < x < 47 and 1 < y < 63]
            for reach in (0.85, 1.4)
        )
        assert all(pixels[:, int(y), int(x)].amax() > 180 for x, y in within)
        assert all(pixels[:, int(y), int(x)].amax() < 120 for x, y in beyond)
        across, down = (corners[1] - corners[0]).abs()
        turned += bool((across - down).abs() > 3)
    assert 24 < turned < 46  # some 60 %


def test_half_of_a_body_is_shown_now_and_then() -> None:
    joints = torch.rand(1, 17, 2, generator=torch.Generator().manual_seed(0)) * 20
    joints[:, 11:, 1] += 100
    target = {"boxes": torch.tensor([[0.0, 0.0, 40.0, 140.0]]), "keypoints": joints}
    target["visible"] = torch.full((1, 17), 2)
    cropping = Cropping(SIZE, changes=PoseChanges(half_body=0.3, upper=UPPER[17]))
    torch.manual_seed(0)
    boxes = [cropping("light")._box(target) for _ in range(400)]
    for half in (slice(0, 11), slice(11, 17)):
        ends = torch.cat([joints[0, half].amin(0), joints[0, half].amax(0)])
        assert 36 < sum(torch.equal(box, ends) for box, _ in boxes) < 84  # 15 % of 400
    assert {margin for _, margin in boxes} == {1.25, 1.5}
    assert cropping("none")._box(target)[1] == 1.25
    few = {**target, "visible": torch.tensor([[2] * 8 + [0] * 9])}
    assert all(cropping("light")._box(few)[1] == 1.25 for _ in range(30))


def test_halves_need_names_of_keypoints(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"upper_body, some names of the data's 3 keypoints: first, second, centre"):
        task_on(tmp_path, options={"half_body": 0.3})
    with pytest.raises(UnknownName, match="did you mean 'first'"):
        task_on(tmp_path, options={"half_body": 0.3, "upper_body": ("frist",)})
    task_on(tmp_path, options={"half_body": 0.3, "upper_body": ("first",)})


@pytest.mark.parametrize(("shift", "stay"), [(0.5, 1), (30.0, 2)])
def test_poses_much_like_a_better_one_are_dropped(shift: float, stay: int) -> None:
    points = torch.tensor([[[10.0, 10.0], [60.0, 60.0]]]).repeat(2, 1, 1)
    points[1] += shift
    target = {"boxes": torch.tensor([[0.0, 0.0, 100.0, 100.0]] * 2), "labels": torch.zeros(2, dtype=torch.int64)}
    target |= {"area": torch.full((2,), 1e4), "iscrowd": torch.zeros(2), "keypoints": points}
    target |= {"visible": torch.full((2, 2), 2), "placed": torch.tensor([1.0, 1.0, 0.0, 0.0])}
    target |= {"original": torch.tensor([100, 100])}
    like = math.exp(-2 * shift**2 / (2 * 1e4 * (2 * 0.05) ** 2))  # COCO's similarity by hand
    assert (like > 0.9) == (stay == 1)
    for threshold, count in ((0.9, stay), (1.0, 2)):
        precision = KeypointPrecision((0.05, 0.05), ("person",), threshold)
        precision.add(target, target["labels"], points, torch.tensor([0.5, 0.9]), 0)
        found = precision._suppressed(precision.found)
        assert len(found) == count
        assert max(each["score"] for each in found) == pytest.approx(0.9)
