"""Heatmaps of keypoints: crops, the way to heatmaps and back, and precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edakari.errors import DataError
from edakari.tasks import DataSettings, task_from_settings
from edakari.tasks.oks import points_in_original
from edakari.tasks.pose import Pose, heatmaps, peaks
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
