"""The depth of every pixel."""

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

from edakari.errors import DataError, UnknownName
from edakari.tasks import DataSettings, task_from_settings
from edakari.tasks.depth import DepthSettings
from tests.tasks.test_segment import Fixed


def scenes(count: int = 6, high: int = 10, wide: int = 14) -> tuple[Any, Any]:
    """Images whose red channel is ten times the depth in metres, and the depths in millimetres, 0 where unknown."""
    metres = np.random.default_rng(0).integers(1, 9, (count, high, wide))
    images = np.random.default_rng(1).integers(0, 256, (count, high, wide, 3), dtype=np.uint8)
    images[..., 0] = 20 * metres
    depth = metres * 1000
    depth[:, :2] = 0
    return images, depth


def npz(path: Path, depth: Any = None) -> str:
    images, own = scenes()
    np.savez(path, images=images, depth=own if depth is None else depth)
    return str(path)


def folder(path: Path, suffix: str = ".png") -> str:
    images, depth = scenes()
    for name in ("images", "depth"):
        (path / name).mkdir(parents=True)
    for number, (image, far) in enumerate(zip(images, depth, strict=True)):
        Image.fromarray(image).save(path / "images" / f"{number}.png")
        if suffix == ".npy":
            np.save(path / "depth" / f"{number}.npy", far.astype(np.float32))
        else:
            Image.fromarray(far.astype(np.uint16)).save(path / "depth" / f"{number}.png")
    return str(path)


OWN = """
import numpy as np
from tests.tasks.test_depth import scenes

class Rooms:
    def __len__(self):
        return 6

    def __getitem__(self, index):
        images, depth = scenes()
        far = np.where(depth[index] == 0, np.nan, depth[index].astype(np.float32))
        return images[index], far if index % 2 else {"depth": far}
"""


def own(path: Path) -> str:
    path.mkdir()
    (path / "rooms.py").write_text(OWN, encoding="utf-8")
    return f"{path}/rooms.py:Rooms"


def settings(source: str, options: DepthSettings | None = None, **more: Any) -> DataSettings:
    options = options or DepthSettings(scale=0.001, output="depth")
    return DataSettings(task=options, source=source, **{"workers": 0, "image_size": (10, 14), **more})


SOURCES = {
    "png": lambda path: folder(path / "png"),
    "npy": lambda path: folder(path / "npy", ".npy"),
    "named": lambda path: "depth:" + folder(path / "named"),
    "npz": lambda path: npz(path / "d.npz"),
    "own": lambda path: own(path / "own"),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("augment", ["none", "light"])
def test_depths_lie_upon_their_images_in_metres(tmp_path: Path, kind: str, augment: Any) -> None:
    task = task_from_settings(
        settings(SOURCES[kind](tmp_path), augment=augment, mean=(0.0,), std=(1.0,), batch_size=4, val_share=0.2)
    )
    assert len(task.data.source("val")) == 1
    for images, depth in task.batches("train"):
        assert images.shape[1:] == (3, 10, 14)
        assert depth.shape == (len(images), 10, 14)
        assert depth.dtype == torch.float32
        known = depth > 0
        assert torch.allclose(images[:, 0][known] * 255 / 20, depth[known])
        assert 0.5 < known.float().mean() <= 0.8


def test_what_is_zoomed_is_nearer(tmp_path: Path) -> None:
    flat = np.full((6, 10, 14), 6000)
    task = task_from_settings(settings(npz(tmp_path / "d.npz", flat), image_size=(80, 112)))
    found = torch.cat([depth.flatten(1) for _, depth in task.batches("train")])
    assert (found.amin(1) == found.amax(1)).all()
    assert found.amin() >= 6 / 1.5 - 1e-5
    assert found.amax() <= 6
    assert len(found[:, 0].unique()) > 2
    (_, depth), *_ = task.batches("val")
    assert torch.allclose(depth, torch.tensor(6.0))


def batch_of(depth: Any) -> tuple[torch.Tensor, torch.Tensor]:
    far = torch.as_tensor(depth, dtype=torch.float32)
    return torch.zeros(len(far), 3, *far.shape[1:]), far


def test_losses_and_metrics_by_hand(tmp_path: Path) -> None:
    path = npz(tmp_path / "d.npz")
    true = np.array([[[2.0, 4.0], [0.0, 9.0]], [[1.0, 2.0], [4.0, 0.0]], [[0.0, 0.0], [9.0, 0.0]]])
    said = np.array([[[3.0, 4.0], [7.0, 50.0]], [[1.1, 2.2], [4.0, 1.0]], [[1.0, 1.0], [9.0, 1.0]]])
    outputs, batch = torch.tensor(said, dtype=torch.float32), batch_of(true)
    pairs = [([2.0, 4.0], [3.0, 4.0]), ([1.0, 2.0, 4.0], [1.1, 2.2, 4.0])]
    for name in ("silog", "l1"):
        options = DepthSettings(loss=name, max_depth=8.0, output="depth", scale_invariance=0.85)
        task = task_from_settings(settings(path, options, metric="minus_rmse" if name == "l1" else None))
        apart = [np.log(p) - np.log(g) for g, p in pairs]
        silog = [np.mean(d**2) - 0.85 * np.mean(d) ** 2 for d in apart]
        wanted = silog if name == "silog" else [np.mean(np.abs(np.subtract(p, g))) for g, p in pairs]
        # nothing in the third image counts: 9 is above the largest depth
        assert float(task.loss(outputs, batch)[name]) == pytest.approx(np.mean(wanted), rel=1e-5)
        object.__setattr__(task.data, "batches", lambda split: [batch, batch_of(true[:1])])
        model = Fixed(outputs)
        model.forward = lambda images: outputs[: len(images)]  # type: ignore[method-assign]
        figures = task.evaluate(model)
        each = [
            (
                np.mean([max(a / b, b / a) < 1.25 for a, b in zip(g, p, strict=True)]),
                np.mean(np.abs(np.subtract(p, g)) / g),
                np.sqrt(np.mean(np.square(np.subtract(p, g)))),
            )
            for g, p in (*pairs, pairs[0])
        ]
        found = [figures[key] for key in ("delta1", "abs_rel", "rmse")]
        assert found == pytest.approx(np.mean(each, axis=0).tolist(), rel=1e-5)
        assert figures["loss"] == pytest.approx(np.mean([*wanted, wanted[0]]), rel=1e-5)
        assert set(figures) == {"delta1", "abs_rel", "rmse", "loss", task.metric}
        assert figures[task.metric] == (-figures["rmse"] if name == "l1" else figures["delta1"])
    nothing = batch_of(np.zeros((2, 2, 2)))
    assert float(task.loss(outputs[:2], nothing)["l1"]) == 0.0


@pytest.mark.parametrize("output", ["depth", "softplus", "log"])
def test_outputs_of_all_forms_become_depths(tmp_path: Path, output: Any) -> None:
    task = task_from_settings(settings(npz(tmp_path / "d.npz"), DepthSettings(output=output)))
    batch = next(iter(task.batches("calibration")))
    small = torch.randn(len(batch[0]), 1, 5, 7)
    sized = nn.functional.interpolate(small, (10, 14), mode="bilinear")[:, 0]
    wanted = {"depth": sized, "softplus": nn.functional.softplus(sized), "log": sized.exp()}[output]
    for given in (small, small[:, 0], {"out": small}, SimpleNamespace(predicted_depth=small[:, 0])):
        assert torch.equal(task.outputs(Fixed(given), batch), wanted)
    with pytest.raises(DataError, match=r"gives \[6, 2, 5, 7\] for a batch.* one number at every pixel"):
        task.outputs(Fixed(torch.zeros(6, 2, 5, 7)), batch)


def test_numbers_of_any_sign_learn_by_softplus(tmp_path: Path) -> None:
    options = DepthSettings(scale=0.001)
    task = task_from_settings(settings(npz(tmp_path / "d.npz"), options))
    batch = next(iter(task.batches("calibration")))
    raw = torch.full((len(batch[0]), 1, 10, 14), -3.0, requires_grad=True)
    task.loss(task.outputs(Fixed(raw), batch), batch)["silog"].backward()
    assert (raw.grad.squeeze(1)[batch[1] > 0] != 0).all()  # type: ignore[union-attr]


def test_bad_data_is_told(tmp_path: Path) -> None:
    cases = {
        "`depth` must be numbers": scenes()[1][:, 0],
        "no pixel has a depth above 0": np.full((6, 10, 14), np.nan),
        "found bool": np.ones((6, 10, 14), bool),
    }
    for number, (wanted, bad) in enumerate(cases.items()):
        with pytest.raises(DataError, match=wanted):
            task_from_settings(settings(npz(tmp_path / f"{number}.npz", bad)))
    with pytest.raises(DataError, match=r"has no images/ and depth/ in it; put depth maps"):
        task_from_settings(settings(str(tmp_path)))
    data = Path(folder(tmp_path / "data", ".npy"))
    np.save(data / "depth" / "3.npy", np.zeros((4, 4)))
    (data / "depth" / "4.npy").write_bytes(b"nothing")
    (data / "depth" / "5.npy").unlink()
    with pytest.raises(DataError, match=r"3 of 6 annotations are broken.*map: 2 .*another size than the image: 1"):
        task_from_settings(settings(str(data), broken="stop"))
    assert "3 of 6 annotations are broken and removed" in task_from_settings(settings(str(data))).notes[0]
    for source in ("coco:x", "folder:x", "cityscapes:x"):
        with pytest.raises(DataError, match=r"is not for images with depths; give a folder"):
            task_from_settings(settings(source))
    with pytest.raises(UnknownName, match="delta1"):
        task_from_settings(settings(npz(tmp_path / "t.npz"), metric="rmse"))
    with pytest.raises(DataError, match=r"depth needs data\.source"):
        task_from_settings(dc.replace(settings("x"), source="embedded:fashion"))
