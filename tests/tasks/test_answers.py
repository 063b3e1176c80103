"""What two networks answer, against counts by hand and the task's own metrics."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edakari.tasks import DataSettings, task_from_settings
from edakari.tasks import answers as module
from tests.tasks import test_segment
from tests.tasks.test_detection import Oracle, task_on

IMAGES, CLASSES = 70, 4


class Told(nn.Module):
    """Answers the class that a table has for each image, whose number is its pixels' value."""

    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(torch.eye(CLASSES)[torch.from_numpy(table)], requires_grad=False)

    def forward(self, images):
        return self.table[(images[:, 0, 0, 0] * 255).round().long()]


@pytest.fixture
def classes(tmp_path: Path):
    labels = np.arange(IMAGES) % CLASSES
    images = np.broadcast_to(np.arange(IMAGES, dtype=np.uint8)[:, None, None, None], (IMAGES, 8, 8, 1))
    np.savez(tmp_path / "val.npz", images=images, labels=labels)
    path, plain = str(tmp_path / "val.npz"), {"mean": (0.0,), "std": (1.0,), "augment": "none"}
    task = task_from_settings(DataSettings(train=(path,), val=path, batch_size=16, **plain))
    rng = np.random.default_rng(0)
    return (
        task,
        labels,
        *(np.where(rng.random(IMAGES) < 0.7, labels, rng.integers(0, CLASSES, IMAGES)) for _ in range(2)),
    )


def test_classes_are_counted_as_by_hand(classes):
    task, labels, before, after = classes
    dense, pruned = Told(before), Told(after)
    found = task.answers(dense, pruned)
    right = before == labels, after == labels
    outcomes = found.outcomes
    assert found.images == IMAGES == outcomes.both + outcomes.only_dense + outcomes.only_pruned + outcomes.neither
    assert (outcomes.only_dense, outcomes.only_pruned) == ((right[0] & ~right[1]).sum(), (~right[0] & right[1]).sum())
    for model, key in ((dense, "dense"), (pruned, "pruned")):
        top1 = sum(each.count * getattr(each, key) for each in found.classes) / IMAGES
        assert top1 == pytest.approx(task.evaluate(model)["top1"])
    assert [each.pruned - each.dense for each in found.classes] == sorted(e.pruned - e.dense for e in found.classes)
    assert len(found.confusions) == CLASSES**2
    for each in found.confusions:
        label, answer = int(each.label), int(each.answer)
        assert each.dense == ((labels == label) & (before == answer)).sum()
        assert each.pruned == ((labels == label) & (after == answer)).sum()
    told = [(int(each.dense), int(each.pruned)) for each in found.changed]
    assert told == [(before[each.index], after[each.index]) for each in found.changed]
    assert all(one != other for one, other in told)
    firsts = [right[0][each.index] != right[1][each.index] for each in found.changed]
    assert firsts == sorted(firsts, reverse=True)


def test_of_many_images_some_are_compared_that_are_spread_evenly(classes, monkeypatch):
    task, _, before, _ = classes
    monkeypatch.setattr(module, "MOST_CLASSIFIED", 10)
    found = task.answers(Told(before), Told((before + 1) % CLASSES))
    assert found.images == 10
    indices = sorted(each.index for each in found.changed)
    assert (indices[0], indices[-1]) == (0, IMAGES - 1)
    assert set(np.diff(indices)) <= {7, 8}


def test_of_many_classes_those_that_differ_most_are_given():
    names = [str(index) for index in range(30)]
    dense, pruned = np.zeros((30, 30), np.int64), np.zeros((30, 30), np.int64)
    pruned[3, 4], dense[5, 6], pruned[7, 7] = 9, 4, 20
    found = [(each.label, each.answer, each.dense, each.pruned) for each in module._confusions(names, dense, pruned)]
    assert found == [("3", "4", 0, 9), ("5", "6", 4, 0)]


def test_the_classes_of_maps_average_to_the_metric(tmp_path):
    path = test_segment.npz(tmp_path / "t.npz")
    task = task_from_settings(test_segment.settings(path, val=path, batch_size=12))
    generator = torch.Generator().manual_seed(0)
    dense, pruned = (test_segment.Fixed(torch.rand(12, 3, 8, 8, generator=generator)) for _ in range(2))
    found = task.answers(dense, pruned)
    assert found.images == 12
    for model, key in ((dense, "dense"), (pruned, "pruned")):
        figures = [getattr(each, key) for each in found.classes]
        assert np.mean(figures) == pytest.approx(task.evaluate(model)["miou"])
    assert sum(each.count for each in found.classes) == 12 * 8 * 8


def test_the_classes_of_objects_average_to_the_metric_and_the_curve_to_that_at_half(tmp_path):
    task = task_on(tmp_path)
    shift = 64 / 40 * 3  # IoU 169 / 343
    found = task.answers(Oracle(task, shift=1.6), Oracle(task, shift=shift))
    for offset, key in ((1.6, "dense"), (shift, "pruned")):
        figures = task.evaluate(Oracle(task, shift=offset))
        assert np.mean([getattr(each, key) for each in found.classes]) == pytest.approx(figures["map"], abs=1e-6)
        assert np.mean(getattr(found, f"{key}_precision")) == pytest.approx(figures["map50"], abs=1e-3)
    assert len(found.dense_precision) == 101
    assert found.images == 6
