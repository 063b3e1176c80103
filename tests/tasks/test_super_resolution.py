"""Images at a higher resolution."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from edakari.errors import DataError, UnknownName
from edakari.tasks import DataSettings, task_from_settings
from edakari.tasks.super_resolution import SuperResolutionSettings
from tests.tasks.test_segment import Fixed


def pictures(count: int = 6, high: int = 30, wide: int = 40) -> Any:
    coarse = torch.rand(count, 3, 6, 8, generator=torch.Generator().manual_seed(0)) * 255
    fine = nn.functional.interpolate(coarse, (high, wide), mode="bicubic").clamp(0, 255)
    return fine.round().byte().permute(0, 2, 3, 1).numpy()


def npz(path: Path, images: Any = None) -> str:
    np.savez(path, images=pictures() if images is None else images)
    return str(path)


def folder(path: Path) -> str:
    path.mkdir(parents=True)
    for number, image in enumerate(pictures()):
        Image.fromarray(image).save(path / f"{number}.png")
    return str(path)


OWN = """
import torch
from tests.tasks.test_super_resolution import pictures

class Photos:
    def __len__(self):
        return 6

    def __getitem__(self, index):
        image = torch.from_numpy(pictures()[index]).permute(2, 0, 1)
        return image if index % 2 else (image, index)
"""


def own(path: Path) -> str:
    path.mkdir()
    (path / "photos.py").write_text(OWN, encoding="utf-8")
    return f"{path}/photos.py:Photos"


def settings(source: str, options: SuperResolutionSettings | None = None, **more: Any) -> DataSettings:
    options = options or SuperResolutionSettings()
    return DataSettings(task=options, source=source, **{"image_size": (10, 12), "workers": 0, "batch_size": 3, **more})


SOURCES = {
    "folder": lambda path: folder(path / "photos"),
    "named": lambda path: "images:" + folder(path / "photos"),
    "npz": lambda path: npz(path / "p.npz"),
    "own": lambda path: own(path / "own"),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("augment", ["none", "light", "jitter"])
def test_batches_are_originals_and_what_torchvision_shrinks_them_to(tmp_path: Path, kind: str, augment: Any) -> None:
    task = task_from_settings(settings(SOURCES[kind](tmp_path), augment=augment, val_share=0.2))
    assert task.classes == ()
    bicubic, whole = v2.InterpolationMode.BICUBIC, torch.from_numpy(pictures()).permute(0, 3, 1, 2)
    for low, high in task.batches("train"):
        assert high.shape == (len(low), 3, 20, 24)
        pixels = (high * 255).round().byte()
        wanted = v2.functional.resize(pixels, [10, 12], interpolation=bicubic, antialias=True).float() / 255
        assert torch.equal(low, wanted)
        for crop in pixels:
            at = (crop == v2.functional.center_crop(whole, [20, 24])).flatten(1).all(1)
            assert int(at.sum()) == (augment == "none")


@pytest.mark.parametrize("channel", ["y", "rgb"])
def test_metrics_by_hand(tmp_path: Path, channel: Any) -> None:
    path = npz(tmp_path / "p.npz")
    task = task_from_settings(settings(path, SuperResolutionSettings(channel=channel), val=path, batch_size=6))
    ((_, high),) = task.batches("val")
    noise = 0.02 * torch.randn(high.shape, generator=torch.Generator().manual_seed(1))
    noise[..., :2, :] = 0.5  # the border, which does not count
    said = (high + noise).clamp(0, 1)
    figures = task.evaluate(Fixed(high + noise))
    inner = [(each[..., 2:-2, 2:-2] * 255).permute(0, 2, 3, 1).double() for each in (high, said)]
    if channel == "y":
        inner = [each @ torch.tensor([65.481, 128.553, 24.966]).double()[:, None] / 255 + 16 for each in inner]
    mse = (inner[0] - inner[1]).square().flatten(1).mean(1)
    assert figures["psnr"] == pytest.approx(float((10 * torch.log10(255**2 / mse)).mean()), rel=1e-4)
    assert figures["loss"] == pytest.approx(float(noise.abs().mean()), rel=1e-4)
    assert 0.5 < figures["ssim"] < 1
    perfect = task.evaluate(Fixed(high))
    assert (perfect["psnr"], perfect["loss"]) == (100.0, 0.0)
    assert perfect["ssim"] == pytest.approx(1.0)


def test_outputs_have_the_originals_size(tmp_path: Path) -> None:
    task = task_from_settings(settings(npz(tmp_path / "p.npz"), SuperResolutionSettings(factor=2)))
    batch = next(iter(task.batches("calibration")))
    wanted = torch.rand_like(batch[1])
    for given in (wanted, SimpleNamespace(reconstruction=wanted)):
        assert torch.equal(task.outputs(Fixed(given), batch), wanted)
    with pytest.raises(DataError, match=r"gives \[3, 3, 10, 12\] .* factor 2 needs \[3, 3, 20, 24\]"):
        task.outputs(Fixed(batch[0]), batch)


def test_grey_images_keep_their_one_channel(tmp_path: Path) -> None:
    task = task_from_settings(settings(npz(tmp_path / "p.npz", pictures()[..., 0])))
    low, high = next(iter(task.batches("train")))
    assert low.shape[1:] == (1, 10, 12)
    assert high.shape[1:] == (1, 20, 24)
    assert set(task.evaluate(Fixed(torch.zeros(1, 1, 20, 24)))) == {"psnr", "ssim", "loss"}


def test_bad_data_is_told(tmp_path: Path) -> None:
    path = npz(tmp_path / "p.npz")
    with pytest.raises(
        DataError, match=r"5 of 5 images of 'train' are smaller than a crop of 40x48 pixels.* one of 30x40"
    ):
        task_from_settings(settings(path, SuperResolutionSettings(factor=4)))
    with pytest.raises(DataError, match=r"needs data\.image_size"):
        task_from_settings(settings(path, image_size=None))
    with pytest.raises(DataError, match=r"10x10 pixels have 6 without their borders .* SSIM needs 11"):
        task_from_settings(settings(path, image_size=5))
    (tmp_path / "empty").mkdir()
    for source, wanted in (("empty", "has no images in it"), ("none", "is not there")):
        with pytest.raises(DataError, match=wanted):
            task_from_settings(settings(str(tmp_path / source)))
    data = Path(folder(tmp_path / "photos"))
    (data / "3.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"1 of 6 .* broken.*3\.png"):
        task_from_settings(settings(str(data), broken="stop"))
    assert "1 of 6" in task_from_settings(settings(str(data))).notes[0]
    with pytest.raises(DataError, match="is not for images alone"):
        task_from_settings(settings("hf:photos"))
    with pytest.raises(UnknownName, match="psnr"):
        task_from_settings(settings(path, metric="miou"))
    with pytest.raises(DataError, match=r"super_resolution needs data\.source"):
        task_from_settings(dc.replace(settings("x"), source="embedded:fashion"))
