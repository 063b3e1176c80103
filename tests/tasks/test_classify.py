import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edakari.core.memory_format import set_memory_format_
from edakari.errors import DataError, EdakariError, UnknownName
from edakari.tasks import DataSettings, task_from_settings


def npz(path, count=60, classes=6, size=8):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(count) % classes)
    return str(path)


class Answers(nn.Module):
    """Knows the label of an image by its first pixel."""

    def __init__(self, table, classes):
        super().__init__()
        self.table, self.classes = table, classes
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images):
        keys = [round(float(value), 4) for value in images[:, 0].sum((1, 2))]
        return self.scale * nn.functional.one_hot(torch.tensor([self.table[key] for key in keys]), self.classes).float()


def test_top1_top5_and_loss_by_hand(tmp_path):
    task = task_from_settings(
        DataSettings(train=(npz(tmp_path / "a.npz"),), val=npz(tmp_path / "v.npz", 30), batch_size=8)
    )
    table = {}
    for images, labels in task.batches("val"):
        for image, label in zip(images, labels, strict=True):
            table[round(float(image[0].sum()), 4)] = int(label) if len(table) % 3 else (int(label) + 1) % 6
    model = Answers(table, 6).train()
    figures = task.evaluate(model)
    assert figures["top1"] == pytest.approx(2 / 3)
    assert figures["top1"] <= figures["top5"] <= 1
    right, wrong = np.log(np.e + 5) - 1, np.log(np.e + 5)
    assert figures["loss"] == pytest.approx(right * 2 / 3 + wrong / 3, rel=1e-5)
    assert model.training
    assert task.metric == "top1"


def test_images_enter_the_network_in_the_memory_format_that_is_asked_for(tmp_path):
    path, seen = npz(tmp_path / "a.npz"), []

    class Looks(nn.Module):
        def forward(self, images):
            seen.append(images)
            return images.flatten(1)[:, :6]

    for memory_format in ("contiguous", "channels_last"):
        task = task_from_settings(DataSettings(train=(path,), memory_format=memory_format, batch_size=8))
        task.outputs(Looks(), next(iter(task.batches("val"))))
    assert seen[0].is_contiguous()
    assert not seen[1].is_contiguous()
    assert seen[1].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(*seen)


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_images_enter_the_network_in_its_own_memory_format_if_none_is_asked_for(tmp_path, memory_format):
    model, seen = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.LazyLinear(6)), []
    task = task_from_settings(DataSettings(train=(npz(tmp_path / "a.npz"),), batch_size=8))
    batch = next(iter(task.batches("val")))
    task.outputs(model, batch)
    set_memory_format_(model, memory_format)
    model[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    task.outputs(model, batch)
    assert seen[0].is_contiguous() == (memory_format == "contiguous")
    assert seen[0].is_contiguous(memory_format=torch.channels_last) == (memory_format == "channels_last")


def test_a_missing_validation_split_is_cut_from_training_and_said(tmp_path):
    task = task_from_settings(DataSettings(source=npz(tmp_path / "a.npz"), val_share=0.2, calibration_size=12))
    train, val, search = (task.data.splits[name].images for name in ("train", "val", "calibration"))
    assert (len(train), len(val), len(search)) == (48, 12, 12)
    keys = [{image.tobytes() for image in images} for images in (train, val, search)]
    assert not keys[0] & keys[1]
    assert keys[2] <= keys[0]
    assert np.bincount(task.data.splits["val"].labels).tolist() == [2] * 6
    assert "12 images cut from the training data" in task.notes[0]


def test_the_search_split_is_the_same_each_time_and_not_augmented(tmp_path):
    settings = DataSettings(source=npz(tmp_path / "a.npz"), calibration_size=10)
    first = [images for images, _ in task_from_settings(settings).batches("calibration")]
    task = task_from_settings(settings)
    for _ in range(2):
        assert all(
            torch.equal(a, b) for a, b in zip(first, [images for images, _ in task.batches("calibration")], strict=True)
        )


def test_a_limit_draws_from_every_class(tmp_path):
    task = task_from_settings(DataSettings(source=npz(tmp_path / "a.npz"), max_images=12, val=npz(tmp_path / "v.npz")))
    assert np.bincount(task.data.splits["train"].labels).tolist() == [2] * 6
    assert "12 images only" in task.notes[0]


def test_normalisation_comes_from_the_training_images(tmp_path):
    task = task_from_settings(
        DataSettings(train=(npz(tmp_path / "a.npz", 600),), val=npz(tmp_path / "v.npz"), augment="none")
    )
    images = torch.cat([images for images, _ in task.batches("train")])
    assert images.mean().abs() < 0.02
    assert abs(float(images.std()) - 1) < 0.02


def test_image_folders_with_train_and_val(tmp_path):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (50, 40), (number * 40, 0, 0)).save(tmp_path / split / name / f"{number}.jpg")
    task = task_from_settings(DataSettings(source=str(tmp_path), image_size=96, batch_size=4, workers=0))
    images, labels = next(iter(task.batches("train")))
    assert images.shape == (4, 3, 96, 96)
    assert task.example().shape == (1, 3, 96, 96)
    assert task.classes == ("cat", "dog")
    assert not task.notes
    assert labels.dtype == torch.int64
    assert len(list(task.batches("val"))) == 2


def test_timm_augmentation_works_on_arrays_too(tmp_path):
    settings = DataSettings(source=npz(tmp_path / "a.npz"), augment="timm", image_size=32, workers=0, batch_size=10)
    images, _ = next(iter(task_from_settings(settings).batches("train")))
    assert images.shape == (10, 3, 32, 32)


def test_a_network_of_other_classes_is_one_clear_error(tmp_path):
    task = task_from_settings(DataSettings(source=npz(tmp_path / "a.npz")))
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    with pytest.raises(DataError, match=r"\[6, 4\].*6 classes.*num_classes=6"):
        task.evaluate(model)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"val_share": 1.0}, "val_share must be above 0 and below 1"),
        ({"channels": 2}, "channels must be one of 1, 3 or None"),
        ({"mean": (0.5, 0.5)}, "data.mean has 2 values"),
        ({"std": (0.0,)}, "std must be a tuple in which each is above 0"),
        ({"train": ("x.npz", "folder")}, "data.train"),
        ({"source": "nowhere"}, "nowhere"),
    ],
)
def test_wrong_settings_name_their_key(tmp_path, change, words):
    with pytest.raises(EdakariError, match=words):
        task_from_settings(DataSettings(**{"source": npz(tmp_path / "a.npz"), **change}))


def test_unknown_names(tmp_path):
    with pytest.raises(UnknownName, match="top1"):
        task_from_settings(DataSettings(metric="top2"))
    with pytest.raises(UnknownName, match="fashion"):
        task_from_settings(DataSettings(source="embedded:fasion"))
    task = task_from_settings(DataSettings(source=npz(tmp_path / "a.npz")))
    with pytest.raises(UnknownName, match="val"):
        task.batches("vall")
    path = npz(tmp_path / "b.npz", classes=3)
    with pytest.raises(DataError, match="top5"):
        task_from_settings(DataSettings(source=path, metric="top5"))
