"""A class at every pixel."""

from __future__ import annotations

import dataclasses as dc
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from edakari.core.objective import task_objective
from edakari.errors import DataError, SettingsError, UnknownName
from edakari.tasks import DataSettings, Segmentation, task_from_settings
from edakari.tasks.segment import SegmentationSettings


def maps(count: int = 12, size: int = 8) -> tuple[Any, Any]:
    """Images whose red channel is ten times the class, and the classes."""
    labels = np.random.default_rng(0).integers(0, 3, (count, size, size))
    images = np.random.default_rng(1).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    images[..., 0] = 10 + 10 * labels
    return images, labels


def npz(path: Path, labels: Any = None, **more: Any) -> str:
    images, own = maps()
    np.savez(path, images=images, labels=own if labels is None else labels, **more)
    return str(path)


def folder(path: Path, mode: str = "L") -> Path:
    for name in ("images", "labels"):
        (path / name).mkdir(parents=True)
    images, labels = maps()
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(path / "images" / f"{number}.png")
        Image.fromarray(label.astype(np.uint8)).convert(mode).save(path / "labels" / f"{number}.png")
    return path


def settings(source: object, **more: Any) -> DataSettings:
    return DataSettings(task="segmentation", source=str(source), **more)


class Fixed(nn.Module):
    """Gives the same maps for every batch."""

    def __init__(self, logits: Any) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: torch.Tensor) -> Any:
        return self.logits


def test_figures_by_hand(tmp_path: Path) -> None:
    labels = np.zeros((12, 8, 8), np.int64)
    labels[:, 4:], labels[:, :, 0] = 1, 255
    path = npz(tmp_path / "t.npz", labels)
    task = task_from_settings(settings(path, val=path, batch_size=12))
    said = torch.zeros(12, 2, 8, 8)
    said[:, 1, 2:] = 1.0
    figures = task.evaluate(Fixed(said))
    # of 56 pixels that count 28 are of each class; 14 are said to be 0, rightly, and 42 to be 1
    assert figures["pixel_accuracy"] == pytest.approx(42 / 56)
    assert figures["mean_accuracy"] == pytest.approx((14 / 28 + 1) / 2)
    assert figures["miou"] == pytest.approx((14 / 28 + 28 / 42) / 2)
    right, wrong = np.log(1 + np.exp(-1)), np.log(1 + np.e)
    assert figures["loss"] == pytest.approx((14 * np.log(2) + 28 * right + 14 * wrong) / 56, rel=1e-5)
    assert float(task.loss(said, next(iter(task.batches("val"))))["cross_entropy"]) == pytest.approx(figures["loss"])


def test_a_batch_in_which_no_pixel_counts_has_no_loss(tmp_path: Path) -> None:
    task = task_from_settings(settings(npz(tmp_path / "t.npz")))
    assert float(task.loss(torch.zeros(2, 3, 8, 8), (None, torch.full((2, 8, 8), 255)))["cross_entropy"]) == 0.0


def test_small_maps_and_mappings_are_brought_to_size(tmp_path: Path) -> None:
    path = npz(tmp_path / "t.npz")
    task = task_from_settings(settings(path, val=path, batch_size=12))
    batch = next(iter(task.batches("val")))
    small = torch.randn(12, 3, 4, 4)
    wanted = nn.functional.interpolate(small, (8, 8), mode="bilinear")
    assert torch.equal(task.outputs(Fixed(small), batch), wanted)
    assert torch.equal(task.outputs(Fixed({"out": small, "aux": small}), batch), wanted)
    assert torch.equal(task.outputs(Fixed({"logits": small}), batch), wanted)
    assert torch.equal(task.outputs(Fixed(SimpleNamespace(logits=small)), batch), wanted)
    with pytest.raises(DataError, match=r"3 classes at every pixel, which are logits \[N, 3, height, width\]"):
        task.outputs(Fixed(torch.zeros(12, 3)), batch)


@pytest.mark.parametrize("augment", ["none", "light", "jitter"])
def test_labels_move_with_their_images(tmp_path: Path, augment: Any) -> None:
    task = task_from_settings(
        settings(npz(tmp_path / "t.npz"), augment=augment, pad=2, mean=(0.0,), std=(1.0,), batch_size=3)
    )
    batches, moved = task.batches("train"), False
    for epoch in range(4):
        batches.set_epoch(epoch)
        for images, labels in batches:
            assert images.shape == (len(labels), 3, 8, 8)
            for image, label in zip(images, labels, strict=True):
                means = [image[0][label == each].mean() for each in range(3)]
                assert means[0] < means[1] < means[2]
                if augment != "jitter":
                    assert torch.equal((image[0] * 255).round().long(), torch.where(label == 255, 0, 10 + 10 * label))
                moved |= bool((label == 255).any())
    assert moved == (augment != "none")
    again = task.batches("train")
    again.set_epoch(1)
    first, second = list(again), list(again.skip(1))
    assert len(second) == len(first) - 1 == len(again) - 1
    assert all(
        torch.equal(a, b) for one, other in zip(first[1:], second, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_an_auxiliary_classifier_adds_its_loss(tmp_path: Path) -> None:
    path = npz(tmp_path / "t.npz")
    batch = next(iter(task_from_settings(settings(path, batch_size=12)).batches("calibration")))
    main, aux = torch.randn(2, len(batch[0]), 3, 8, 8)
    for weight in (0.5, 0.25, 0.0):
        task = task_from_settings(dc.replace(settings(path), task=SegmentationSettings(aux_weight=weight)))
        terms = task_objective(task)(Fixed({"out": main, "aux": aux}), batch)
        assert torch.equal(terms["cross_entropy"], task.loss(main, batch)["cross_entropy"])
        wanted = [weight * task.loss(aux, batch)["cross_entropy"]] if weight else []
        assert [terms["auxiliary"]] == wanted if weight else "auxiliary" not in terms
        assert set(task_objective(task)(Fixed(main), batch)) == {"cross_entropy"}


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("augment", ["none", "light", "jitter"])
def test_maps_stay_upon_their_images_at_any_size(tmp_path: Path, augment: Any, resize: Any) -> None:
    """A white disc on black: its map must agree with the image up to the pixels at its border."""
    across, down = np.meshgrid(np.arange(120), np.arange(80))
    labels = np.stack([((across - x) ** 2 + (down - 30) ** 2 < 400).astype(np.int64) for x in range(20, 80, 10)])
    images = np.repeat(labels[..., None] * 255, 3, -1).astype(np.uint8)
    np.savez(tmp_path / "t.npz", images=images, labels=labels)
    data = settings(tmp_path / "t.npz", image_size=(70, 90), mean=(0.0,), std=(1.0,), batch_size=3)
    task = task_from_settings(dc.replace(data, augment=augment, resize=resize))
    ignored = 0
    for images_NCYX, labels_NYX in task.batches("train"):
        assert images_NCYX.shape[2:] == labels_NYX.shape[1:] == (70, 90)
        ignored += int((labels_NYX == 255).sum())
        for image, label in zip(images_NCYX[:, 0], labels_NYX, strict=True):
            bright = image > 0.6
            assert (bright != (label == 1))[label != 255].float().mean() < 0.03
            for dim in (0, 1):
                lines = [found.float().mean(dim) for found in (bright, label == 1)]
                spots = [(line * torch.arange(len(line))).sum() / line.sum().clamp(min=1e-9) for line in lines]
                assert abs(spots[0] - spots[1]) < 0.6
    assert (ignored > 0) == (augment != "none" or resize == "letterbox")


def test_grey_images_keep_their_one_channel_and_their_own_statistics(tmp_path: Path) -> None:
    images, labels = maps()
    np.savez(tmp_path / "t.npz", images=images[..., 0], labels=labels)
    grey = task_from_settings(settings(tmp_path / "t.npz", augment="none", val_share=0.01))
    found = torch.cat([batch[0] for batch in grey.batches("train")])
    assert found.shape[1:] == grey.example().shape[1:] == (1, 8, 8)
    assert abs(float(found.mean())) < 1e-5
    assert abs(float(found.std(correction=0)) - 1) < 1e-5
    colour = task_from_settings(settings(tmp_path / "t.npz", channels=3))
    assert colour.example().shape == (1, 3, 8, 8)


@pytest.mark.parametrize("mode", ["L", "P"])
def test_a_folder_gives_what_its_arrays_give(tmp_path: Path, mode: str) -> None:
    task = task_from_settings(settings(folder(tmp_path / "data", mode), val_share=0.25))
    assert isinstance(task, Segmentation)
    images, labels = maps()
    known = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for split in ("train", "val", "calibration"):
        source = task.data.source(split)
        for index in range(len(source)):
            image, target = source[index]
            assert np.array_equal(known[np.ascontiguousarray(image.permute(1, 2, 0)).tobytes()], target["map"])
    assert len(task.data.source("val")) == 3


def test_maps_are_resized_without_mixing_classes(tmp_path: Path) -> None:
    labels = np.zeros((12, 8, 8), np.int64)
    labels[:, 4:] = 2
    by_file = task_from_settings(settings(npz(tmp_path / "t.npz", labels), image_size=4, augment="none"))
    _, found = next(iter(by_file.batches("train")))
    assert found.shape[1:] == (4, 4)
    assert found[0].tolist() == [[0] * 4] * 2 + [[2] * 4] * 2
    from_files = task_from_settings(settings(folder(tmp_path / "data"), image_size=16, augment="none", workers=0))
    images, found = next(iter(from_files.batches("train")))
    assert images.shape[1:] == (3, 16, 16)
    assert set(found.unique().tolist()) == {0, 1, 2}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_any_of_several_sources_may_have_the_largest_class(tmp_path: Path, order: tuple[int, int]) -> None:
    _, labels = maps()
    paths = [npz(tmp_path / "few.npz", np.minimum(labels, 1)), npz(tmp_path / "all.npz")]
    task = task_from_settings(settings("", train=tuple(paths[each] for each in order), val=paths[0]))
    assert task.classes == ("0", "1", "2")
    assert len(task.data.source("train")) == 24
    with pytest.raises(DataError, match="labels from 0 to 2, but there are 2 classes"):
        task_from_settings(settings("", train=(paths[0], paths[0]), val=paths[1]))


def test_a_size_is_asked_for_where_images_differ(tmp_path: Path) -> None:
    data = folder(tmp_path / "data")
    for name, mode in (("images", "RGB"), ("labels", "L")):
        Image.new(mode, (9, 8)).save(data / name / "3.png")
    with pytest.raises(DataError, match=r"segmentation: images differ in size; name data\.image_size"):
        task_from_settings(settings(data))
    assert task_from_settings(settings(data, image_size=(8, 12))).example().shape == (1, 3, 8, 12)


def test_a_folder_with_its_own_validation_data(tmp_path: Path) -> None:
    folder(tmp_path / "data" / "train")
    folder(tmp_path / "data" / "val")
    task = task_from_settings(settings(tmp_path / "data"))
    assert [len(task.data.source(split)) for split in ("train", "val")] == [12, 12]
    assert task.notes == ()


def told_and_dropped(data: Path, wanted: str) -> None:
    """One of twelve images is named by the policy "stop", and left out with a note otherwise."""
    with pytest.raises(DataError, match=wanted):
        task_from_settings(settings(data, broken="stop"))
    task = task_from_settings(settings(data, val_share=0.5))
    assert [len(task.data.source(split)) for split in ("train", "val")] == [5, 6]
    assert any(re.search(wanted, note) for note in task.notes)


def test_bad_data_is_told(tmp_path: Path) -> None:
    _, labels = maps()
    cases = {
        "one for each pixel, found int64": labels[:, 0],
        "all pixels are of one class": np.ones_like(labels),
        "labels that all are ignored": np.full_like(labels, 255),
        "labels from -1 to 1": labels - 1,
    }
    for number, (wanted, bad) in enumerate(cases.items()):
        with pytest.raises(DataError, match=wanted):
            task_from_settings(settings(npz(tmp_path / f"{number}.npz", bad)))
    with pytest.raises(DataError, match="labels from 0 to 2, but there are 2 classes"):
        task_from_settings(settings(npz(tmp_path / "n.npz", class_names=np.array(["a", "b"]))))
    with pytest.raises(DataError, match="has no images/"):
        task_from_settings(settings(tmp_path))
    data = folder(tmp_path / "data")
    (data / "labels" / "3.png").unlink()
    told_and_dropped(data, r"3\.png")
    Image.fromarray(np.zeros((5, 8), np.uint8)).save(data / "labels" / "3.png")
    told_and_dropped(data, r"3\.png")
    with pytest.raises(UnknownName, match="miou"):
        task_from_settings(settings(npz(tmp_path / "t.npz"), metric="top1"))
    with pytest.raises(DataError, match="to segmentation"):
        task_from_settings(DataSettings(source=npz(tmp_path / "u.npz")))


def test_distillation_runs_the_student_once_a_step(tmp_path: Path) -> None:
    from torch import nn

    from edakari.train import distillation

    class Counted(nn.Conv2d):
        calls = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return super().forward(images)

    task: Any = task_from_settings(settings(npz(tmp_path / "t.npz")))
    batch = next(iter(task.batches("val")))
    student, teacher = (Counted(batch[0].shape[1], len(task.classes), 1) for _ in range(2))
    terms = distillation(task, teacher)(student, batch)
    assert set(terms) == {"cross_entropy", "distillation"}
    assert (student.calls, teacher.calls) == (1, 1)


def test_the_loss_may_be_averaged_over_all_pixels(tmp_path: Path) -> None:
    labels = np.zeros((12, 8, 8), np.int64)
    labels[:, 4:], labels[:, :, :2] = 1, 255
    path = npz(tmp_path / "t.npz", labels)
    logits, losses = torch.randn(12, 2, 8, 8), {}
    for average in ("valid", "all"):
        data = settings(path, val=path, batch_size=12)
        task: Any = task_from_settings(dc.replace(data, task=SegmentationSettings(average=average)))  # type: ignore[arg-type]
        losses[average] = float(task.loss(logits, next(iter(task.batches("val"))))["cross_entropy"])
    assert losses["all"] == pytest.approx(losses["valid"] * 6 / 8)


def of_strips(path: Path, **options: Any) -> Any:
    """Images of 100 x 200 whose red is their place across; the left tenth is class 1, the rest class 0."""
    images = np.zeros((4, 100, 200, 3), np.uint8)
    images[..., 0] = np.arange(200)
    labels = np.zeros((4, 100, 200), np.int64)
    labels[:, :, :20] = 1
    np.savez(path, images=images, labels=labels)
    given = {"image_size": (80, 80), "mean": (0.0,), "std": (1.0,), "batch_size": 3}
    return task_from_settings(dc.replace(settings(path, **given), task=SegmentationSettings(**options)))


def test_images_are_zoomed_from_a_base_size_and_evaluated_there(tmp_path: Path) -> None:
    task = of_strips(tmp_path / "t.npz", base_size=(100, 200), zoom=(1.5, 2.0), zoom_draw="linear")
    assert task.example().shape == (1, 3, 80, 80)
    ((images, labels),) = task.batches("val")
    assert images.shape[2:] == labels.shape[1:] == (100, 200)
    assert torch.equal((images[0, 0, 0] * 255).round(), torch.arange(200.0))
    for images, _ in task.batches("train"):
        assert images.shape[2:] == (80, 80)
        slopes = (images[:, 0, 40, 60] - images[:, 0, 40, 10]).abs() * 255 / 50
        assert ((slopes > 0.45) & (slopes < 0.72)).all()  # places across for each pixel: 1 / zoom


def test_zooms_are_even_or_their_logarithms_are(tmp_path: Path) -> None:
    zooms = {}
    for draw in ("linear", "log"):
        placed = of_strips(tmp_path / f"{draw}.npz", zoom_draw=draw).data.prepare("light")
        torch.manual_seed(0)
        zooms[draw] = torch.tensor([placed._zoom() for _ in range(2000)])
        assert 0.5 <= zooms[draw].min() < 0.52
        assert 1.97 < zooms[draw].max() <= 2.0
    assert abs(zooms["linear"].mean() - 1.25) < 0.03
    assert abs(zooms["log"].median() - 1.0) < 0.05


def test_crops_of_one_class_are_drawn_again(tmp_path: Path) -> None:
    found = {}
    for largest in (1.0, 0.9):
        task = of_strips(tmp_path / f"{largest}.npz", zoom=(1.0, 1.0), base_size=(100, 200), max_class=largest)
        prepare, (image, target) = task.data.prepare("light"), task.data.source("train")[0]
        torch.manual_seed(0)
        maps = [prepare(image, target)[1]["map"] for _ in range(60)]
        found[largest] = sum(float((labels == 1).float().mean()) > 0.1 for labels in maps) / 60
    assert found[1.0] < 0.25  # 12 of 121 places
    assert found[0.9] > 0.4


def test_colours_are_distorted_by_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.transforms import v2

    calls: list[str] = []
    for name in ("RandomPhotometricDistort", "ColorJitter"):
        monkeypatch.setattr(v2, name, lambda *_, name=name: lambda image: calls.append(name) or image)
    for colours in ("jitter", "distort"):
        task = of_strips(tmp_path / f"{colours}.npz", colours=colours)
        task.data.prepare("jitter")(*task.data.source("train")[0])
    assert calls == ["ColorJitter", "RandomPhotometricDistort"]


@pytest.mark.parametrize("zoom", [(2.0, 0.5), (1.0,)])
def test_ranges_are_told(zoom: Any) -> None:
    with pytest.raises(SettingsError, match="zoom takes two numbers, the smaller one first"):
        SegmentationSettings(zoom=zoom)
