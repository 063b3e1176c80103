"""The script that is exported beside a network prepares images as evaluation does, and answers as the module does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import edakari
from edakari.export import infer
from edakari.tasks.images import read_tensor
from edakari.tasks.map_placing import MapPlacing
from edakari.tasks.pixels import Pixels
from edakari.tasks.placing import Placing
from edakari.tasks.preprocessing import Preprocessing
from edakari.tasks.sources import embedded
from edakari.tasks.transforms import ImageCrop, evaluation_steps, evaluation_transform

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SIDES = [(37, 91), (91, 37), (80, 80), (21, 300), (333, 200), (224, 256)]


def picture(path: Path, sides: tuple[int, int], grey: bool) -> None:
    """Noise on a gradient: neighbouring pixels differ, so that another filter or crop shows."""
    random = np.random.default_rng(sides)
    coarse = Image.fromarray(random.integers(0, 256, (*(1 + side // 8 for side in sides), 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize(sides[::-1], Image.Resampling.BICUBIC)).astype(int)
    image = Image.fromarray((pixels + random.integers(-40, 40, pixels.shape)).clip(0, 255).astype(np.uint8))
    (image.convert("L") if grey else image).save(path, quality=92)


def levels(ours: Any, theirs: torch.Tensor, std: tuple[float, ...]) -> torch.Tensor:
    """Differences of two inputs, in levels of 8 bits."""
    assert ours.dtype == np.float32
    assert ours.shape == tuple(theirs.shape)
    scale = torch.tensor(std).view(1, -1, 1, 1) * 255
    return ((torch.from_numpy(ours) - theirs) * scale).abs()


def how(steps: Preprocessing, pixels: Pixels) -> dict[str, Any]:
    own = {"mean": list(pixels.mean), "std": list(pixels.std), "channels": pixels.channels}
    return json.loads(json.dumps({**own, **steps.plain()}))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (64, 48), (96, 96), (80, 112)])
def test_images_are_prepared_as_in_evaluation(
    tmp_path: Path, suffix: str, grey: bool, channels: int, size: Any
) -> None:
    for interpolation in ("bilinear", "bicubic"):
        crop = ImageCrop(interpolation=interpolation)  # type: ignore[arg-type]
        pixels = Pixels(size, channels, MEAN[:channels], STD[:channels])
        transform = evaluation_transform(pixels, crop)
        for sides in SIDES:
            path = tmp_path / f"image.{suffix}"
            picture(path, sides, grey)
            theirs = pixels.normalized(transform(read_tensor(path), np.zeros(0))[None])
            ours = infer.prepared(str(path), how(evaluation_steps(size, crop), pixels))
            found = levels(ours, theirs, pixels.std)
            # Pillow and torchvision round and clip between the directions, beyond which bicubic overshoots
            assert found.max() <= (1.01 if interpolation == "bilinear" else 8), (sides, interpolation)
            assert found.mean() <= 0.5, (sides, interpolation)


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("channels", [1, 3])
def test_annotated_images_are_prepared_as_in_evaluation(tmp_path: Path, resize: Any, channels: int) -> None:
    from torchvision import tv_tensors

    pixels = Pixels((75, 110), channels, MEAN[:channels], STD[:channels])
    maps = MapPlacing(pixels.size, "", 0, resize, channels)
    for placing in (maps, Placing(pixels.size, resize)) if channels == 3 else (maps,):
        for sides in SIDES:
            picture(tmp_path / "image.png", sides, grey=False)
            image = tv_tensors.Image(read_tensor(tmp_path / "image.png"))
            target = {"boxes": torch.zeros(0, 4)} if isinstance(placing, Placing) else {}
            theirs = pixels.normalized(placing("none")(image, target)[0][None])
            ours = infer.prepared(str(tmp_path / "image.png"), how(placing.preprocessing, pixels))
            assert levels(ours, theirs, pixels.std).max() <= 1.01, (sides, resize)


def test_images_in_memory_are_stretched_as_in_evaluation(tmp_path: Path) -> None:
    for channels in (1, 3):
        pixels = Pixels((40, 24), channels, MEAN[:channels], STD[:channels])
        picture(tmp_path / "image.png", (33, 50), grey=False)
        theirs = pixels(torch.from_numpy(np.array(Image.open(tmp_path / "image.png")))[None])
        steps = Preprocessing("stretch", pixels.size, pixels.size, grey="mean")
        assert levels(infer.prepared(str(tmp_path / "image.png"), how(steps, pixels)), theirs, pixels.std).max() <= 1.01


def test_what_it_cannot_prepare_is_told(tmp_path: Path) -> None:
    picture(tmp_path / "image.png", (9, 9), grey=False)
    with pytest.raises(SystemExit, match=r"image\.png: model\.json does not say how to prepare images"):
        infer.prepared(str(tmp_path / "image.png"), {"mean": [0.5]})
    Image.fromarray(np.full((9, 9), 999, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(SystemExit, match="more than 8 bits"):
        infer.prepared(str(tmp_path / "deep.png"), how(evaluation_steps((32, 32)), Pixels((32, 32), 1, (0.5,), (1.0,))))


def test_answers_of_several_classes_and_of_numbers() -> None:
    about = {"answers": "classes", "classes": ["cat", "dog", "cow"]}
    found = infer.answered({"logits": np.array([[2.0, -3.0, 0.5]], np.float32)}, about)
    assert found == {"cat": 0.8808, "cow": 0.6225}
    assert infer.answered({"depths": np.array([[1.0, 3.0]])}, {"answers": "depth"}) == {"depths": [[1, 2], 1.0, 3.0]}


def test_the_exported_folder_alone_answers_as_the_module_does(tmp_path: Path) -> None:
    images = embedded("fashion", "test").take(np.arange(100))
    np.savez(tmp_path / "some.npz", images=images.images, labels=images.labels, class_names=np.array(images.classes))
    data = {"train": [str(tmp_path / "some.npz")], "val": str(tmp_path / "some.npz"), "workers": 0}
    recipe = {
        "model": {"name": "edakari:fashion_cnn", "weights": "pretrained"},
        "data": {**data, "mean": [0.286], "std": [0.353]},
        "method": "magnitude",
        "budget": "macs<=60%",
        "export": ["onnx"],
        "device": "cpu",
    }
    result = edakari.run(recipe, tmp_path / "run")
    shutil.copytree(tmp_path / "run" / "export", tmp_path / "alone")
    assert {path.name for path in (tmp_path / "alone").iterdir()} == {
        "dense.onnx", "pruned.onnx", "model.json", "infer.py",
    }  # fmt: skip
    paths = [tmp_path / f"{index:03d}.png" for index in range(100)]
    for index, path in enumerate(paths):
        Image.fromarray(images.images[index][:, :, 0]).save(path)
    command = [sys.executable, "-I", "infer.py", *map(str, paths)]
    ran = subprocess.run(command, cwd=tmp_path / "alone", capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    answers = [next(iter(json.loads(line).values())) for line in ran.stdout.splitlines()]
    with torch.no_grad():
        pixels = Pixels((28, 28), 1, (0.286,), (0.353,))
        logits = result.model(pixels(torch.from_numpy(images.images)))
    assert [next(iter(each)) for each in answers] == [images.classes[int(label)] for label in logits.argmax(1)]
    best = logits.softmax(1).max(1).values
    assert torch.allclose(torch.tensor([max(each.values()) for each in answers]), best, atol=2e-4)
    _says_what_it_is(json.loads((tmp_path / "alone" / "model.json").read_text(encoding="utf-8")), result, tmp_path)


def _says_what_it_is(about: dict[str, Any], result: Any, folder: Path) -> None:
    from edakari.export.onnx_model import open_onnx

    assert about["plan"] == result.plan.digest()
    assert about["edakari"] == edakari.__version__
    assert (about["task"], about["answers"], len(about["classes"])) == ("Classification", "class", 10)
    assert about["preprocessing"]["size"] == [28, 28]
    assert about["metrics"] == result.report["networks"][-1]["metrics"]
    assert about["costs"]["macs"] == result.costs["macs"]
    files = {each["path"]: each for each in about["files"]}
    assert files["pruned.onnx"]["inputs"][0]["name"] == "images"
    assert files["pruned.onnx"]["outputs"] == [{"name": "logits", "shape": [1, 10], "type": "tensor(float)"}]
    assert files["pruned.onnx"]["opset"] >= 18
    told = open_onnx(folder / "alone" / "pruned.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == about["classes"]
    assert json.loads(told["preprocessing"]) == about["preprocessing"]
    assert json.loads(told["metrics"]) == about["metrics"]
    assert told["plan"] == about["plan"]
    dense = open_onnx(folder / "alone" / "dense.onnx").get_modelmeta().custom_metadata_map
    assert (dense["plan"], json.loads(dense["metrics"])) == ("", result.report["networks"][0]["metrics"])
