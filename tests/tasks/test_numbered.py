import numpy as np
import pytest
import torch
from PIL import Image

from edakari.core.protocols import IndexedTask
from edakari.errors import DataError
from edakari.tasks import DataSettings, task_from_settings
from edakari.tasks.draws import draws_of
from edakari.tasks.pixels import Pixels


def numbered_task(tmp_path, augment="jitter", **settings):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "some.npz", images=images, labels=np.arange(24) % 3)
    path = str(tmp_path / "some.npz")
    return task_from_settings(DataSettings(train=(path,), val=path, batch_size=8, augment=augment, **settings))


def test_a_classification_numbers_its_images(tmp_path):
    assert isinstance(numbered_task(tmp_path), IndexedTask)


@pytest.mark.parametrize("augment", ["light", "jitter"])
def test_views_are_draws_of_the_same_images(tmp_path, augment):
    task = numbered_task(tmp_path, augment)
    for (images, labels), (both, twice, numbers) in zip(task.batches("train"), task.with_indices(2), strict=True):
        assert torch.equal(both[:8], images)
        assert not torch.equal(both[8:], images)
        assert torch.equal(twice, torch.cat([labels, labels]))
        assert torch.equal(numbers[:8], numbers[8:])
        assert torch.equal(torch.from_numpy(task.labels("train"))[numbers], twice)


def test_drawn_batches_are_the_ones_asked_for(tmp_path):
    task = numbered_task(tmp_path)
    parts = [np.array([5, 3]), np.array([0, 1, 2])]
    plain = list(task.batches_at("train", parts))
    assert [numbers.tolist() for _, _, numbers in plain] == [[5, 3], [0, 1, 2]]
    assert [labels.tolist() for _, labels, _ in plain] == [[2, 0], [0, 1, 2]]
    changed, again = (list(task.batches_at("train", parts, augmented=True)) for _ in range(2))
    assert not torch.equal(changed[0][0], plain[0][0])
    assert torch.equal(changed[0][0], again[0][0])


def test_what_is_held_out_is_not_trained_on(tmp_path):
    whole = numbered_task(tmp_path, "none", calibration_size=6)
    held = numbered_task(tmp_path, "none", calibration_size=6, hold_out=True)
    assert len(held.labels("train")) == 18
    assert len(held.labels("calibration")) == 6
    images = {batch.tobytes() for images, _ in held.batches("train") for batch in images.numpy()}
    search = {batch.tobytes() for images, _ in held.batches("calibration") for batch in images.numpy()}
    assert not images & search
    assert held.digest() != whole.digest()
    with pytest.raises(DataError, match="hold_out"):
        numbered_task(tmp_path, calibration_size=23, hold_out=True)


def test_jitter_of_a_constant_image_is_its_brightness():
    pixels = Pixels((4, 4), 3, (0.0,) * 3, (1.0,) * 3, jitter=0.2)
    images = torch.full((200, 4, 4, 3), 100, dtype=torch.uint8)
    found = pixels(images, draws_of(0, range(200))[0])[:, 0, 0, 0] * 255
    assert 80 <= found.min() < 85
    assert 115 < found.max() <= 120


def test_views_of_files(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(tmp_path / name / f"{number}.png")
    settings = DataSettings(source=str(tmp_path), val=str(tmp_path), image_size=24, batch_size=4, workers=0)
    task = task_from_settings(settings)
    for (images, labels), (both, _, numbers) in zip(task.batches("train"), task.with_indices(2), strict=True):
        assert both.shape == (8, 3, 24, 24)
        assert torch.equal(both[:4], images)
        assert not torch.equal(both[4:], images)
        assert torch.equal(torch.from_numpy(task.labels("train"))[numbers[:4]], labels)
